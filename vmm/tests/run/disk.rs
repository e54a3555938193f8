//! What a guest does to its disk's image, behind all filters.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use tempfile::NamedTempFile;

use crate::payload::{NEXT, Payload, Ring, WRITE, virtio};
use crate::{no_kvm, vmm};

const HEADER: u32 = 0x30_3000;
const RANGE: u32 = 0x30_4000;
const STATUS: u32 = 0x30_5000;

/// Discards 128 sectors from sector 8 on, and prints the status.
fn discard() -> Payload {
    let ring = Ring(0x30_0000);
    Payload::default()
        .set_up(virtio(0), 0, &[ring])
        .poke32(HEADER, 11)
        .poke32(HEADER + 8, 0)
        .poke32(RANGE, 8)
        .poke32(RANGE + 8, 128)
        .poke32(STATUS, 0xff)
        .describe(ring, 0, HEADER, 16, NEXT | 1 << 16)
        .describe(ring, 1, RANGE, 16, NEXT | 2 << 16)
        .describe(ring, 2, STATUS, 1, WRITE)
        .offer(virtio(0), 0, ring, &[0])
        .wait_for_change(STATUS, 0xff)
        .print_from(STATUS)
        .power_off()
}

/// Runs it on an image of sevens; returns the status, the blocks that the host has back, and
/// the first bytes of sectors 7, 8, 135 and 136.
fn run(keys: &str) -> (u8, u64, [u8; 4]) {
    let image = NamedTempFile::new().unwrap();
    std::fs::write(image.path(), [7; 512 * 512]).unwrap();
    File::open(image.path()).unwrap().sync_all().unwrap();
    let before = image.as_file().metadata().unwrap().blocks();
    let kernel = discard().elf();
    let disk = format!("path={}{keys}", image.path().display());
    let output = vmm(kernel.path()).args(["--disk", &disk]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let byte = |sector: u64| {
        let mut byte = [0];
        image
            .as_file()
            .read_exact_at(&mut byte, sector * 512)
            .unwrap();
        byte[0]
    };
    let after = image.as_file().metadata().unwrap().blocks();
    (output.stdout[0], before - after, [7, 8, 135, 136].map(byte))
}

#[test]
fn a_guest_gives_blocks_back_where_it_may() {
    if no_kvm() {
        return;
    }
    assert_eq!(run(""), (0, 128, [7, 0, 0, 7]));
    assert_eq!(run(",discard=off"), (2, 0, [7, 7, 7, 7]));
    assert_eq!(run(",ro"), (1, 0, [7, 7, 7, 7]));
}
