use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::Queue;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::brake::Brake;
use crate::devices::virtio_mmio::{Complaints, Interrupt};
use crate::memory;

const BUFFER: u64 = 0x10_0000;
const QUEUE_SIZE: u16 = 16;

type Mock<'a> = MockSplitQueue<'a, GuestMemory>;

fn served(memory: &GuestMemory, mock: &Mock) -> Served {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    Served {
        queue: Arc::new(Mutex::new(mock.create_queue::<Queue>().unwrap())),
        interrupt: Arc::new(Interrupt::new(irq)),
        session: Arc::default(),
        notified: EventFd::new(EFD_NONBLOCK).unwrap(),
        memory: memory.clone(),
        brake: Brake::default(),
        complaints: Arc::new(Complaints::new("a device".into())),
        counters: Arc::default(),
    }
}

fn queues(memory: &GuestMemory) -> [Mock<'_>; 2] {
    [0, 0x8000].map(|at| Mock::create(memory, GuestAddress(at), QUEUE_SIZE))
}

/// A worker whose tap's other end is the socket.
fn worker(memory: &GuestMemory, [to_guest, from_guest]: &[Mock; 2]) -> (Worker, UnixDatagram) {
    let (tap, wire) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    wire.set_nonblocking(true).unwrap();
    let tap = Tap::mock(OwnedFd::from(tap).into());
    let worker = Worker::new(tap, served(memory, to_guest), served(memory, from_guest));
    (worker, wire)
}

fn offer(mock: &Mock, length: u32, flags: u32) {
    let buffer = Descriptor::new(BUFFER, length, flags as u16, 0);
    mock.add_desc_chains(&[buffer.into()], 0).unwrap();
}

/// How many buffers were used, and the bytes in the first.
fn used(mock: &Mock) -> (u16, u32) {
    let ring = mock.used();
    let first = ring.ring().ref_at(0).unwrap().load();
    (ring.idx().load(), first.len())
}

/// A header without offloads, and a frame.
const FRAME_ON_TAP: &[u8; 17] = b"\0\0\0\0\0\0\0\0\0\0\0\0frame";

#[test]
fn a_frame_reaches_the_guest_behind_its_header() {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    offer(&queues[0], 1526, VRING_DESC_F_WRITE);
    let (mut worker, wire) = worker(&memory, &queues);
    // A buffer without a frame is kept.
    worker.receive();
    assert_eq!(used(&queues[0]).0, 0);
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    assert_eq!(used(&queues[0]), (1, 17));
    let mut bytes = [0; 17];
    memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    assert_eq!(&bytes[..12], &FRAME_ON_TAP[..12]);
    assert_eq!(&bytes[12..], b"frame");
}

#[test]
fn a_frame_waits_for_a_buffer() {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    let (mut worker, wire) = worker(&memory, &queues);
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    assert_eq!(used(&queues[0]).0, 0);
    offer(&queues[0], 1526, VRING_DESC_F_WRITE);
    worker.receive();
    assert_eq!(used(&queues[0]), (1, 17));
}

#[test]
fn a_frame_longer_than_its_buffer_is_lost() {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    offer(&queues[0], 16, VRING_DESC_F_WRITE);
    let (mut worker, wire) = worker(&memory, &queues);
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    assert_eq!(used(&queues[0]), (1, 0));
}

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Chains of the guest's for frames; the first has two parts, which cut the number of
/// buffers in two.
fn offer_pieces(mock: &Mock, sizes: &[u32]) {
    let next = mock.avail().idx().load();
    for (slot, &size) in (next..).zip(sizes) {
        let at = BUFFER + u64::from(slot) * 0x1000;
        let flags = (VRING_DESC_F_WRITE | VRING_DESC_F_NEXT) as u16;
        let chain = [
            Descriptor::new(at, 11, flags, slot * 2 + 1),
            Descriptor::new(at + 11, size - 11, VRING_DESC_F_WRITE as u16, 0),
        ];
        mock.add_desc_chains(&chain.map(RawDescriptor::from), slot * 2)
            .unwrap();
    }
}

/// All that was used: the bytes of each buffer.
fn all_used(mock: &Mock) -> Vec<u32> {
    let ring = mock.used();
    (0..ring.idx().load())
        .map(|i| ring.ring().ref_at(i.into()).unwrap().load().len())
        .collect()
}

#[test]
fn a_long_frame_takes_several_buffers() {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    offer_pieces(&queues[0], &[14]);
    let (mut worker, wire) = worker(&memory, &queues);
    worker.to_guest.session.agree(MERGEABLE);
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    // The driver must not see a part of a frame.
    assert!(all_used(&queues[0]).is_empty());
    offer_pieces(&queues[0], &[14, 14]);
    worker.receive();
    assert_eq!(all_used(&queues[0]), [14, 3]);
    let mut bytes = [0; 14];
    memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0\0\0\0\0\0\x02\0fr");
    // What is left over is for the next frame.
    wire.send(b"............g").unwrap();
    worker.receive();
    assert_eq!(all_used(&queues[0]), [14, 3, 13]);
}

#[test]
fn a_buffer_too_short_for_a_header_is_given_back() {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    let (mut worker, wire) = worker(&memory, &queues);
    worker.to_guest.session.agree(MERGEABLE);
    offer(&queues[0], 11, VRING_DESC_F_WRITE);
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    assert_eq!(all_used(&queues[0]), [0]);
}

#[test]
fn another_driver_gets_no_part_of_an_old_frame() {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    offer_pieces(&queues[0], &[14]);
    let (mut worker, wire) = worker(&memory, &queues);
    worker.to_guest.session.agree(MERGEABLE);
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    worker.to_guest.session.agree(0);
    offer(&queues[0], 1526, VRING_DESC_F_WRITE);
    worker.receive();
    assert!(all_used(&queues[0]).is_empty());
    wire.send(FRAME_ON_TAP).unwrap();
    worker.receive();
    assert_eq!(all_used(&queues[0]), [17]);
}

/// Sends `length` bytes of the guest's, header and frame; returns what the wire gets.
fn sent(length: u32) -> Option<Vec<u8>> {
    let memory = memory::allocate(64 << 20).unwrap();
    let queues = queues(&memory);
    memory
        .write_slice(b"headerheaderframe", GuestAddress(BUFFER))
        .unwrap();
    offer(&queues[1], length, 0);
    let (worker, wire) = worker(&memory, &queues);
    worker.send();
    assert_eq!(used(&queues[1]), (1, 0));
    let mut bytes = vec![0; HEADER + FRAME + 1];
    let size = wire.recv(&mut bytes).ok()?;
    bytes.truncate(size);
    Some(bytes)
}

#[test]
fn a_frame_of_the_guest_leaves_with_its_header() {
    assert_eq!(sent(17).unwrap(), b"headerheaderframe");
}

#[test]
fn what_is_no_frame_is_lost() {
    assert_eq!(sent(12), None);
    assert_eq!(sent((HEADER + FRAME + 1) as u32), None);
}
