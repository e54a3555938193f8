//! Where the console's input comes from.

use std::fs::File;
use std::io::{ErrorKind, Read, stdin};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{SocketFlags, accept_with};

use super::line::{self, lock};
use super::sink::Sink;
use crate::{Error, Result};

/// The input.
pub enum Input {
    /// A terminal, pipe or socket: epoll tells when there is some.
    Stream(File),
    /// A file: all of it is there already, and epoll does not take it.
    File(File),
    /// Whoever comes to this socket; the line's end has the client.
    Socket(UnixListener),
    /// There is none, or no more.
    None,
}

impl Input {
    /// Standard input.
    pub fn standard() -> Result<Self> {
        let input = stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::system("open standard input"))?;
        Ok(Self::Stream(input.into()))
    }

    /// Reads some of what is there.
    pub fn read(&mut self, line: &line::Shared, buffer: &mut [u8]) -> usize {
        match self {
            Self::Stream(file) | Self::File(file) => match file.read(buffer) {
                Ok(size) if size > 0 => size,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => 0,
                _ => {
                    *self = Self::None;
                    0
                }
            },
            Self::Socket(_) => match lock(line).sink() {
                Sink::Attached(attached) => attached.read(buffer),
                _ => 0,
            },
            Self::None => 0,
        }
    }

    /// Gives the line's end a client that has come.
    pub fn accept(&self, line: &line::Shared) {
        let Self::Socket(listener) = self else {
            return;
        };
        // One that has gone already is none.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        if let (Ok(client), Sink::Attached(attached)) =
            (accept_with(listener, flags), lock(line).sink())
        {
            attached.attach(UnixStream::from(client));
        }
    }

    /// Who comes here is a client.
    pub fn listener(&self) -> Option<&UnixListener> {
        match self {
            Self::Socket(listener) => Some(listener),
            _ => None,
        }
    }

    /// What can be waited for; a client's is the one of the line's end.
    pub fn descriptor(&self, client: Option<RawFd>) -> Option<RawFd> {
        match self {
            Self::Stream(file) => Some(file.as_raw_fd()),
            Self::Socket(_) => client,
            Self::File(_) | Self::None => None,
        }
    }

    /// Whether all that there will be is there.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Epoll doesn't take this descriptor: if it is the input's, it is a file.
    pub fn cannot_be_watched(&mut self, fd: RawFd) {
        if matches!(self, Self::Stream(file) if file.as_raw_fd() == fd)
            && let Self::Stream(file) = std::mem::replace(self, Self::None)
        {
            *self = Self::File(file);
        }
    }
}
