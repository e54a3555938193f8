//! Why a machine ended, and how the shell is told.

use std::process::ExitCode;

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
    pub fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::PowerOff => 0,
            Self::Reboot => 3,
            Self::Crash => 4,
            Self::Panic => 5,
            Self::Stopped => 6,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        })
    }
}
