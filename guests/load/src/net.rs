//! Load on networks: streams both ways, and pings of which each has to be answered
//! before the next is sent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::data::{Random, fill};
use crate::error::{Error, Result};

/// Bytes of a stream that have a number and a checksum.
const CHUNK: usize = 16 << 10;
/// Of them the number (8) and the checksum (4).
const HEADER: usize = 12;
/// The longest ping: one frame.
const PING: usize = 1400;
/// What places the data of pings and of their answers.
const ASK: u64 = 1 << 40;
const ANSWER: u64 = 2 << 40;

/// All that went over a stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Sum {
    /// Its bytes.
    pub bytes: u64,
    /// Their checksum.
    pub crc: u32,
}

/// Connects to a server.
pub fn connect(to: &str, clock: &Clock) -> Result<TcpStream> {
    clock.time(|| TcpStream::connect(to))
}

/// Takes one connection.
pub fn accept(at: &str) -> Result<TcpStream> {
    let listener = TcpListener::bind(at).map_err(Error::system(format!("listen at {at}")))?;
    let (stream, _) = listener
        .accept()
        .map_err(Error::system(format!("accept at {at}")))?;
    Ok(stream)
}

/// Sends chunks as long as `go_on` says so.
pub fn send(mut stream: TcpStream, clock: &Clock, go_on: impl Fn() -> bool) -> Result<Sum> {
    let mut chunk = vec![0; CHUNK];
    let mut crc = crc32fast::Hasher::new();
    let mut number = 0u64;
    while go_on() {
        let (header, data) = chunk.split_at_mut(HEADER);
        fill(data, 0, number);
        header[..8].copy_from_slice(&number.to_le_bytes());
        header[8..].copy_from_slice(&crc32fast::hash(data).to_le_bytes());
        clock.time(|| stream.write_all(&chunk))?;
        crc.update(&chunk);
        number += 1;
    }
    stream
        .shutdown(Shutdown::Write)
        .map_err(Error::system("close a stream"))?;
    Ok(Sum {
        bytes: number * CHUNK as u64,
        crc: crc.finalize(),
    })
}

/// Receives and checks chunks until the sender has ended.
pub fn receive(mut stream: TcpStream, clock: &Clock) -> Result<Sum> {
    let mut chunk = vec![0; CHUNK];
    let mut crc = crc32fast::Hasher::new();
    let mut number = 0u64;
    while clock.time(|| read_chunk(&mut stream, &mut chunk))? {
        let (header, data) = chunk.split_at(HEADER);
        let expected = [
            &number.to_le_bytes()[..],
            &crc32fast::hash(data).to_le_bytes(),
        ]
        .concat();
        if header != expected {
            return Err(Error::Data(format!("chunk {number} of a stream")));
        }
        crc.update(&chunk);
        number += 1;
    }
    Ok(Sum {
        bytes: number * CHUNK as u64,
        crc: crc.finalize(),
    })
}

/// Whether there was another one.
fn read_chunk(stream: &mut TcpStream, chunk: &mut [u8]) -> std::io::Result<bool> {
    match stream.read(&mut chunk[..1])? {
        0 => Ok(false),
        n => stream.read_exact(&mut chunk[n..]).map(|()| true),
    }
}

/// A socket for pings.
pub fn bind(at: &str) -> Result<UdpSocket> {
    UdpSocket::bind(at).map_err(Error::system(format!("bind {at}")))
}

/// Sends pings to `to`, each when the one before is answered; how many were.
pub fn ping(to: &str, clock: &Clock, patience: Duration, go_on: impl Fn() -> bool) -> Result<u64> {
    let socket = bind("0.0.0.0:0")?;
    socket
        .connect(to)
        .and_then(|()| socket.set_read_timeout(Some(patience)))
        .map_err(Error::system("prepare a socket"))?;
    let mut random = Random::new(ASK);
    let mut packet = [0; PING];
    let mut number = 0u64;
    while go_on() {
        let size = 16 + random.below(PING as u64 - 16) as usize;
        let ask = &mut packet[..size];
        message(ask, ASK, number);
        let mut answer = [0; PING];
        let got = clock.time(|| {
            socket.send(ask)?;
            socket.recv(&mut answer)
        })?;
        message(&mut packet[..size], ANSWER, number);
        if answer[..got] != packet[..size] {
            return Err(Error::Data(format!("the answer to ping {number}")));
        }
        number += 1;
    }
    Ok(number)
}

/// Answers pings for ever; counts them.
pub fn answer(socket: &UdpSocket, answered: &AtomicU64) -> Result<()> {
    let mut packet = [0; PING];
    let mut expected = [0; PING];
    loop {
        let (size, from) = socket
            .recv_from(&mut packet)
            .map_err(Error::system("receive a ping"))?;
        let number = answered.load(Ordering::Relaxed);
        message(&mut expected[..size], ASK, number);
        if packet[..size] != expected[..size] {
            return Err(Error::Data(format!("ping {number}")));
        }
        message(&mut packet[..size], ANSWER, number);
        answered.fetch_add(1, Ordering::Relaxed);
        socket
            .send_to(&packet[..size], from)
            .map_err(Error::system("answer a ping"))?;
    }
}

fn message(to: &mut [u8], kind: u64, number: u64) {
    let (head, data) = to.split_at_mut(to.len().min(8));
    head.copy_from_slice(&number.to_le_bytes()[..head.len()]);
    fill(data, kind, number);
}

/// Has TCP send nothing again on a mere suspicion (tail loss probes): within a few ms that
/// would cover up for a lost interrupt. What is left is its timer, of 200 ms or more.
pub fn leave_repairs_to_timers() -> Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_early_retrans";
    fs::write(path, "0").map_err(Error::system(format!("write to {path}")))
}

/// Files with TCP's counters, and which of them tell of a repair.
const COUNTERS: [(&str, &[&str]); 2] = [
    ("/proc/net/snmp", &["RetransSegs"]),
    (
        "/proc/net/netstat",
        &[
            "TCPTimeouts",
            "TCPLossProbes",
            "TCPFastRetrans",
            "TCPDSACKRecv",
        ],
    ),
];

/// What TCP sent again, and why.
pub fn repairs() -> Result<BTreeMap<String, u64>> {
    let mut repairs = BTreeMap::new();
    for (path, names) in COUNTERS {
        let text = fs::read_to_string(path).map_err(Error::system(format!("read {path}")))?;
        for name in names {
            let missing = || Error::system(format!("find {name} in {path}"));
            let count = counter(&text, name);
            let count = count.ok_or_else(|| missing()(ErrorKind::InvalidData.into()))?;
            repairs.insert((*name).into(), count);
        }
    }
    Ok(repairs)
}

/// A counter of the lines that belong to TCP: one of names, and below it one of values.
fn counter(text: &str, name: &str) -> Option<u64> {
    let tcp = text.lines().filter(|line| line.starts_with("Tcp"));
    let lines: Vec<_> = tcp.map(str::split_whitespace).collect();
    let (_, value) = lines.chunks(2).find_map(|pair| {
        let [names, values] = pair else {
            return None;
        };
        let mut named = names.clone().zip(values.clone());
        named.find(|(found, _)| *found == name)
    })?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clocks;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    fn clocks() -> Clocks {
        Clocks::new(Duration::from_secs(3600))
    }

    /// True so many times.
    fn times(n: u32) -> impl Fn() -> bool {
        let left = AtomicU32::new(n);
        move || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
        }
    }

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn both_ends_of_a_stream_come_to_the_same_sum() {
        let (to, from) = pair();
        let clocks = clocks();
        let clock = clocks.clock("stream");
        let (sent, received) = thread::scope(|scope| {
            let sent = scope.spawn(|| send(to, &clock, times(5)));
            (sent.join().unwrap(), receive(from, &clock))
        });
        let sent = sent.unwrap();
        assert_eq!(sent.bytes, 5 * CHUNK as u64);
        assert_eq!(received.unwrap(), sent);
    }

    #[test]
    fn a_chunk_that_changed_on_its_way_is_found() {
        let (mut to, from) = pair();
        to.write_all(&[0; CHUNK]).unwrap();
        drop(to);
        let received = receive(from, &clocks().clock("stream"));
        assert!(matches!(received, Err(Error::Data(_))), "{received:?}");
    }

    #[test]
    fn pings_are_answered_in_turn() {
        let socket = bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap().to_string();
        let answered = &*Box::leak(Box::new(AtomicU64::new(0)));
        thread::spawn(move || answer(&socket, answered));
        let clock = clocks().clock("ping");
        let minute = Duration::from_secs(60);
        assert_eq!(ping(&to, &clock, minute, times(20)).unwrap(), 20);
        assert_eq!(answered.load(Ordering::Relaxed), 20);
    }

    #[test]
    fn a_counter_of_tcp_is_found_by_its_name() {
        let text = "Ip: a b\nIp: 1 2\nTcpExt: b c\nTcpExt: 5 6\nTcp: a\nTcp: 7\n";
        assert_eq!(counter(text, "c"), Some(6));
        assert_eq!(counter(text, "a"), Some(7));
        assert_eq!(counter("Tcp: a\nTcp: 1\n", "b"), None);
    }
}
