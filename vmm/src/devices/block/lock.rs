//! The locks of an image that QEMU takes, so that both programs see each other's.
//!
//! QEMU locks single bytes of the file for an open file description (fcntl(2), F_OFD_SETLK),
//! all of them shared: one at 100 + N says that its owner uses permission N, one at 200 + N
//! that it shares N with nobody. Whoever wants a permission looks whether somebody does not
//! share it, and the other way round: block/file-posix.c, include/block/block-common.h.
//! cloud-hypervisor locks the whole file in the same way.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Where the bytes are of permissions that are used, and of those that are not shared.
const USED: i64 = 100;
const UNSHARED: i64 = 200;
/// Permissions, by their bits: BLK_PERM_CONSISTENT_READ, BLK_PERM_WRITE, BLK_PERM_RESIZE.
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;
/// Nobody else may write to a disk, whether the guest may or not.
const OTHERS_MAY_NOT: [i64; 2] = [WRITE, RESIZE];

/// Takes the locks of a disk; returns whether nobody's are against that. They end with the
/// file. Where the file system has no such locks, nobody's can be.
pub fn take(file: &File, read_only: bool) -> io::Result<bool> {
    let wants: &[i64] = if read_only { &[READ] } else { &[READ, WRITE] };
    let used = wants.iter().map(|permission| USED + permission);
    let unshared = OTHERS_MAY_NOT
        .iter()
        .map(|permission| UNSHARED + permission);
    // First taken, then looked: of two programs that do so at the same time one at least sees
    // the other.
    for byte in used.chain(unshared) {
        match lock(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte) {
            Ok(_) => {}
            Err(error) => return refused(error),
        }
    }
    let against = wants.iter().map(|permission| UNSHARED + permission);
    let against = against.chain(OTHERS_MAY_NOT.iter().map(|permission| USED + permission));
    for byte in against {
        match lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte) {
            Ok(found) if found == libc::F_UNLCK => {}
            Ok(_) => return Ok(false),
            Err(error) => return refused(error),
        }
    }
    Ok(true)
}

fn refused(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP) => Ok(true),
        _ => Err(error),
    }
}

/// Takes a lock of one byte, or asks for one that is against it; returns the kind that the
/// kernel answers.
fn lock(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    byte: i64,
) -> io::Result<libc::c_int> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // What an open file description's lock has to have.
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the kernel reads and writes one flock.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        0 => Ok(lock.l_type.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    /// Whether two can have an image at the same time; each says whether it only reads.
    fn together(first: bool, second: bool) -> bool {
        let image = NamedTempFile::new().unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(image.path())
                .unwrap()
        };
        let (one, other) = (open(), open());
        assert!(take(&one, first).unwrap());
        take(&other, second).unwrap()
    }

    #[test]
    fn several_may_read_and_one_may_write() {
        assert!(together(true, true));
        assert!(!together(true, false));
        assert!(!together(false, true));
        assert!(!together(false, false));
    }

    #[test]
    fn qemus_locks_are_seen_and_so_are_ours() {
        let image = NamedTempFile::new().unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(image.path())
                .unwrap()
        };
        // As of a guest's disk that QEMU writes to: it uses reading and writing, and shares
        // neither writing nor resizing.
        let qemu = open();
        for byte in [100, 101, 201, 203] {
            lock(&qemu, libc::F_OFD_SETLK, libc::F_RDLCK, byte).unwrap();
        }
        assert!(!take(&open(), false).unwrap());
        assert!(!take(&open(), true).unwrap());
        drop(qemu);
        let ours = open();
        assert!(take(&ours, false).unwrap());
        // What QEMU looks for before it writes.
        let seen = lock(&open(), libc::F_OFD_GETLK, libc::F_WRLCK, 201).unwrap();
        assert_eq!(seen, libc::F_RDLCK);
    }
}
