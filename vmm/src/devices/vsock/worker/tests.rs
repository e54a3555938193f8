use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::Queue;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::brake::Brake;
use crate::devices::virtio_mmio::{Complaints, Interrupt};
use crate::devices::vsock::packet::{
    VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_TYPE_STREAM, VMADDR_CID_HOST,
};
use crate::memory;

const SENT: u64 = 0x10_0000;
const RECEIVED: u64 = 0x20_0000;

type Mock<'a> = MockSplitQueue<'a, GuestMemory>;

fn served(memory: &GuestMemory, mock: &Mock) -> Served {
    Served {
        queue: Arc::new(Mutex::new(mock.create_queue::<Queue>().unwrap())),
        interrupt: Arc::new(Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap())),
        session: Arc::default(),
        notified: EventFd::new(EFD_NONBLOCK).unwrap(),
        memory: memory.clone(),
        brake: Brake::default(),
        complaints: Arc::new(Complaints::new("a device".into())),
        counters: Arc::default(),
    }
}

/// Puts parts of memory into a queue as one chain.
fn offer(mock: &Mock, parts: &[(u64, u32)], flags: u32) {
    let chain: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(i, &(address, length))| {
            let next = if i + 1 < parts.len() {
                VRING_DESC_F_NEXT
            } else {
                0
            };
            RawDescriptor::from(Descriptor::new(
                address,
                length,
                (flags | next) as u16,
                i as u16 + 1,
            ))
        })
        .collect();
    mock.add_desc_chains(&chain, 0).unwrap();
}

/// Sends a request for a connection to port 9, cut as `sent` says; returns the answer's
/// operation, if it came, and how many bytes were told to be used.
fn request(sent: &[(u64, u32)], received: &[(u64, u32)]) -> (Option<u16>, u32) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let _host = UnixListener::bind(folder.path().join("v_9")).unwrap();
    let memory = memory::allocate(64 << 20).unwrap();
    let mocks = [0, 0x8000, 0x10000].map(|at| Mock::create(&memory, GuestAddress(at), 16));

    let header = Header {
        src_cid: 3.into(),
        dst_cid: VMADDR_CID_HOST.into(),
        src_port: 1000.into(),
        dst_port: 9.into(),
        r#type: VIRTIO_VSOCK_TYPE_STREAM.into(),
        op: VIRTIO_VSOCK_OP_REQUEST.into(),
        ..Header::default()
    };
    memory
        .write_slice(header.as_bytes(), GuestAddress(SENT))
        .unwrap();
    offer(&mocks[1], sent, 0);
    offer(&mocks[0], received, VRING_DESC_F_WRITE);
    let queues = mocks.each_ref().map(|mock| served(&memory, mock));
    let muxer = Muxer::new(3, &path, listener).unwrap();
    Worker::new(muxer, queues).exchange();

    assert_eq!(mocks[1].used().idx().load(), 1);
    let used = mocks[0].used();
    if used.idx().load() == 0 {
        return (None, 0);
    }
    let mut bytes = [0; HEADER];
    memory
        .read_slice(&mut bytes, GuestAddress(RECEIVED))
        .unwrap();
    let answer = Header::read_from_bytes(&bytes).unwrap();
    let used = used.ring().ref_at(0).unwrap().load().len();
    (Some(answer.op.get()), used)
}

const WHOLE: [(u64, u32); 1] = [(SENT, HEADER as u32)];
const BUFFER: [(u64, u32); 1] = [(RECEIVED, 4096)];

#[test]
fn packets_go_through_the_queues() {
    assert_eq!(
        request(&WHOLE, &BUFFER),
        (Some(VIRTIO_VSOCK_OP_RESPONSE), HEADER as u32)
    );
}

#[test]
fn a_driver_may_cut_packets_as_it_likes() {
    let cut = [(SENT, 3), (SENT + 3, 40), (SENT + 43, 1)];
    let answer = request(&cut, &[(RECEIVED, 7), (RECEIVED + 7, 37)]);
    assert_eq!(answer, (Some(VIRTIO_VSOCK_OP_RESPONSE), HEADER as u32));
}

#[test]
fn what_is_no_packet_is_dropped() {
    assert_eq!(request(&[(SENT, HEADER as u32 - 1)], &BUFFER), (None, 0));
    assert_eq!(request(&[(1 << 40, HEADER as u32)], &BUFFER), (None, 0));
}

#[test]
fn a_buffer_that_is_too_short_stays_empty() {
    let short = [(RECEIVED, HEADER as u32 - 1)];
    assert_eq!(request(&WHOLE, &short), (Some(0), 0));
}
