//! A bounded ring of JSON lines on disk: two files, of which the older one goes when the newer
//! one is half of all that is allowed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The ring at a path; the older half is beside it, with ".1" behind its name.
#[derive(Debug)]
pub struct Ring {
    path: PathBuf,
    half: u64,
    next: u64,
    lost: u64,
}

/// What each line has beside its own.
#[derive(Serialize)]
struct Line<'a, T> {
    /// Counts lines since this process began; those that were lost count.
    seq: u64,
    /// How many were lost since this process began.
    lost: u64,
    /// Time by the clock that people set, in ms since 1970.
    unix_ms: u64,
    /// Time since the host's start, in ms: no clock jump moves it.
    uptime_ms: u64,
    #[serde(flatten)]
    what: &'a T,
}

impl Ring {
    /// For a file, and at most so many bytes together with the older one.
    pub fn new(path: PathBuf, most: u64) -> Self {
        Self {
            path,
            half: most / 2,
            next: 0,
            lost: 0,
        }
    }

    /// How many lines could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Appends a line. When it can't be written it is counted as lost, which the next line
    /// tells, and nothing of it stays in the file.
    pub fn add<T: Serialize>(&mut self, what: &T) {
        let line = Line {
            seq: self.next,
            lost: self.lost,
            unix_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH)),
            uptime_ms: u64::try_from(crate::read::uptime().as_millis()).unwrap_or(u64::MAX),
            what,
        };
        self.next += 1;
        let text = serde_json::to_string(&line).map_err(io::Error::from);
        if text.and_then(|text| self.append(&(text + "\n"))).is_err() {
            self.lost += 1;
        }
    }

    fn append(&self, text: &str) -> io::Result<()> {
        let mut file = self.open()?;
        let mut length = file.metadata()?.len();
        if length > 0 && length + text.len() as u64 > self.half {
            fs::rename(&self.path, older(&self.path))?;
            file = self.open()?;
            length = 0;
        }
        let written = file.write_all(text.as_bytes());
        if written.is_err() {
            // A full disk may have taken a part of it.
            file.set_len(length)?;
        }
        written
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.path)
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn millis<E>(since: Result<std::time::Duration, E>) -> u64 {
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    #[test]
    fn the_oldest_lines_go_and_the_size_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log/ring");
        let mut ring = Ring::new(path.clone(), 4096);
        for n in 0..200 {
            ring.add(&json!({ "n": n }));
        }
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&path) + size(&older(&path)) <= 4096);
        let all: Vec<_> = [lines(&older(&path)), lines(&path)].concat();
        assert!(all.len() > 20, "{}", all.len());
        let numbers: Vec<u64> = all.iter().map(|l| l["n"].as_u64().unwrap()).collect();
        assert!(numbers.windows(2).all(|w| w[0] + 1 == w[1]), "{numbers:?}");
        assert_eq!(numbers.last(), Some(&199));
        assert_eq!(all.last().unwrap()["lost"], 0);
    }

    /// A file system without space: the line is lost whole, counted, and the next one tells.
    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("ring");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut ring = Ring::new(path.clone(), 4096);
        ring.add(&json!({ "n": 0 }));
        ring.add(&json!({ "n": 1 }));
        assert_eq!(ring.lost(), 2);
        fs::remove_file(&path).unwrap();
        ring.add(&json!({ "n": 2 }));
        let all = lines(&path);
        assert_eq!(all.len(), 1);
        assert_eq!((&all[0]["seq"], &all[0]["lost"]), (&json!(2), &json!(2)));
    }
}
