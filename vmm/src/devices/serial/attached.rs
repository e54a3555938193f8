//! Whoever is attached to the console by its socket.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

/// Bytes of what was printed before that a client gets first.
pub const HISTORY: usize = 64 * 1024;
/// What a client reads when another takes its place.
const REPLACED: &[u8] = b"\r\nvmm: another client has taken this console\r\n";

/// At most one client, and what it is told first.
#[derive(Default)]
pub struct Attached {
    client: Option<UnixStream>,
    /// Clients that have gone, open until nobody waits for them any more.
    gone: Vec<UnixStream>,
    /// The last that was printed.
    history: VecDeque<u8>,
    /// How much of the history's end the client hasn't got yet.
    behind: usize,
}

impl Attached {
    /// A client, which doesn't wait, takes the place of the one before.
    pub fn attach(&mut self, client: UnixStream) {
        if let Some(before) = &mut self.client {
            let _ = before.write(REPLACED);
        }
        self.detach();
        self.client = Some(client);
        self.behind = self.history.len();
        self.catch_up();
    }

    /// The client goes.
    fn detach(&mut self) {
        self.gone.extend(self.client.take());
        self.behind = 0;
    }

    /// Nobody waits for clients that have gone any more.
    pub fn forget(&mut self) {
        self.gone.clear();
    }

    /// Takes output. Without a client it is only kept as history.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.behind > 0 {
            self.catch_up();
            if self.behind > 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let taken = match &mut self.client {
            Some(client) => match client.write(bytes) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {
                    self.detach();
                    bytes.len()
                }
            },
            None => bytes.len(),
        };
        self.history.extend(&bytes[..taken]);
        let over = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..over);
        Ok(taken)
    }

    /// Sends the client what it lacks of the history, as much as it takes now.
    pub fn catch_up(&mut self) {
        while self.behind > 0 {
            let Some(client) = &mut self.client else {
                self.behind = 0;
                return;
            };
            let start = self.history.len() - self.behind;
            let (front, back) = self.history.as_slices();
            let next = match front.get(start..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => &back[start - front.len()..],
            };
            match client.write(next) {
                Ok(taken) => self.behind -= taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.detach(),
            }
        }
    }

    /// Whether the client lacks some of the history.
    pub fn is_behind(&self) -> bool {
        self.behind > 0
    }

    /// Reads what the client types. An end, or an error, is the client's end.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(client) = &mut self.client else {
            return 0;
        };
        // As of a file: one system call less for a filter to let pass.
        match rustix::io::read(client, buffer) {
            Ok(size) if size > 0 => size,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            _ => {
                self.detach();
                0
            }
        }
    }

    /// The client's descriptor.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn client(attached: &mut Attached) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        attached.attach(ours);
        theirs
    }

    fn received(client: &mut UnixStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        match client.read(&mut bytes) {
            Ok(size) => bytes[..size].to_vec(),
            Err(_) => Vec::new(),
        }
    }

    #[test]
    fn a_client_gets_what_was_before_then_what_comes() {
        let mut attached = Attached::default();
        assert_eq!(attached.write(b"before ").unwrap(), 7);
        let mut first = client(&mut attached);
        attached.write(b"now").unwrap();
        assert_eq!(received(&mut first), b"before now");
        first.write_all(b"typed").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(attached.read(&mut buffer), 5);

        let mut second = client(&mut attached);
        assert_eq!(received(&mut second), b"before now");
        assert_eq!(received(&mut first), REPLACED);
        attached.forget();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        assert_eq!(attached.read(&mut buffer), 0);
        drop(second);
        attached.read(&mut buffer);
        assert!(attached.descriptor().is_none());
        assert_eq!(attached.write(b"!").unwrap(), 1);
    }

    #[test]
    fn history_is_bounded() {
        let mut attached = Attached::default();
        for _ in 0..3 {
            attached.write(&[b'x'; HISTORY]).unwrap();
        }
        attached.write(b"end").unwrap();
        assert_eq!(attached.history.len(), HISTORY);
        let mut client = client(&mut attached);
        let mut all = Vec::new();
        while all.len() < HISTORY {
            all.extend(received(&mut client));
            attached.catch_up();
        }
        assert!(all.ends_with(b"xend") && all.len() == HISTORY && !attached.is_behind());
    }

    #[test]
    fn a_client_that_does_not_read_makes_nobody_wait() {
        let mut attached = Attached::default();
        let mut client = client(&mut attached);
        let mut sent = 0;
        let error = loop {
            match attached.write(&[b'x'; 4096]) {
                Ok(taken) => sent += taken,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(sent > 0 && attached.descriptor().is_some());
        assert!(!received(&mut client).is_empty());
        assert!(attached.write(b"x").is_ok());
    }
}
