//! What the process may use at most from now on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FileType, fstat};
use rustix::io::dup;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Error, Result};

/// Descriptors that a machine may open while it runs: streams of a vsock, clients.
const DESCRIPTORS: u64 = 512;

/// No core dump, which would have the guest's memory in it; few more descriptors than are
/// open, whose number is that of the first that is free; no file longer than `longest` bytes, the
/// longest that the machine writes.
pub fn set(longest: u64) -> Result<()> {
    let free = dup(std::io::stdin()).map_err(Error::system("count open files"))?;
    let open = u64::from(free.as_raw_fd().unsigned_abs());
    let mut limits = vec![(Resource::Core, 0), (Resource::Nofile, open + DESCRIPTORS)];
    // A file that these are redirected to has no limit that vmm knows of.
    let (output, errors) = (std::io::stdout(), std::io::stderr());
    if ![output.as_fd(), errors.as_fd()].into_iter().any(is_file) {
        // SAFETY: what the signal did was to end the process; a write fails now instead.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        limits.push((Resource::Fsize, longest));
    }
    for (resource, limit) in limits {
        let before = getrlimit(resource);
        let limit = before.maximum.map_or(limit, |most| most.min(limit));
        let both = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, both).map_err(Error::system("limit what the process may use"))?;
    }
    Ok(())
}

fn is_file(fd: BorrowedFd) -> bool {
    fstat(fd).is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::RegularFile)
}
