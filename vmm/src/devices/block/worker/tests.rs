use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::brake::Brake;
use crate::devices::virtio_mmio::{Complaints, Interrupt, lock};
use crate::memory::{self, GuestMemory};

const HEADER: u64 = 0x10_0000;
const STATUS: u64 = 0x20_0000;
const DATA: u64 = 0x40_0000;
/// A table of descriptors outside the queue's own.
const TABLE: u64 = 0x30_0000;
const QUEUE_SIZE: u16 = 16;

/// A worker whose driver uses `mock`, and the interrupt that it gets.
fn worker(memory: &GuestMemory, mock: &MockSplitQueue<GuestMemory>) -> (Worker, EventFd) {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let queue: Queue = mock.create_queue().unwrap();
    let worker = Worker {
        disk: Disk::mock(tempfile::tempfile().unwrap(), 0),
        queue: Served {
            queue: Arc::new(Mutex::new(queue)),
            interrupt: Arc::new(Interrupt::new(irq.try_clone().unwrap())),
            session: Arc::default(),
            notified: EventFd::new(EFD_NONBLOCK).unwrap(),
            memory: memory.clone(),
            brake: Brake::default(),
            complaints: Arc::new(Complaints::new("a device".into())),
            counters: Arc::default(),
        },
    };
    (worker, irq)
}

/// A flush: header and status.
fn flush(memory: &GuestMemory) -> [RawDescriptor; 2] {
    memory
        .write_obj(VIRTIO_BLK_T_FLUSH, GuestAddress(HEADER))
        .unwrap();
    [
        Descriptor::new(HEADER, 16, VRING_DESC_F_NEXT as u16, 1),
        Descriptor::new(STATUS, 1, VRING_DESC_F_WRITE as u16, 0),
    ]
    .map(RawDescriptor::from)
}

#[test]
fn a_request_is_served_and_told() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, QUEUE_SIZE);
    memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
    mock.add_desc_chains(&flush(&memory), 0).unwrap();
    let (worker, irq) = worker(&memory, &mock);
    worker.serve_queue();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), 0);
    assert_eq!(irq.read().unwrap(), 1);
}

/// Serves a flush whose two descriptors stand in a table of `bytes` at `address`.
fn serve_indirect(address: u64, bytes: u32) -> (u8, bool) {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, QUEUE_SIZE);
    memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
    for (at, descriptor) in (TABLE..).step_by(16).zip(flush(&memory)) {
        memory.write_obj(descriptor, GuestAddress(at)).unwrap();
    }
    let table = Descriptor::new(address, bytes, VRING_DESC_F_INDIRECT as u16, 0);
    mock.add_desc_chains(&[table.into()], 0).unwrap();
    let (worker, irq) = worker(&memory, &mock);
    worker.serve_queue();
    let status = memory.read_obj(GuestAddress(STATUS)).unwrap();
    (status, irq.read().is_ok())
}

#[test]
fn a_request_may_be_in_a_table_of_its_own() {
    assert_eq!(serve_indirect(TABLE, 32), (0, true));
}

#[test]
fn a_table_that_is_cut_short_or_outside_memory_is_given_back() {
    for (address, bytes) in [(TABLE, 16), (TABLE, 0), (TABLE, 31), (1 << 40, 32)] {
        let served = serve_indirect(address, bytes);
        assert_eq!(served, (0xff, true), "{address:#x} {bytes}");
    }
}

#[test]
fn a_doorbell_without_a_request_does_no_harm() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, QUEUE_SIZE);
    let (worker, irq) = worker(&memory, &mock);
    worker.serve_queue();
    assert!(lock(&worker.queue.queue).ready());
    assert!(irq.read().is_err());
}

#[test]
fn a_queue_that_claims_too_much_is_out_of_use() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, QUEUE_SIZE);
    let (worker, irq) = worker(&memory, &mock);
    let index = GuestAddress(lock(&worker.queue.queue).avail_ring() + 2);
    memory.write_obj(QUEUE_SIZE + 1, index).unwrap();
    worker.serve_queue();
    assert!(!lock(&worker.queue.queue).ready());
    assert!(irq.read().is_err());
}

#[test]
fn a_head_outside_the_table_is_out_of_use() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, QUEUE_SIZE);
    let (worker, _irq) = worker(&memory, &mock);
    let ring = lock(&worker.queue.queue).avail_ring();
    memory
        .write_obj(QUEUE_SIZE, GuestAddress(ring + 4))
        .unwrap();
    memory.write_obj(1u16, GuestAddress(ring + 2)).unwrap();
    worker.serve_queue();
    assert!(!lock(&worker.queue.queue).ready());
}

#[test]
fn a_ring_outside_memory_is_not_touched() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, QUEUE_SIZE);
    let (worker, irq) = worker(&memory, &mock);
    lock(&worker.queue.queue).set_used_ring_address(Some(0xffff_fff0), Some(u32::MAX));
    worker.serve_queue();
    assert!(irq.read().is_err());
}

/// Sixteen descriptors, offered again and again by their first: reads that nobody could wait
/// for.
fn long_reads(memory: &GuestMemory) -> MockSplitQueue<'_, GuestMemory> {
    let mock = MockSplitQueue::new(memory, QUEUE_SIZE);
    memory
        .write_obj(VIRTIO_BLK_T_IN, GuestAddress(HEADER))
        .unwrap();
    let flags = VRING_DESC_F_NEXT as u16 | VRING_DESC_F_WRITE as u16;
    let mut chain = vec![Descriptor::new(HEADER, 16, VRING_DESC_F_NEXT as u16, 1)];
    chain.extend((2..16).map(|next| Descriptor::new(DATA, 2 << 20, flags, next)));
    chain.push(Descriptor::new(STATUS, 1, VRING_DESC_F_WRITE as u16, 0));
    let chain: Vec<_> = chain.into_iter().map(RawDescriptor::from).collect();
    mock.add_desc_chains(&chain, 0).unwrap();
    for slot in 0..QUEUE_SIZE {
        mock.avail().ring().ref_at(slot.into()).unwrap().store(0);
    }
    mock.avail().idx().store(QUEUE_SIZE);
    mock
}

#[test]
fn a_machine_that_is_paused_or_has_ended_begins_no_request() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = long_reads(&memory);
    let (mut worker, _irq) = worker(&memory, &mock);
    worker.disk.file.set_len(1 << 30).unwrap();
    worker.disk.sectors = 1 << 21;
    let used = || mock.used().idx().load();
    worker.queue.brake.pause(true);
    worker.serve_queue();
    assert_eq!(used(), 0);
    // It is told to look again when it goes on.
    assert_eq!(worker.queue.notified.read().unwrap(), 1);
    worker.queue.brake.pause(false);
    worker.queue.brake.end();
    worker.serve_queue();
    assert_eq!(used(), 0);
}

#[test]
fn the_other_devices_have_their_turn_after_a_burst() {
    let memory = memory::allocate(64 << 20).unwrap();
    let mock = MockSplitQueue::new(&memory, 4 * QUEUE_SIZE);
    for _ in 0..2 * BURST {
        mock.add_desc_chains(&flush(&memory), 0).unwrap();
    }
    let (worker, _irq) = worker(&memory, &mock);
    for count in [1, 2] {
        worker.serve_queue();
        assert_eq!(usize::from(mock.used().idx().load()), count * BURST);
    }
}
