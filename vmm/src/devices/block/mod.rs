//! virtio-blk: section 5.2 of the virtio 1.2 specification.

mod discard;
mod disk;
mod lock;
mod request;
mod worker;

pub use disk::{Disk, SECTOR};
pub use worker::Worker;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::devices::virtio_mmio::Identity;

/// Descriptors of the one queue.
pub const QUEUE_SIZE: u16 = 256;
/// Segments of a request: a queue's descriptors less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of a segment.
const SIZE_MAX: u32 = 128 * 1024;

/// What the transport tells the driver of `disk`.
pub fn identity(disk: &Disk) -> Identity {
    let mut features =
        1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_SIZE_MAX;
    if disk.read_only {
        features |= 1 << VIRTIO_BLK_F_RO;
    }
    if u64::from(disk.block) != SECTOR {
        features |= 1 << VIRTIO_BLK_F_BLK_SIZE;
    }
    if disk.discard {
        features |= 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    }
    Identity {
        device_type: VIRTIO_ID_BLOCK,
        features,
        config: config(disk),
    }
}

/// struct virtio_blk_config; a field whose feature isn't offered is 0.
fn config(disk: &Disk) -> Vec<u8> {
    let mut config = disk.sectors.to_le_bytes().to_vec();
    let words = [SIZE_MAX, SEG_MAX, 0, disk.block]; // the third is geometry
    config.extend(words.map(u32::to_le_bytes).concat());
    config.extend([0; 12]); // topology, writeback, num_queues
    let ranges = [
        discard::SECTORS, // max_discard_sectors
        discard::RANGES,  // max_discard_seg
        discard::ALIGNMENT,
        discard::SECTORS, // max_write_zeroes_sectors
        discard::RANGES,  // max_write_zeroes_seg
        1,                // write_zeroes_may_unmap, three bytes unused
    ];
    if disk.discard {
        config.extend(ranges.map(u32::to_le_bytes).concat());
    }
    config
}
