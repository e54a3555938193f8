//! Changes to the host that are always taken back: when the cell ends, and after a
//! crash by the next start, from a journal.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dense_record::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// How long a group may take to become empty after its tasks were killed.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// How a change is taken back. The journal has one a line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Undo {
    /// Write the text to the file.
    Write { path: PathBuf, text: String },
    /// Remove a folder of the kernel's; what is in a control group is killed.
    RemoveFolder { path: PathBuf },
}

/// All changes to the host; dropped, they are taken back, the last first.
#[derive(Debug)]
pub struct Changes {
    journal: File,
    path: PathBuf,
    undo: Vec<Undo>,
}

impl Changes {
    /// Takes back what a crashed run left, and begins anew. `folder` holds the
    /// journal: one a host, on a file system that does not outlive its boot.
    pub fn begin(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let path = folder.join("journal");
        let journal = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        flock(&journal, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::Invalid(format!(
                "another dense-bench measures on this host ({} is locked): wait for its end",
                path.display()
            ))
        })?;
        let mut changes = Self {
            journal,
            path,
            undo: Vec::new(),
        };
        changes.recover()?;
        Ok(changes)
    }

    /// Writes to a knob of the kernel's.
    pub fn set(&mut self, path: &Path, value: &str) -> Result<()> {
        let before = fs::read_to_string(path).map_err(Error::io("read", path))?;
        self.write(path, value, chosen(before.trim(), value))
    }

    /// Writes `text`; `back` takes it back.
    pub fn write(&mut self, path: &Path, text: &str, back: &str) -> Result<()> {
        self.note(Undo::Write {
            path: path.into(),
            text: back.into(),
        })?;
        fs::write(path, text).map_err(Error::io("set", path))
    }

    /// Makes a folder in one of the kernel's file systems, such as a control group.
    pub fn make_folder(&mut self, path: &Path) -> Result<()> {
        self.note(Undo::RemoveFolder { path: path.into() })?;
        fs::create_dir(path).map_err(Error::io("create", path))
    }

    /// Keeps how to take a change back, before it is made.
    fn note(&mut self, undo: Undo) -> Result<()> {
        let line = serde_json::to_string(&undo).map_err(|e| Error::Invalid(e.to_string()))?;
        self.journal
            .write_all(format!("{line}\n").as_bytes())
            .map_err(Error::io("write", &self.path))?;
        self.undo.push(undo);
        Ok(())
    }

    /// Takes back what is in the journal. A last line that was cut short is of a
    /// change that was not made yet.
    fn recover(&mut self) -> Result<()> {
        let mut text = String::new();
        self.journal
            .read_to_string(&mut text)
            .map_err(Error::io("read", &self.path))?;
        let left: Vec<Undo> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if !left.is_empty() {
            eprintln!("dense-bench: a run was cut short; taking back what it changed");
        }
        self.undo = left;
        self.take_back();
        Ok(())
    }

    fn take_back(&mut self) {
        for undo in self.undo.drain(..).rev() {
            let (done, path) = match &undo {
                Undo::Write { path, text } => (fs::write(path, text), path),
                Undo::RemoveFolder { path } => (remove_folder(path), path),
            };
            // A kernel that was booted anew has its own values and no groups.
            if let Err(error) = done
                && error.kind() != ErrorKind::NotFound
            {
                eprintln!("dense-bench: cannot restore {}: {error}", path.display());
            }
        }
        let emptied = self.journal.set_len(0);
        if let Err(error) = emptied.and_then(|()| self.journal.rewind()) {
            eprintln!("dense-bench: cannot empty {}: {error}", self.path.display());
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// The value to write again: of a file that lists all and marks the chosen one,
/// as `off [on]` or `none (voluntary) full`, that one; of a file of switches, each by its
/// name or with `NO_` before it, that of the `value`.
fn chosen<'a>(text: &'a str, value: &str) -> &'a str {
    let marked = |(open, close)| Some(text.split_once(open)?.1.split_once(close)?.0);
    let name = |word: &'a str| word.strip_prefix("NO_").unwrap_or(word);
    let wanted = value.strip_prefix("NO_").unwrap_or(value);
    let found = [('[', ']'), ('(', ')')].into_iter().find_map(marked);
    found
        .or_else(|| text.split_whitespace().find(|word| name(word) == wanted))
        .unwrap_or(text)
}

fn remove_folder(path: &Path) -> std::io::Result<()> {
    // A threaded group has no such file: its parent's does it.
    let _ = OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.kill"))
        .and_then(|mut kill| kill.write_all(b"1"));
    let deadline = Instant::now() + GRACE;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(LOOK);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_taken_back_in_reverse() {
        let folder = tempfile::tempdir().unwrap();
        let (knob, group) = (folder.path().join("knob"), folder.path().join("group"));
        fs::write(&knob, "off [penalty] transfer\n").unwrap();
        let mut changes = Changes::begin(folder.path()).unwrap();
        changes.set(&knob, "transfer").unwrap();
        changes.set(&knob, "off").unwrap();
        changes.make_folder(&group).unwrap();
        assert!(group.exists());
        assert_eq!(fs::read_to_string(&knob).unwrap(), "off");
        drop(changes);
        assert!(!group.exists());
        assert_eq!(fs::read_to_string(&knob).unwrap(), "penalty");
        let journal = fs::read_to_string(folder.path().join("journal")).unwrap();
        assert_eq!(journal, "");
    }

    #[test]
    fn what_a_crash_left_is_taken_back_by_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let (knob, group) = (folder.path().join("knob"), folder.path().join("group"));
        fs::write(&knob, "before").unwrap();
        let mut changes = Changes::begin(folder.path()).unwrap();
        changes.set(&knob, "after").unwrap();
        changes.make_folder(&group).unwrap();
        // As a crash does: nothing is dropped, and a line is cut short.
        let journal = folder.path().join("journal");
        let mut text = fs::read_to_string(&journal).unwrap();
        changes.undo.clear();
        drop(changes);
        text += "{\"write\":{\"pa";
        fs::write(&journal, text).unwrap();
        assert_eq!(fs::read_to_string(&knob).unwrap(), "after");

        drop(Changes::begin(folder.path()).unwrap());
        assert_eq!(fs::read_to_string(&knob).unwrap(), "before");
        assert!(!group.exists());
    }

    #[test]
    fn a_file_that_lists_all_is_set_back_to_the_chosen_one() {
        assert_eq!(chosen("off [on]", "off"), "on");
        assert_eq!(chosen("none (voluntary) full", "full"), "voluntary");
        assert_eq!(chosen("4000000", "1000000"), "4000000");
        let features = "PLACE_LAG NO_RUN_TO_PARITY DIRECTED_YIELD";
        assert_eq!(chosen(features, "NO_DIRECTED_YIELD"), "DIRECTED_YIELD");
        assert_eq!(chosen(features, "RUN_TO_PARITY"), "NO_RUN_TO_PARITY");
    }

    #[test]
    fn two_at_a_time_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Changes::begin(folder.path()).unwrap();
        let error = Changes::begin(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another dense-bench"), "{error}");
    }

    #[test]
    fn a_knob_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut changes = Changes::begin(folder.path()).unwrap();
        let error = changes.set(Path::new("/sys/nowhere"), "1").unwrap_err();
        assert!(error.to_string().contains("/sys/nowhere"), "{error}");
    }
}
