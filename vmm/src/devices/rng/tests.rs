use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use virtio_queue::Queue;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::brake::Brake;
use crate::devices::virtio_mmio::{Complaints, Interrupt, Served};
use crate::memory;

const BUFFER: u64 = 0x10_0000;

/// Serves one request of `length` bytes with these flags; returns how many were
/// told to be used, and what is in the buffer.
fn request(length: u32, flags: u32) -> (u32, Vec<u8>) {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, 16);
    let buffer = RawDescriptor::from(Descriptor::new(BUFFER, length, flags as u16, 0));
    mock.add_desc_chains(&[buffer], 0).unwrap();
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let served = Served {
        queue: Arc::new(Mutex::new(mock.create_queue::<Queue>().unwrap())),
        interrupt: Arc::new(Interrupt::new(irq.try_clone().unwrap())),
        session: Arc::default(),
        notified: EventFd::new(EFD_NONBLOCK).unwrap(),
        memory: memory.clone(),
        brake: Brake::default(),
        complaints: Arc::new(Complaints::new("a device".into())),
        counters: Arc::default(),
    };
    served.serve(64, |memory, chain| serve(host, memory, chain));
    assert_eq!(irq.read().unwrap(), 1);
    let mut bytes = vec![0; 1024];
    memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    (mock.used().ring().ref_at(0).unwrap().load().len(), bytes)
}

#[test]
fn a_request_is_filled_and_no_byte_more() {
    let (used, bytes) = request(64, VRING_DESC_F_WRITE);
    assert_eq!(used, 64);
    // Zeros alone: one time in 2^512.
    assert!(bytes[..64].iter().any(|&byte| byte != 0));
    assert!(bytes[64..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_huge_request_gets_a_part() {
    let (used, bytes) = request(1 << 20, VRING_DESC_F_WRITE);
    assert_eq!(used as usize, MOST);
    assert!(bytes[MOST..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_buffer_that_is_only_readable_gets_nothing() {
    let (used, bytes) = request(64, 0);
    assert_eq!(used, 0);
    assert!(bytes.iter().all(|&byte| byte == 0));
}
