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
        read_only,
        ..Disk::mock(file, 4)
    }
}

/// The guest's ranges for a discard: sector, sectors, flags of each.
fn ranges(ranges: &[(u64, u32, u32)]) -> Vec<u8> {
    let bytes = ranges.iter().flat_map(|&(sector, count, flags)| {
        let tail = [count.to_le_bytes(), flags.to_le_bytes()].concat();
        [sector.to_le_bytes().as_slice(), &tail].concat()
    });
    bytes.collect()
}

/// Runs a request that gives ranges back; returns the status byte.
fn give_back(disk: &Disk, kind: u32, ranges: &[u8]) -> u8 {
    let descriptors = [
        (HEADER, 16, NEXT),
        (DATA, ranges.len() as u32, NEXT),
        (STATUS, 1, WRITE),
    ];
    request_of(ranges, &Brake::default(), disk, (kind, 0), &descriptors).1
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
    request_of(&[9; 512], brake, disk, (kind, sector), descriptors)
}

/// The same with this data.
fn request_of(
    data: &[u8],
    brake: &Brake,
    disk: &Disk,
    (kind, sector): (u32, u64),
    descriptors: &[(u64, u32, u16)],
) -> (u32, u8) {
    let memory = memory::allocate(64 << 20).unwrap();
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
    memory.write_slice(data, GuestAddress(DATA)).unwrap();
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
    let counters = Counters::default();
    let used = serve(disk, (brake, &counters), &memory, chain);
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

/// A disk of 256 KiB of sevens.
fn filled() -> Disk {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 512 * 512]).unwrap();
    file.sync_all().unwrap();
    Disk::mock(file, 512)
}

/// The first byte of a sector.
fn first_byte(disk: &Disk, sector: u64) -> u8 {
    let mut byte = [0];
    disk.file.read_exact_at(&mut byte, sector * SECTOR).unwrap();
    byte[0]
}

#[test]
fn discarded_blocks_are_the_host_s_again() {
    use std::os::unix::fs::MetadataExt;
    let disk = filled();
    let before = disk.file.metadata().unwrap();
    let both = ranges(&[(0, 128, 0), (256, 128, 0)]);
    assert_eq!(give_back(&disk, VIRTIO_BLK_T_DISCARD, &both), 0);
    let after = disk.file.metadata().unwrap();
    assert_eq!(before.blocks() - after.blocks(), 256, "blocks of 512 bytes");
    assert_eq!(after.len(), before.len());
    let bytes = [0, 127, 128, 255, 256, 384].map(|sector| first_byte(&disk, sector));
    assert_eq!(bytes, [0, 0, 7, 7, 0, 7]);
}

#[test]
fn zeroes_may_be_written_with_and_without_giving_back() {
    let disk = filled();
    let unmap = ranges(&[(8, 8, 1)]);
    assert_eq!(give_back(&disk, VIRTIO_BLK_T_WRITE_ZEROES, &unmap), 0);
    assert_eq!([7, 8, 15, 16].map(|n| first_byte(&disk, n)), [7, 0, 0, 7]);
    // Not every file system has it.
    let keep = give_back(&disk, VIRTIO_BLK_T_WRITE_ZEROES, &ranges(&[(32, 8, 0)]));
    match keep {
        0 => assert_eq!([31, 32, 40].map(|n| first_byte(&disk, n)), [7, 0, 7]),
        _ => assert_eq!((keep, first_byte(&disk, 32)), (2, 7)),
    }
}

#[test]
fn no_range_is_touched_unless_all_are_on_the_disk() {
    let disk = filled();
    let good = (0, 8, 0);
    for bad in [
        (512, 1, 0),
        (511, 2, 0),
        (u64::MAX, 1, 0),
        (u64::MAX / 512, 8, 0),
        (0, 0, 0),
        (0, u32::MAX, 0),
        (0, discard::SECTORS + 1, 0),
    ] {
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(give_back(&disk, kind, &ranges(&[good, bad])), 1, "{bad:?}");
        }
    }
    // Flags that the kind doesn't have.
    for (kind, flags) in [(VIRTIO_BLK_T_DISCARD, 1), (VIRTIO_BLK_T_WRITE_ZEROES, 2)] {
        assert_eq!(give_back(&disk, kind, &ranges(&[good, (8, 8, flags)])), 2);
    }
    let many = vec![good; discard::RANGES as usize + 1];
    for size in [0, 1, 15, 17, 31, many.len() * 16] {
        let bytes = &ranges(&many)[..size];
        assert_eq!(give_back(&disk, VIRTIO_BLK_T_DISCARD, bytes), 1, "{size}");
    }
    assert_eq!([0, 511].map(|n| first_byte(&disk, n)), [7, 7]);
    assert_eq!(disk.file.metadata().unwrap().len(), 512 * SECTOR);
}

#[test]
fn a_disk_that_gives_nothing_back_refuses() {
    let fixed = Disk {
        discard: false,
        ..filled()
    };
    let range = ranges(&[(0, 8, 0)]);
    assert_eq!(give_back(&fixed, VIRTIO_BLK_T_DISCARD, &range), 2);
    let read_only = Disk {
        read_only: true,
        ..filled()
    };
    assert_eq!(give_back(&read_only, VIRTIO_BLK_T_DISCARD, &range), 1);
    assert_eq!(first_byte(&read_only, 0), 7);
}
