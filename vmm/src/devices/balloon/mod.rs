//! virtio-balloon: section 5.5 of the virtio 1.2 specification, for its free page reporting.
//!
//! The guest's kernel tells which of its memory is free, and the host takes that back; when
//! the guest uses it again it gets zeros. Nobody inflates the balloon: the device never asks
//! for a page, and what a driver puts into it all the same stays where it is.

mod report;
mod worker;

pub use worker::Worker;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use crate::devices::virtio_mmio::Identity;

/// The bit's number, which crate virtio-bindings doesn't have.
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;
/// Descriptors of each queue: inflate, deflate, reporting. Without the features between them
/// the third has number 2. Linux reports only through a queue of 32 or more.
pub const QUEUE_SIZES: [u16; 3] = [16, 16, 64];
/// num_pages, actual, free_page_hint_cmd_id and poison_val, 32 bits each: all 0.
const CONFIG: [u8; 16] = [0; 16];

/// What the transport tells the driver. A guest that poisons its free pages finds no
/// VIRTIO_BALLOON_F_PAGE_POISON and doesn't report: it would find zeros instead.
pub fn identity() -> Identity {
    Identity {
        device_type: VIRTIO_ID_BALLOON,
        features: 1 << VIRTIO_BALLOON_F_REPORTING,
        config: CONFIG.into(),
    }
}

#[cfg(test)]
mod tests;
