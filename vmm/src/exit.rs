//! Why a machine ended, and how the shell is told.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::brake::Brake;
use crate::{Error, Result};

/// Why a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// The guest cannot go on: triple fault, or something that KVM can't run.
    Crash,
    /// The guest's kernel said through pvpanic that it panicked.
    Panic,
    /// This signal ended the machine: the guest did not power off in time, or was not asked.
    Signal(i32),
    /// The API ended the machine in the same way.
    Stopped,
}

impl End {
    /// The exit status for it: 0, 3, 4, 5, 6 or 128 plus the signal's number.
    pub fn status(self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Reboot => 3,
            Self::Crash => 4,
            Self::Panic => 5,
            Self::Stopped => 6,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// The same, for the end of `main`.
    pub fn code(self) -> ExitCode {
        ExitCode::from(self.status())
    }
}

/// Where everybody says, and asks, that the machine has ended. The first word counts.
#[derive(Clone)]
pub struct Ender {
    end: Arc<Mutex<Option<End>>>,
    event: Arc<EventFd>,
    brake: Brake,
}

impl Ender {
    /// For a machine that runs.
    pub fn new() -> Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::system("create an event"))?;
        Ok(Self {
            end: Arc::default(),
            event: Arc::new(event),
            brake: Brake::default(),
        })
    }

    /// Ends the machine.
    pub fn end(&self, end: End) {
        self.lock().get_or_insert(end);
        self.brake.end();
        // Fails only when 2^64 - 1 of them wait already.
        let _ = self.event.write(1);
    }

    /// Why it ended; none while it runs.
    pub fn ended(&self) -> Option<End> {
        *self.lock()
    }

    /// What devices heed, on from the end on.
    pub fn brake(&self) -> &Brake {
        &self.brake
    }

    /// Readable from the end on, for ever.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    fn lock(&self) -> MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
