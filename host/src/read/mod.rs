//! Readers: what the kernel's files say, without an opinion on what it is for.
//!
//! All paths are below a [`Root`], so that everything here, and the model over it, is
//! tested on recorded trees. The formats of /proc are parsed by `procfs-core`, which takes
//! any reader; control groups' files are single values and flat keys, for which no crate
//! is needed (`cgroups-rs` and `libcgroups` bring managers and policy, and don't read
//! back what they wrote).

mod cgroup;
mod host;
mod kvm;
mod proc;
mod stats;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use cgroup::{Hierarchy, Limits, Pressure, Throttling};
pub use host::{CpuTimes, Topology, uptime};
pub use kvm::{Counted, Counts, HITS, KVM_COUNTERS, KvmMeter, KvmVm};
pub use proc::{Groups, Meter, Times};
pub use stats::StatsFile;

/// Where a host's files are: "/", or a recorded tree.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self("/".into())
    }
}

impl Root {
    /// A tree that has proc, sys and run as a host has.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Whether the files are the running kernel's.
    fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a file of the host is; `path` is as on the host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A file's text without the line's end; bytes that are no UTF-8 are replaced.
    pub fn text(&self, path: &str) -> io::Result<String> {
        text(&self.path(path))
    }

    /// The names in a folder that are numbers, in order.
    fn numbers(&self, path: &str) -> io::Result<Vec<i32>> {
        let mut numbers: Vec<i32> = fs::read_dir(self.path(path))?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// A small file that is read again and again: it stays open, and is read from its beginning.
#[derive(Debug)]
pub struct Kept(File);

impl Kept {
    fn new(file: File) -> Self {
        Self(file)
    }

    /// What `parse` makes of the text now, which has at most `MOST` bytes.
    fn read<T, const MOST: usize>(&self, parse: impl FnOnce(&str) -> T) -> io::Result<T> {
        let mut bytes = [0; MOST];
        let length = self.0.read_at(&mut bytes, 0)?;
        let text = std::str::from_utf8(&bytes[..length]);
        Ok(parse(text.map_err(|_| io::ErrorKind::InvalidData)?))
    }
}

/// Lets this process have as many files open as its hard limit says: each [`Meter`] is one,
/// and the usual soft limit of 1024 is for programs that use select(2).
pub fn allow_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it may not, threads beyond the limit are left out as those that have ended.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\n').to_string())
}

fn proc_error(error: procfs_core::ProcError) -> io::Error {
    match error {
        procfs_core::ProcError::Io(error, _) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
