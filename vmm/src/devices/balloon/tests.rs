use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

use super::report::take;
use crate::layout::{MMIO_GAP, MMIO_GAP_END};
use crate::memory::{self, GuestMemory};

const PAGE: u64 = 4096;
const FREE: u64 = 0x10_0000;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;

/// Reports ranges with these flags; returns what the host has back.
fn report(memory: &GuestMemory, ranges: &[(u64, u32, u16)]) -> u64 {
    let descriptors: Vec<RawDescriptor> = (1u16..)
        .zip(ranges)
        .map(|(next, &(address, length, flags))| {
            let flags = match usize::from(next) == ranges.len() {
                true => flags,
                false => flags | VRING_DESC_F_NEXT as u16,
            };
            Descriptor::new(address, length, flags, next).into()
        })
        .collect();
    let queue = MockSplitQueue::new(memory, 128);
    take(memory, queue.build_desc_chain(&descriptors).unwrap())
}

fn filled(memory: &GuestMemory, pages: u64) {
    let bytes = vec![7; (pages * PAGE) as usize];
    memory.write_slice(&bytes, GuestAddress(FREE)).unwrap();
}

/// The first byte of each page.
fn pages(memory: &GuestMemory, pages: u64) -> Vec<u8> {
    (0..pages)
        .map(|n| memory.read_obj(GuestAddress(FREE + n * PAGE)).unwrap())
        .collect()
}

#[test]
fn whole_pages_of_a_range_are_given_back_and_no_other() {
    let memory = memory::allocate(64 << 20).unwrap();
    filled(&memory, 6);
    let range = (FREE + 1, 4 * PAGE as u32 + 2, WRITE);
    assert_eq!(report(&memory, &[range]), 3 * PAGE);
    assert_eq!(pages(&memory, 6), [7, 0, 0, 0, 7, 7]);
    let less_than_a_page = (FREE + 1, PAGE as u32, WRITE);
    assert_eq!(report(&memory, &[less_than_a_page]), 0);
    assert_eq!(pages(&memory, 1), [7]);
}

#[test]
fn a_report_may_have_several_ranges() {
    let memory = memory::allocate(64 << 20).unwrap();
    filled(&memory, 4);
    let page = |n| (FREE + n * PAGE, PAGE as u32, WRITE);
    assert_eq!(report(&memory, &[page(0), page(2)]), 2 * PAGE);
    assert_eq!(pages(&memory, 4), [0, 7, 0, 7]);
}

#[test]
fn what_is_no_memory_or_not_to_be_written_is_left_alone() {
    let memory = memory::allocate(64 << 20).unwrap();
    filled(&memory, 1);
    let end = 64 << 20;
    for range in [
        (FREE, PAGE as u32, 0),
        (FREE, 0, WRITE),
        (FREE, u32::MAX, WRITE),
        (end, PAGE as u32, WRITE),
        (end - PAGE, 2 * PAGE as u32, WRITE),
        (u64::MAX - PAGE + 1, PAGE as u32, WRITE),
        (u64::MAX - 1, u32::MAX, WRITE),
    ] {
        assert_eq!(report(&memory, &[range]), 0, "{range:x?}");
    }
    assert_eq!(pages(&memory, 1), [7]);
}

/// The host has something else of its own behind a region, perhaps.
#[test]
fn a_range_over_the_gap_is_left_alone() {
    let memory = memory::allocate(4 << 30).unwrap();
    for start in [MMIO_GAP - PAGE, MMIO_GAP_END - PAGE] {
        assert_eq!(report(&memory, &[(start, 2 * PAGE as u32, WRITE)]), 0);
    }
    assert_eq!(report(&memory, &[(MMIO_GAP_END, PAGE as u32, WRITE)]), PAGE);
}
