//! A disk's image on the host.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::lock;
use crate::config::DiskArg;
use crate::{Error, Result};

/// Size of a disk's sector in bytes.
pub const SECTOR: u64 = 512;
/// Bytes of a disk's name: VIRTIO_BLK_ID_BYTES.
const ID_SIZE: usize = 20;
/// What direct transfers are aligned to where the kernel doesn't say: no disk needs more.
const DIRECT_BLOCK: u32 = 4096;

/// A disk image that is open and locked.
#[derive(Debug)]
pub struct Disk {
    /// The name that the guest reads, filled up with zeros.
    pub id: [u8; ID_SIZE],
    /// The image. Its lock ends with it.
    pub file: File,
    /// Its size in sectors.
    pub sectors: u64,
    /// Bytes of a block, of which each transfer is a multiple.
    pub block: u32,
    /// Whether the guest may not write to it.
    pub read_only: bool,
    /// Whether the guest may give blocks back.
    pub discard: bool,
}

impl Disk {
    /// Opens and locks an image: a writable one for this machine alone.
    pub fn open(index: usize, arg: &DiskArg) -> Result<Self> {
        let disk = Self::look(index, arg)?;
        let locked = if disk.read_only {
            disk.file.try_lock_shared()
        } else {
            disk.file.try_lock()
        };
        let free = match locked {
            // Another program's locks are of another kind.
            Ok(()) => lock::take(&disk.file, disk.read_only),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        };
        match free {
            Ok(true) => Ok(disk),
            Ok(false) => Err(Error::Busy(format!(
                "disk {} is in use by another machine; stop that one, or give both \",ro\"",
                arg.path.display()
            ))),
            Err(error) => Err(Error::file("lock", "disk", &arg.path)(error)),
        }
    }

    /// Sees that an image can be a disk, and leaves it to whoever has it.
    pub fn look(index: usize, arg: &DiskArg) -> Result<Self> {
        let fail = |action| Error::file(action, "disk", &arg.path);
        let direct = if arg.direct.0 { libc::O_DIRECT } else { 0 };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!arg.ro.0)
            // Nobody waits for the other end of a pipe.
            .custom_flags(libc::O_NONBLOCK | direct)
            .open(&arg.path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) if arg.direct.0 => no_direct(arg),
                _ => fail("open")(error),
            })?;
        let kind = file.metadata().map_err(fail("look at"))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::Usage(format!(
                "disk {} is neither a file nor a block device",
                arg.path.display()
            )));
        }
        let block = match arg.direct.0 {
            true => direct_block(&file).ok_or_else(|| no_direct(arg))?,
            false => SECTOR as u32,
        };
        // A block device tells its size only so.
        let bytes = file.seek(SeekFrom::End(0)).map_err(fail("look at"))?;
        if bytes == 0 || bytes % u64::from(block) != 0 {
            return Err(Error::Usage(format!(
                "disk {} has {bytes} bytes: a raw image is a multiple of {block}",
                arg.path.display()
            )));
        }
        let mut id = [0; ID_SIZE];
        let name = arg.id.as_ref().map(ToString::to_string);
        let name = name.unwrap_or_else(|| format!("vmfirst-{index}"));
        id.iter_mut()
            .zip(name.bytes())
            .for_each(|(to, from)| *to = from);
        Ok(Self {
            id,
            file,
            sectors: bytes / SECTOR,
            block,
            read_only: arg.ro.0,
            discard: arg.discards(),
        })
    }

    /// One that a test has, of so many sectors; the guest may do everything with it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn mock(file: File, sectors: u64) -> Self {
        Self {
            id: *b"vmfirst-0\0\0\0\0\0\0\0\0\0\0\0",
            file,
            sectors,
            block: SECTOR as u32,
            read_only: false,
            discard: true,
        }
    }
}

/// What direct transfers are aligned to, in bytes; none where they are impossible.
fn direct_block(file: &File) -> Option<u32> {
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let known = found.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    match (known, found.stx_dio_offset_align) {
        (true, 0) => None,
        (true, block) => Some(block.max(SECTOR as u32)),
        (false, _) => Some(DIRECT_BLOCK),
    }
}

fn no_direct(arg: &DiskArg) -> Error {
    Error::Refused(format!(
        "disk {} can't be read past the page cache there: leave \"direct\" away",
        arg.path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn arg(folder: &tempfile::TempDir, keys: &str) -> DiskArg {
        let path = folder.path().join("image");
        std::fs::write(&path, [7; 8192]).unwrap();
        format!("path={}{keys}", path.display()).parse().unwrap()
    }

    #[test]
    fn looking_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let arg = arg(&folder, ",id=root");
        let disk = Disk::open(3, &arg).unwrap();
        assert_eq!((&disk.id[..5], disk.sectors), (b"root\0".as_slice(), 16));
        assert!(Disk::look(3, &arg).is_ok());
        assert!(matches!(Disk::open(3, &arg), Err(Error::Busy(_))));
        drop(disk);
        assert!(Disk::open(3, &arg).is_ok());
    }

    #[test]
    fn a_disk_without_a_name_has_its_place_s() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(3, &arg(&folder, "")).unwrap();
        assert_eq!(&disk.id, b"vmfirst-3\0\0\0\0\0\0\0\0\0\0\0");
    }

    /// A file system that has no direct transfers says so.
    #[test]
    fn a_disk_may_bypass_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        match Disk::open(0, &arg(&folder, ",direct")) {
            Ok(disk) => {
                assert!(disk.block.is_power_of_two() && disk.block >= 512);
                // The page cache would have any bytes for any buffer.
                assert!(disk.file.read_exact_at(&mut [0; 3], 1).is_err());
            }
            Err(error) => assert!(error.to_string().contains("page cache"), "{error}"),
        }
    }

    #[test]
    fn a_pipe_is_no_disk_and_nobody_waits_for_its_other_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let arg = format!("path={},ro", path.display()).parse().unwrap();
        assert!(matches!(Disk::open(0, &arg), Err(Error::Usage(_))));
    }
}
