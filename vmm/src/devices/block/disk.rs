//! A disk's image on the host.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;

use crate::config::DiskArg;
use crate::{Error, Result};

/// Size of a disk's sector in bytes.
pub const SECTOR: u64 = 512;

/// A disk image that is open and locked.
#[derive(Debug)]
pub struct Disk {
    /// Its place among the machine's disks, from 0.
    pub index: usize,
    /// The image. Its lock ends with it.
    pub file: File,
    /// Its size in sectors.
    pub sectors: u64,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

impl Disk {
    /// Opens and locks an image: a writable one for this machine alone.
    pub fn open(index: usize, arg: &DiskArg) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(!arg.read_only)
            .open(&arg.path)
            .map_err(Error::file("open", "disk", &arg.path))?;
        let locked = if arg.read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => Error::Busy(format!(
                "disk {} is in use by another machine; stop that one, or give both \",ro\"",
                arg.path.display()
            )),
            TryLockError::Error(source) => Error::file("lock", "disk", &arg.path)(source),
        })?;
        let kind = file
            .metadata()
            .map_err(Error::file("look at", "disk", &arg.path))?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::Usage(format!(
                "disk {} is neither a file nor a block device",
                arg.path.display()
            )));
        }
        // A block device tells its size only so.
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(Error::file("look at", "disk", &arg.path))?;
        if bytes == 0 || bytes % SECTOR != 0 {
            return Err(Error::Usage(format!(
                "disk {} has {bytes} bytes: a raw image is a multiple of {SECTOR}",
                arg.path.display()
            )));
        }
        Ok(Self {
            index,
            file,
            sectors: bytes / SECTOR,
            read_only: arg.read_only,
        })
    }
}
