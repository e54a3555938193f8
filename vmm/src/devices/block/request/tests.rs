use std::io::Write as _;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory;

const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STATUS: u64 = 0x30_0000;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;

fn disk(read_only: bool) -> Disk {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 4 * SECTOR as usize]).unwrap();
    Disk {
        index: 0,
        file,
        sectors: 4,
        read_only,
    }
}

/// Runs a request with the given descriptors; returns the used length and the status byte.
fn request(disk: &Disk, kind: u32, sector: u64, descriptors: &[(u64, u32, u16)]) -> (u32, u8) {
    request_with(&Brake::default(), disk, kind, sector, descriptors)
}

/// The same on a machine with this brake.
fn request_with(
    brake: &Brake,
    disk: &Disk,
    kind: u32,
    sector: u64,
    descriptors: &[(u64, u32, u16)],
) -> (u32, u8) {
    let memory = memory::allocate(64 << 20).unwrap();
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
    memory.write_slice(&[9; 512], GuestAddress(DATA)).unwrap();
    memory.write_slice(&[0xee], GuestAddress(STATUS)).unwrap();
    let raw: Vec<RawDescriptor> = descriptors
        .iter()
        .enumerate()
        .map(|(i, &(address, length, flags))| {
            RawDescriptor::from(Descriptor::new(address, length, flags, i as u16 + 1))
        })
        .collect();
    let queue = MockSplitQueue::new(&memory, 16);
    let chain = queue.build_desc_chain(&raw).unwrap();
    let used = serve(disk, brake, &memory, chain);
    (used, memory.read_obj(GuestAddress(STATUS)).unwrap())
}

/// Header, 512 bytes of data in the given direction, status.
fn plain(direction: u16) -> [(u64, u32, u16); 3] {
    [
        (HEADER, 16, NEXT),
        (DATA, 512, NEXT | direction),
        (STATUS, 1, WRITE),
    ]
}

#[test]
fn reads_and_writes_reach_the_disk() {
    let disk = disk(false);
    assert_eq!(request(&disk, VIRTIO_BLK_T_IN, 3, &plain(WRITE)), (513, 0));
    assert_eq!(request(&disk, VIRTIO_BLK_T_OUT, 3, &plain(0)), (1, 0));
    let mut sector = [0; 512];
    disk.file.read_exact_at(&mut sector, 3 * 512).unwrap();
    assert_eq!(sector, [9; 512]);
}

#[test]
fn nothing_outside_the_disk_is_touched() {
    let disk = disk(false);
    for sector in [4, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(request(&disk, VIRTIO_BLK_T_OUT, sector, &plain(0)), (1, 1));
        assert_eq!(request(&disk, VIRTIO_BLK_T_IN, sector, &plain(WRITE)).1, 1);
    }
    assert_eq!(disk.file.metadata().unwrap().len(), 4 * SECTOR);
}

#[test]
fn a_read_only_disk_is_not_written() {
    assert_eq!(request(&disk(true), VIRTIO_BLK_T_OUT, 0, &plain(0)), (1, 1));
}

#[test]
fn unknown_requests_are_unsupported() {
    assert_eq!(request(&disk(false), 77, 0, &plain(WRITE)), (1, 2));
}

#[test]
fn odd_sizes_and_short_headers_are_errors() {
    let odd = [(HEADER, 16, NEXT), (DATA, 511, NEXT), (STATUS, 1, WRITE)];
    assert_eq!(request(&disk(false), VIRTIO_BLK_T_OUT, 0, &odd), (1, 1));
    let short = [(HEADER, 15, NEXT), (STATUS, 1, WRITE)];
    assert_eq!(request(&disk(false), VIRTIO_BLK_T_IN, 0, &short), (1, 1));
}

#[test]
fn chains_without_room_for_a_status_are_dropped() {
    let none = [(HEADER, 16, NEXT), (DATA, 512, 0)];
    assert_eq!(request(&disk(false), VIRTIO_BLK_T_OUT, 0, &none), (0, 0xee));
    let outside = [(HEADER, 16, NEXT), (u64::MAX - 4, 512, WRITE)];
    assert_eq!(
        request(&disk(false), VIRTIO_BLK_T_IN, 0, &outside),
        (0, 0xee)
    );
}

#[test]
fn a_disk_has_a_name() {
    let id = [
        (HEADER, 16, NEXT),
        (DATA, 20, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ];
    assert_eq!(request(&disk(false), VIRTIO_BLK_T_GET_ID, 0, &id), (21, 0));
}

#[test]
fn a_request_is_no_longer_than_the_driver_is_told() {
    let disk = disk(false);
    // Each segment is the same memory.
    let mut long = vec![(HEADER, 16, NEXT)];
    long.extend([(DATA, 16 << 20, NEXT | WRITE); 14]);
    long.push((STATUS, 1, WRITE));
    let large = Disk {
        sectors: 1 << 40,
        ..disk
    };
    large.file.set_len(1 << 40).unwrap();
    assert_eq!(request(&large, VIRTIO_BLK_T_IN, 0, &long), (1, 1));
    let allowed = [
        (HEADER, 16, NEXT),
        (DATA, 31 << 20, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ];
    assert_eq!(request(&large, VIRTIO_BLK_T_IN, 0, &allowed).1, 0);
}

#[test]
fn a_request_is_given_up_when_the_machine_has_ended() {
    let (disk, brake) = (disk(false), Brake::default());
    // What a pause finds under way is done.
    brake.pause(true);
    let read = || request_with(&brake, &disk, VIRTIO_BLK_T_IN, 0, &plain(WRITE)).1;
    assert_eq!(read(), 0);
    brake.end();
    assert_eq!(read(), 1);
    assert_eq!(
        request_with(&brake, &disk, VIRTIO_BLK_T_OUT, 0, &plain(0)).1,
        1
    );
}
