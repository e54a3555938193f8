//! virtio-blk: section 5.2 of the virtio 1.2 specification.

mod disk;
mod request;
mod worker;

pub use disk::{Disk, SECTOR};
pub use worker::Worker;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
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
    let mut config = disk.sectors.to_le_bytes().to_vec();
    config.extend(SIZE_MAX.to_le_bytes());
    config.extend(SEG_MAX.to_le_bytes());
    Identity {
        device_type: VIRTIO_ID_BLOCK,
        features,
        config,
    }
}
