//! Sockets between host and guest, confined as by default.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;

use crate::guests::{Running, assert_ended_by, start};
use crate::no_kvm;
use crate::payload::{NEXT, Payload, Ring, WRITE, virtio};

const RX: Ring = Ring(0x30_0000);
const TX: Ring = Ring(0x31_0000);
const EVENTS: Ring = Ring(0x32_0000);
/// Packets from the guest, and buffers for those to it.
const PACKETS: [u32; 2] = [0x33_0000, 0x33_1000];
const BUFFERS: [u32; 3] = [0x34_0000, 0x34_1000, 0x34_2000];
const HEADER: u32 = 44;
/// Where a header has its operation.
const OPERATION: u32 = 30;

/// Writes a header: from port 1000 of guest 3 to port 9 of the host.
fn header(payload: Payload, at: u32, length: u32, operation: u32) -> Payload {
    let words = [3, 0, 2, 0, 1000, 9, length, 1 | operation << 16, 0, 4096, 0];
    let at = (at..).step_by(4);
    at.zip(words)
        .fold(payload, |payload, (at, word)| payload.poke32(at, word))
}

/// A guest that connects to the host's port 9, says "hi!\n" in two pieces of memory, and
/// prints the operation of each packet that it gets, three in all.
fn talker() -> Payload {
    let mut payload = Payload::default().set_up(virtio(0), 0, &[RX, TX, EVENTS]);
    for (index, buffer) in (0..).zip(BUFFERS) {
        payload = payload
            .poke32(buffer + OPERATION - 2, 0)
            .describe(RX, index, buffer, 4096, WRITE);
    }
    payload = payload.offer(virtio(0), 0, RX, &[0, 1, 2]);
    payload = header(payload, PACKETS[0], 0, 1);
    payload = payload
        .describe(TX, 0, PACKETS[0], HEADER, 0)
        .offer(virtio(0), 1, TX, &[0])
        .wait_for_change(BUFFERS[0] + OPERATION, 0)
        .print_from(BUFFERS[0] + OPERATION);
    payload = header(payload, PACKETS[1], 4, 5);
    payload = payload
        .poke32(PACKETS[1] + HEADER, u32::from_le_bytes(*b"hi!\n"))
        .describe(TX, 1, PACKETS[1], HEADER + 1, NEXT | 2 << 16)
        .describe(TX, 2, PACKETS[1] + HEADER + 1, 3, 0)
        .offer(virtio(0), 1, TX, &[0, 1]);
    for buffer in &BUFFERS[1..] {
        payload = payload
            .wait_for_change(buffer + OPERATION, 0)
            .print_from(buffer + OPERATION);
    }
    payload.halt()
}

fn option(path: &Path) -> String {
    format!("cid=3,socket={}", path.display())
}

/// The next byte that a guest prints.
fn printed(running: &mut Running) -> u8 {
    let mut byte = [0];
    let output = running.vmm.stdout.as_mut().unwrap();
    output.read_exact(&mut byte).unwrap();
    byte[0]
}

#[test]
fn guest_and_host_talk() {
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let port_9 = UnixListener::bind(folder.path().join("v_9")).unwrap();
    // Waits for the guest's first byte: 2, its connection is there.
    let mut running = start(talker(), &["--vsock", &option(&path)]);
    let (mut stream, _) = port_9.accept().unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hi!\n");
    // 5, data.
    stream.write_all(b"hello").unwrap();
    assert_eq!(printed(&mut running), 5);
    // 1, somebody asks for a connection.
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut caller = UnixStream::connect(&path).unwrap();
    caller.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(printed(&mut running), 1);
    assert_ended_by(running, Signal::HUP);
    assert!(!path.exists());
    // All ends with the machine.
    assert_eq!(stream.read(&mut bytes).unwrap(), 0);
}

#[test]
fn a_socket_that_a_killed_machine_left_is_replaced() {
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let option = option(&path);
    let guest = || Payload::default().print("x").halt();
    drop(start(guest(), &["--vsock", &option]));
    assert!(path.exists());
    let running = start(guest(), &["--vsock", &option]);
    assert_ended_by(running, Signal::HUP);
    assert!(!path.exists());
}
