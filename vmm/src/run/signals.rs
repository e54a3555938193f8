//! The signals that a machine heeds, whatever state its starter left them in.

use std::mem::MaybeUninit;
use std::ptr::null;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::{Error, Result};

/// What a user ends a machine by.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Has signals arrive as this program counts on it; returns those of the user's that are to
/// be heeded. To be called before other threads are started.
pub fn prepare() -> Result<Vec<i32>> {
    const WATCH: &str = "watch signals";
    register_signal_handler(SIGRTMIN(), kicked).map_err(Error::system(WATCH))?;
    // Whoever started this may have blocked them.
    for signal in ENDING.into_iter().chain([SIGRTMIN()]) {
        unblock_signal(signal)
            .map_err(|error| std::io::Error::other(format!("{error:?}")))
            .map_err(Error::system(WATCH))?;
    }
    // A file that would become larger than RLIMIT_FSIZE is an error of its write, no end.
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(ENDING
        .into_iter()
        .filter(|&signal| !ignored(signal))
        .collect())
}

/// Whether the starter has the signal ignored, as nohup does, or a shell's "&".
fn ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the kernel writes the present one, and no more.
    unsafe {
        libc::sigaction(signal, null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// The signal's only work is to bring a vCPU's thread out of the guest.
extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
