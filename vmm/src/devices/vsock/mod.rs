//! virtio-vsock: section 5.10 of the virtio 1.2 specification. Streams between programs
//! of the guest and, by Unix sockets, programs of the host.

mod connection;
mod muxer;
mod packet;
mod socket;
mod worker;

pub use muxer::Muxer;
pub use socket::Socket;
pub use worker::Worker;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use crate::devices::virtio_mmio::Identity;

/// Descriptors of each queue: to the guest, from it, and events.
pub const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// What the transport tells the driver: the guest's address.
pub fn identity(cid: u32) -> Identity {
    Identity {
        device_type: VIRTIO_ID_VSOCK,
        features: 0,
        config: u64::from(cid).to_le_bytes().into(),
    }
}
