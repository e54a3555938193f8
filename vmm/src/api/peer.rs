//! Who is at the other end of a socket, by the kernel's word: a machine that its guest has
//! taken over can say of itself what it likes.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Linux's asm-generic/socket.h.
const SO_PEERPIDFD: libc::c_int = 77;

/// A machine's process, by the kernel's word.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// It, and none that has its id later.
    pub fd: OwnedFd,
}

impl Process {
    /// The process that listens at the socket to which `stream` is connected.
    pub fn of(stream: impl AsFd) -> io::Result<Self> {
        let pid = pid(&stream).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            pid,
            fd: pidfd(stream)?,
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut ended, Some(&now)), Ok(1..))
    }
}

/// The process that listens at the socket to which `stream` is connected, in this process's
/// PID namespace; none where it is not seen from there.
fn pid(stream: impl AsFd) -> Option<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into a ucred.
    let done = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    u32::try_from(peer.pid)
        .ok()
        .filter(|&pid| done == 0 && pid > 0)
}

/// The same as a descriptor: of this process, and of none that has its number later.
fn pidfd(stream: impl AsFd) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into an int.
    let done = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut size,
        )
    };
    if done == 0 {
        // SAFETY: the descriptor is new and nobody else's.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    // Kernels before 6.5: by its number.
    let pid = pid(stream).and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    let pid = pid.ok_or_else(io::Error::last_os_error)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
