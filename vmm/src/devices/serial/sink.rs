//! Where a line ends: standard output, a file of bounded size, whoever is attached, nowhere.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::net::{SendFlags, send};

use super::attached::Attached;
use super::log_file::LogFile;

/// The end of a line. None of them has a vCPU wait.
pub enum Sink {
    /// Standard output.
    Stream(Stream),
    /// A file.
    File(LogFile),
    /// Who comes by a socket.
    Attached(Attached),
    /// Nothing is kept.
    Nowhere,
}

impl Sink {
    /// Takes some of `bytes`, at least one, or says that it would have to wait.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(bytes),
            Self::File(file) => file.write(bytes),
            Self::Attached(attached) => attached.write(bytes),
            Self::Nowhere => Ok(bytes.len()),
        }
    }

    /// Does what a vCPU has no time for, before more is written.
    pub fn prepare(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.make_room(),
            Self::Attached(attached) => {
                attached.catch_up();
                Ok(())
            }
            Self::Stream(_) | Self::Nowhere => Ok(()),
        }
    }

    /// Whether it has taken more than it has passed on.
    pub fn is_behind(&self) -> bool {
        matches!(self, Self::Attached(attached) if attached.is_behind())
    }

    /// What can be waited for when it takes nothing; a file never keeps anybody waiting.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Stream(stream) => Some(stream.0.as_fd()),
            Self::Attached(attached) => attached.descriptor(),
            Self::File(_) | Self::Nowhere => None,
        }
    }

    /// Waits at most so long until it may take something; returns whether it may.
    pub fn wait(&self, limit: Duration) -> bool {
        self.descriptor().is_some_and(|fd| is_ready(fd, limit))
    }
}

/// A descriptor that is written without waiting, whatever others do with the same.
pub struct Stream(OwnedFd, How);

enum How {
    /// It is a file, or not waited for by itself.
    Plain,
    /// A socket: it is told each time.
    Socket,
    /// Others have its flags, too, and it can't be opened again: looks each time.
    Look,
}

impl Stream {
    /// What `fd` is. Flags of a descriptor are those of whoever else has it, a shell perhaps:
    /// a pipe or terminal is opened again.
    pub fn new(fd: BorrowedFd) -> io::Result<Self> {
        let copy = || fd.try_clone_to_owned();
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        Ok(match kind {
            FileType::RegularFile => Self(copy()?, How::Plain),
            FileType::Socket => Self(copy()?, How::Socket),
            _ => match again(fd) {
                Ok(own) => Self(own, How::Plain),
                Err(_) => Self(copy()?, How::Look),
            },
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self(fd, how) = self;
        match how {
            How::Plain => Ok(rustix::io::write(fd, bytes)?),
            How::Socket => Ok(send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
            How::Look if is_ready(fd.as_fd(), Duration::ZERO) => {
                Ok(rustix::io::write(fd, &bytes[..1])?)
            }
            How::Look => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

fn again(fd: BorrowedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

fn is_ready(fd: BorrowedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    // An error or a reader that has gone is ready too: writing tells which.
    matches!(
        poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)],
            limit.as_ref()
        ),
        Ok(1..)
    )
}

/// For tests and fuzzers: a file as it is.
impl From<File> for Sink {
    fn from(file: File) -> Self {
        Self::Stream(Stream(file.into(), How::Plain))
    }
}
