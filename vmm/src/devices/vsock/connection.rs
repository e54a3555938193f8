//! One stream between a program of the guest and one of the host.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::packet::{
    Header, Ports, VIRTIO_VSOCK_OP_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_RCV, VIRTIO_VSOCK_SHUTDOWN_SEND,
};

/// Bytes of the guest that wait for the host's program, at most.
pub const BUF_ALLOC: usize = 64 * 1024;
/// The guest is told of new room when there is this much more than it knows of.
const TELL: u32 = BUF_ALLOC as u32 / 4;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guest has to be asked.
    Asking,
    /// The guest has been asked.
    Asked,
    /// The guest has to be told that its connection is there.
    Accepting,
    /// Bytes may pass.
    Open,
    /// The guest has to be told that it's over.
    Broken,
    /// It's over, and the guest knows.
    Over,
}

/// A connection, with its socket on the host.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    stream: UnixStream,
    state: State,
    /// The socket may have bytes, or its end.
    readable: bool,
    /// The host's program won't send any more.
    ended: bool,
    /// It is gone: it won't take anything either.
    gone: bool,
    /// What the guest knows of both, as a shutdown's flags.
    told_ended: u32,
    /// What the guest said that it won't do any more.
    guest_ended: u32,
    /// Bytes on their way to the host.
    waiting: VecDeque<u8>,
    /// Of them, how many have been passed on since the beginning.
    fwd_cnt: u32,
    /// What the guest knows of that.
    told_fwd_cnt: u32,
    /// The guest wants to know.
    asked_for_credit: bool,
    /// Bytes that were sent to the guest.
    tx_cnt: u32,
    /// Its room, and how many of them it has passed on.
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
}

impl Connection {
    /// A connection that the guest asked for; `stream` doesn't wait.
    pub fn from_guest(header: &Header, stream: UnixStream) -> Self {
        let mut connection = Self::new(header.ports(), stream, State::Accepting);
        connection.take_credit(header);
        connection
    }

    /// A connection that a program of the host asked for.
    pub fn from_host(ports: Ports, stream: UnixStream) -> Self {
        Self::new(ports, stream, State::Asking)
    }

    fn new(ports: Ports, stream: UnixStream, state: State) -> Self {
        Self {
            ports,
            stream,
            state,
            readable: true,
            ended: false,
            gone: false,
            told_ended: 0,
            guest_ended: 0,
            waiting: VecDeque::new(),
            fwd_cnt: 0,
            told_fwd_cnt: 0,
            asked_for_credit: false,
            tx_cnt: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
        }
    }

    /// Its ends.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether the guest has heard of it.
    pub fn is_known(&self) -> bool {
        self.state != State::Asking
    }

    /// Whether it can be forgotten.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn take_credit(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc.get();
        self.peer_fwd_cnt = header.fwd_cnt.get();
    }

    /// Bytes that the guest has room for. What it says of itself may be nonsense.
    fn credit(&self) -> usize {
        let on_the_way = self.tx_cnt.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(on_the_way) as usize
    }

    /// Takes a packet of the guest's.
    pub fn take(&mut self, header: &Header, payload: &[u8]) {
        self.take_credit(header);
        match (header.op.get(), self.state) {
            (VIRTIO_VSOCK_OP_RST, _) => self.state = State::Over,
            (VIRTIO_VSOCK_OP_RESPONSE, State::Asked) => {
                self.state = State::Open;
                // The host's program is told so. One that is gone already is found out later.
                let line = format!("OK {}\n", self.ports.host);
                self.waiting.extend(line.bytes());
                // These bytes are none of the guest's.
                self.fwd_cnt = self.fwd_cnt.wrapping_sub(line.len() as u32);
                self.told_fwd_cnt = self.fwd_cnt;
                self.flush();
            }
            (VIRTIO_VSOCK_OP_RW, State::Open)
                if self.guest_ended & VIRTIO_VSOCK_SHUTDOWN_SEND == 0 =>
            {
                self.take_bytes(payload)
            }
            (VIRTIO_VSOCK_OP_CREDIT_UPDATE, State::Open) => {}
            (VIRTIO_VSOCK_OP_CREDIT_REQUEST, State::Open) => self.asked_for_credit = true,
            (VIRTIO_VSOCK_OP_SHUTDOWN, State::Open) => {
                self.guest_ended |=
                    header.flags.get() & (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
                self.flush();
            }
            _ => self.state = State::Broken,
        }
    }

    fn take_bytes(&mut self, payload: &[u8]) {
        if self.waiting.len() + payload.len() > BUF_ALLOC {
            // More than it was told that there is room for.
            self.state = State::Broken;
            return;
        }
        self.waiting.extend(payload);
        self.flush();
    }

    /// The host's socket has changed; `gone` says that its program has closed it.
    pub fn host_event(&mut self, gone: bool) {
        self.readable = true;
        self.gone |= gone;
        if gone {
            // Nobody waits for the guest's answer any more.
            self.state = match self.state {
                State::Asking => State::Over,
                State::Asked => State::Broken,
                other => other,
            };
        }
        self.flush();
    }

    /// Passes on what the host's program takes now.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let (bytes, _) = self.waiting.as_slices();
            let size = match self.stream.write(bytes) {
                Ok(size) => size,
                Err(e) if e.kind() == ErrorKind::Interrupted => 0,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    // What nobody takes is gone too. What the host's program sent
                    // before it went is still the guest's.
                    self.gone = true;
                    self.waiting.len()
                }
            };
            self.waiting.drain(..size);
            self.fwd_cnt = self.fwd_cnt.wrapping_add(size as u32);
        }
        match self.guest_ended {
            // All has been passed on: the guest's goodbye is answered.
            ended if ended == VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND => {
                self.state = State::Broken
            }
            VIRTIO_VSOCK_SHUTDOWN_SEND => {
                // Fails when the other end is gone, which is found out later.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            _ => {}
        }
    }

    /// The next packet for the guest, with its bytes in `buffer`; none if there is none now.
    pub fn next(&mut self, cid: u64, buffer: &mut [u8]) -> Option<Header> {
        let operation = match self.state {
            State::Over => return None,
            State::Broken => {
                self.state = State::Over;
                VIRTIO_VSOCK_OP_RST
            }
            State::Asking => {
                self.state = State::Asked;
                VIRTIO_VSOCK_OP_REQUEST
            }
            State::Asked => return None,
            State::Accepting => {
                self.state = State::Open;
                VIRTIO_VSOCK_OP_RESPONSE
            }
            State::Open => return self.next_open(cid, buffer),
        };
        Some(self.header(cid, operation))
    }

    fn next_open(&mut self, cid: u64, buffer: &mut [u8]) -> Option<Header> {
        let size = self.receive(buffer);
        if size > 0 {
            self.tx_cnt = self.tx_cnt.wrapping_add(size as u32);
            let mut header = self.header(cid, VIRTIO_VSOCK_OP_RW);
            header.len = (size as u32).into();
            return Some(header);
        }
        let mut ended = 0;
        if self.ended {
            ended = if self.gone {
                VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV
            } else {
                VIRTIO_VSOCK_SHUTDOWN_SEND
            };
        }
        if ended != self.told_ended {
            self.told_ended = ended;
            if self.gone {
                // Whatever the guest sends now is answered as to a stranger.
                self.state = State::Over;
            }
            let mut header = self.header(cid, VIRTIO_VSOCK_OP_SHUTDOWN);
            header.flags = ended.into();
            return Some(header);
        }
        let news = self.fwd_cnt.wrapping_sub(self.told_fwd_cnt);
        (self.asked_for_credit || news >= TELL)
            .then(|| self.header(cid, VIRTIO_VSOCK_OP_CREDIT_UPDATE))
    }

    /// Reads what the guest has room for; 0 when there is nothing now.
    fn receive(&mut self, buffer: &mut [u8]) -> usize {
        let most = self.credit().min(buffer.len());
        let wanted = self.guest_ended & VIRTIO_VSOCK_SHUTDOWN_RCV == 0 && !self.ended;
        while self.readable && wanted && most > 0 {
            match self.stream.read(&mut buffer[..most]) {
                Ok(size) if size > 0 => return size,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                // Its end; or it was closed before it had read all.
                _ => {
                    self.ended = true;
                    return 0;
                }
            }
        }
        0
    }

    /// A packet of this connection: each tells the guest of its room.
    fn header(&mut self, cid: u64, operation: u16) -> Header {
        self.told_fwd_cnt = self.fwd_cnt;
        self.asked_for_credit = false;
        let mut header = Header::to_guest(cid, self.ports, operation);
        header.buf_alloc = (BUF_ALLOC as u32).into();
        header.fwd_cnt = self.fwd_cnt.into();
        header
    }
}
