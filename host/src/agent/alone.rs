//! A program of which a host has one at a time, and what that one tells of itself.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};

use crate::read::Root;
use crate::{Error, Result};

/// What is said to who lacks the right.
const RIGHT: &str = "; it takes root";

/// The files of such a program.
#[derive(Debug, Clone, Copy)]
pub struct Alone {
    /// The command, as "vmfirst agent".
    pub command: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Held while it runs, below the host's root.
    pub lock: &'static str,
    /// What `--status` reads, below the host's root.
    pub status: &'static str,
}

impl Alone {
    /// The only one of a host: another one finds the lock held, and this one is the last to
    /// forget it.
    pub fn lock(&self, root: &Root) -> Result<File> {
        let path = root.path(self.lock);
        let refused =
            |source: io::Error| Error::refused("write", format!("/{}", self.lock), source, RIGHT);
        std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(refused)?;
        let file = File::create(&path).map_err(refused)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Unavailable(format!(
                "{} runs already: systemctl reload {} has it read its configuration anew",
                self.command, self.unit
            ))),
            Err(error) => Err(refused(error.into())),
        }
    }

    /// What the one that runs has told, as it wrote it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none runs.
    pub fn status(&self, root: &Root) -> Result<serde_json::Value> {
        let none = || {
            Error::Unavailable(format!(
                "{} doesn't run: systemctl start {}",
                self.command, self.unit
            ))
        };
        let text = root
            .text(self.status)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => none(),
                _ => Error::refused("read", format!("/{}", self.status), source, RIGHT),
            })?;
        let status: serde_json::Value = serde_json::from_str(&text).map_err(|_| none())?;
        // A killed one leaves its file and no process that has the lock.
        let held = File::open(root.path(self.lock)).map_err(|_| none())?;
        match flock(&held, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Err(none()),
            Err(_) => Ok(status),
        }
    }
}
