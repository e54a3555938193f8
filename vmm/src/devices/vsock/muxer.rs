//! All streams of a guest: which packet belongs to which, and what comes next.
//!
//! A guest's connection to the host's port P goes to the Unix socket PATH_P. A program of
//! the host connects to PATH, says "CONNECT P" in a line, and is told "OK PORT" when a
//! program of the guest that listens at P has accepted.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::Connection;
use super::packet::{
    Header, PAYLOAD, Ports, VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_TYPE_STREAM, VMADDR_CID_HOST,
};
use crate::{Error, Result};

/// Streams at the same time: each has a descriptor, and up to 64 KiB of the guest's bytes.
pub const STREAMS: usize = 256;
/// Answers to packets that belong to no stream, until the guest takes them.
const ANSWERS: usize = 256;
/// Bytes that are read from a stream at once.
const CHUNK: usize = 16 * 1024;
/// Longest line of a host's program: "CONNECT 4294967295".
const LINE: usize = 32;
/// Where the ports begin that the host's programs get.
const FIRST_PORT: u32 = 1 << 30;
/// The listening socket, beside the indices of the streams.
const LISTENER: u64 = u64::MAX;

/// A stream, or what may become one.
#[derive(Debug)]
enum Slot {
    Free,
    /// A program of the host, and what it has said of its line.
    Greeting(UnixStream, Vec<u8>),
    Stream(Connection),
}

/// All streams.
#[derive(Debug)]
pub struct Muxer {
    cid: u64,
    path: PathBuf,
    listener: UnixListener,
    epoll: Epoll,
    slots: Vec<Slot>,
    answers: VecDeque<Header>,
    /// A packet that the guest has not room for at once.
    packet: Option<Packet>,
    buffer: Box<[u8]>,
    next_port: u32,
    /// Whose turn it is.
    turn: usize,
}

/// A packet whose bytes from `start` on are in the buffer.
#[derive(Debug)]
struct Packet {
    header: Header,
    start: usize,
}

impl Muxer {
    /// For the guest at `cid`, with `listener` at `path`; it doesn't wait.
    pub fn new(cid: u64, path: &Path, listener: UnixListener) -> Result<Self> {
        let epoll = Epoll::new().map_err(Error::system("watch sockets"))?;
        let event = EpollEvent::new(EventSet::IN, LISTENER);
        epoll
            .ctl(ControlOperation::Add, listener.as_raw_fd(), event)
            .map_err(Error::system("watch sockets"))?;
        Ok(Self {
            cid,
            path: path.into(),
            listener,
            epoll,
            slots: Vec::new(),
            answers: VecDeque::new(),
            packet: None,
            buffer: vec![0; CHUNK].into(),
            next_port: FIRST_PORT,
            turn: 0,
        })
    }

    /// Readable when something has happened on the host.
    pub fn events(&self) -> &Epoll {
        &self.epoll
    }

    /// Ends all streams that the last driver knew: the next one doesn't.
    pub fn forget_guest(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Stream(stream) if stream.is_known()) {
                *slot = Slot::Free;
            }
        }
        self.answers.clear();
        self.packet = None;
    }

    /// Whether packets of the guest can be taken: it has to take answers, too.
    pub fn is_ready(&self) -> bool {
        self.answers.len() < ANSWERS
    }

    /// Takes a packet of the guest's.
    pub fn take(&mut self, header: &Header, payload: &[u8]) {
        if header.src_cid.get() != self.cid {
            return;
        }
        let ports = header.ports();
        let to_host = header.dst_cid.get() == VMADDR_CID_HOST
            && header.r#type.get() == VIRTIO_VSOCK_TYPE_STREAM;
        match self.find(ports) {
            Some((slot, connection)) if to_host => {
                connection.take(header, payload);
                if connection.is_over() {
                    self.free(slot);
                }
            }
            _ if to_host && header.op.get() == VIRTIO_VSOCK_OP_REQUEST => self.open(header),
            // A stranger's; but a reset is not answered.
            _ if header.op.get() != VIRTIO_VSOCK_OP_RST => self.refuse(header),
            _ => {}
        }
    }

    fn find(&mut self, ports: Ports) -> Option<(usize, &mut Connection)> {
        let mut slots = self.slots.iter_mut().enumerate();
        slots.find_map(|(index, slot)| match slot {
            Slot::Stream(connection) if connection.ports() == ports => Some((index, connection)),
            _ => None,
        })
    }

    fn refuse(&mut self, header: &Header) {
        let mut answer = Header::to_guest(self.cid, header.ports(), VIRTIO_VSOCK_OP_RST);
        answer.src_cid = header.dst_cid;
        answer.r#type = header.r#type;
        self.answers.push_back(answer);
    }

    /// Connects a program of the guest to the host's.
    fn open(&mut self, header: &Header) {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{}", header.ports().host));
        match connect_to(Path::new(&path)) {
            Ok(stream) if self.streams() < STREAMS => {
                self.add(Slot::Stream(Connection::from_guest(header, stream)));
            }
            _ => self.refuse(header),
        }
    }

    fn streams(&self) -> usize {
        let used = self.slots.iter().filter(|slot| !matches!(slot, Slot::Free));
        used.count()
    }

    /// Gives a stream a place, and hears of it from now on.
    fn add(&mut self, stream: Slot) {
        let free = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Free));
        let index = free.unwrap_or(self.slots.len());
        let fd = match &stream {
            Slot::Free => return,
            Slot::Greeting(stream, _) => stream.as_raw_fd(),
            Slot::Stream(connection) => connection.stream().as_raw_fd(),
        };
        // Edges only: what the guest has no room for wakes nobody again.
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, index as u64);
        // Fails only for lack of memory; then there is no connection.
        if self.epoll.ctl(ControlOperation::Add, fd, event).is_ok() {
            match free {
                Some(index) => self.slots[index] = stream,
                None => self.slots.push(stream),
            }
        }
    }

    /// Closing its socket ends that it is watched.
    fn free(&mut self, slot: usize) {
        self.slots[slot] = Slot::Free;
    }

    /// Sees what has happened on the host.
    pub fn host_events(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept(),
                slot => self.host_event(slot as usize, event.event_set()),
            }
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        // One too many is closed.
        if self.streams() < STREAMS && stream.set_nonblocking(true).is_ok() {
            self.add(Slot::Greeting(stream, Vec::new()));
        }
    }

    fn host_event(&mut self, index: usize, events: EventSet) {
        match self.slots.get_mut(index) {
            Some(Slot::Stream(connection)) => {
                connection.host_event(events.contains(EventSet::HANG_UP));
                if connection.is_over() {
                    self.free(index);
                }
            }
            Some(Slot::Greeting(stream, line)) => match read_line(stream, line) {
                Line::Partial => {}
                Line::Wrong => self.free(index),
                Line::Connect(guest) => self.connect(index, guest),
            },
            Some(Slot::Free) | None => {}
        }
    }

    /// Makes a stream of a host's program that has said its line.
    fn connect(&mut self, index: usize, guest: u32) {
        let ports = Ports {
            host: self.free_port(guest),
            guest,
        };
        if let Slot::Greeting(stream, _) = std::mem::replace(&mut self.slots[index], Slot::Free) {
            self.slots[index] = Slot::Stream(Connection::from_host(ports, stream));
        }
    }

    /// A port that no other stream to the guest's port has; there are more than streams.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.checked_add(1).unwrap_or(FIRST_PORT);
            if self.find(Ports { host, guest }).is_none() {
                return host;
            }
        }
    }

    /// Whether there is a packet for the guest.
    pub fn fetch(&mut self) -> bool {
        if self.packet.is_none() {
            let header = self.answers.pop_front().or_else(|| self.next_of_streams());
            self.packet = header.map(|header| Packet { header, start: 0 });
        }
        self.packet.is_some()
    }

    /// The streams have their turns one after the other.
    fn next_of_streams(&mut self) -> Option<Header> {
        for _ in 0..self.slots.len() {
            let index = self.turn % self.slots.len();
            self.turn = index + 1;
            let Slot::Stream(connection) = &mut self.slots[index] else {
                continue;
            };
            let header = connection.next(self.cid, &mut self.buffer);
            if connection.is_over() {
                self.free(index);
            }
            if header.is_some() {
                return header;
            }
        }
        None
    }

    /// Hands over the packet that was fetched, as much as `room` bytes hold behind its
    /// header; what is left is the next packet.
    pub fn deliver(&mut self, room: usize) -> Option<(Header, &[u8])> {
        let Packet { mut header, start } = self.packet.take()?;
        let left = header.len.get() as usize;
        let size = left.min(room);
        if size == 0 && left > 0 {
            // Not even a byte: another buffer may do better.
            self.packet = Some(Packet { header, start });
            return None;
        }
        if size < left {
            header.len = ((left - size) as u32).into();
            let start = start + size;
            self.packet = Some(Packet { header, start });
        }
        header.len = (size as u32).into();
        Some((header, &self.buffer[start..start + size]))
    }
}

/// How many bytes follow a header of the guest's; none if that is no packet.
pub fn payload_size(header: &Header, available: usize) -> Option<usize> {
    let size = header.len.get() as usize;
    let carries = header.op.get() == VIRTIO_VSOCK_OP_RW || size == 0;
    (carries && size <= available.min(PAYLOAD)).then_some(size)
}

fn connect_to(path: &Path) -> rustix::io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Fails at once, too, when the listener has no room.
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// What a program of the host has said so far.
enum Line {
    Partial,
    Connect(u32),
    Wrong,
}

/// Reads no byte more than the line: what follows is the guest's.
fn read_line(stream: &mut UnixStream, line: &mut Vec<u8>) -> Line {
    let mut byte = [0];
    while line.len() < LINE {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => return parse_line(line),
            Ok(1) => line.push(byte[0]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Line::Partial,
            _ => return Line::Wrong,
        }
    }
    Line::Wrong
}

fn parse_line(line: &[u8]) -> Line {
    let port = str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "))
        .and_then(|port| port.parse().ok());
    port.map_or(Line::Wrong, Line::Connect)
}

#[cfg(test)]
mod tests;
