//! The terminal, if standard input is one: as before when the machine ends, and when this
//! program does by a fault.

use std::io::stdin;
use std::mem::zeroed;
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr,
};

use crate::{Error, Result};

/// What ends a process that has a fault. Nothing can be done about SIGKILL.
const FAULTS: [libc::c_int; 7] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
];

/// What fails.
const SET_UP: &str = "set up the terminal";

/// The terminal as it was, for a signal's handler; and whether it is another now.
static BEFORE: OnceLock<Termios> = OnceLock::new();
static RAW: AtomicBool = AtomicBool::new(false);

/// A terminal that passes every key on; as it was before when this is dropped.
pub struct RawTerminal(());

impl RawTerminal {
    /// Of standard input, unless that is something else.
    pub fn new() -> Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let fail = Error::system(SET_UP);
        let before = tcgetattr(stdin()).map_err(fail)?;
        let before = BEFORE.get_or_init(|| before);
        let mut raw = before.clone();
        raw.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::IXON;
        watch_faults().map_err(Error::system(SET_UP))?;
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(fail)?;
        RAW.store(true, Ordering::SeqCst);
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was, if it is another. A signal's handler may call it.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some(before) = BEFORE.get()
    {
        // SAFETY: standard input stays open as long as the process is there.
        let stdin = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
        let _ = tcsetattr(stdin, OptionalActions::Now, before);
    }
}

/// Has faults restore the terminal before they end the process.
fn watch_faults() -> std::io::Result<()> {
    for signal in FAULTS {
        // SAFETY: zeros are an action without a handler and without signals to block.
        let mut action: libc::sigaction = unsafe { zeroed() };
        action.sa_sigaction = on_fault as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER | libc::SA_ONSTACK;
        // SAFETY: the handler does what a handler may, and stays as long as the process.
        if unsafe { libc::sigaction(signal, &raw const action, null_mut()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn on_fault(signal: libc::c_int) {
    restore();
    // SAFETY: a call without memory. The handler is off: this time it is the end.
    unsafe { libc::raise(signal) };
}
