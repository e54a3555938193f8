//! What a run leaves for `scx_vmfirst status`: who runs, and why the last one ended.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vmfirst_host::read::Root;

use crate::Error;

const FOLDER: &str = "run/scx_vmfirst";
/// Who runs: locked as long as that is so, also through its own death.
const RUNNING: &str = "run/scx_vmfirst/running";
const ENDED: &str = "run/scx_vmfirst/ended";

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The process.
    pub pid: u32,
    /// When it began, in s since 1970.
    pub since: u64,
    /// The kernel's release.
    pub kernel: String,
    /// vm-first or fair.
    pub mode: String,
    /// What does not work on this kernel.
    pub lost: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The process that it was.
    pub pid: u32,
    /// When, in s since 1970.
    pub at: u64,
    /// Why.
    pub why: String,
}

/// What is known of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The one that runs.
    pub running: Option<Run>,
    /// How the last one ended.
    pub ended: Option<End>,
}

/// The right to be the one that runs.
#[derive(Debug)]
pub struct Record {
    root: Root,
    file: File,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Record {
    /// Takes it; fails where another one has it.
    pub fn take(root: &Root) -> Result<Self, Error> {
        let folder = root.path(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = root.path(RUNNING);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = running(root).map_or_else(String::new, |run| format!(" ({})", run.pid));
                return Err(Error::Unavailable(format!(
                    "another scx_vmfirst runs{pid}: stop it first"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        let record = Self {
            root: root.clone(),
            file,
        };
        // A run that was killed could not say so itself.
        if let Some(run) = running(root) {
            record.end(run.pid, "it was killed, or the machine went down")?;
        }
        Ok(record)
    }

    /// Says that it runs.
    pub fn begin(&mut self, run: &Run) -> Result<(), Error> {
        let path = self.root.path(RUNNING);
        self.file
            .set_len(0)
            .and_then(|()| write!(self.file, "{}", json(run)))
            .map_err(Error::io("write", &path))
    }

    /// Says how it ended.
    pub fn end(&self, pid: u32, why: &str) -> Result<(), Error> {
        let end = End {
            pid,
            at: now(),
            why: why.into(),
        };
        let path = self.root.path(ENDED);
        fs::write(&path, json(&end)).map_err(Error::io("write", &path))?;
        self.file
            .set_len(0)
            .map_err(Error::io("write", &self.root.path(RUNNING)))
    }
}

fn json(value: &impl Serialize) -> String {
    // Texts and numbers can't fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn parsed<T: for<'a> Deserialize<'a>>(root: &Root, path: &str) -> Option<T> {
    serde_json::from_str(&root.text(path).ok()?).ok()
}

fn running(root: &Root) -> Option<Run> {
    parsed(root, RUNNING)
}

/// Who runs, and how the last one ended.
pub fn status(root: &Root) -> Status {
    let run = running(root);
    let file = File::open(root.path(RUNNING));
    let is_locked =
        file.is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)));
    let ended = parsed(root, ENDED);
    match (is_locked, run) {
        (true, running) => Status { running, ended },
        (false, Some(killed)) => Status {
            running: None,
            ended: Some(End {
                pid: killed.pid,
                at: killed.since,
                why: "it was killed; when is not known, it began then".into(),
            }),
        },
        (false, None) => Status {
            running: None,
            ended,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pid: u32) -> Run {
        Run {
            pid,
            since: 7,
            kernel: "7.3".into(),
            mode: "fair".into(),
            lost: Vec::new(),
        }
    }

    #[test]
    fn who_runs_and_why_the_last_one_ended_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        assert_eq!(status(&root), Status::default());
        let mut record = Record::take(&root).unwrap();
        assert_eq!(status(&root), Status::default(), "it has not begun");
        record.begin(&run(5)).unwrap();
        assert_eq!(status(&root).running, Some(run(5)));
        let second = Record::take(&root).unwrap_err().to_string();
        assert!(second.contains("(5)"), "{second}");
        record.end(5, "stalled").unwrap();
        drop(record);
        let Status { running, ended } = status(&root);
        assert_eq!(running, None);
        assert_eq!(ended.unwrap().why, "stalled");
    }

    #[test]
    fn one_that_was_killed_is_told_from_one_that_ended() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let mut record = Record::take(&root).unwrap();
        record.begin(&run(6)).unwrap();
        drop(record);
        let ended = status(&root).ended.unwrap();
        assert!(
            (ended.pid, ended.why.contains("killed")) == (6, true),
            "{ended:?}"
        );
        // And the next one keeps that.
        drop(Record::take(&root).unwrap());
        assert_eq!(status(&root).ended.unwrap().pid, 6);
    }
}
