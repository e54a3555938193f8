//! virtio-net: section 5.1 of the virtio 1.2 specification. Plain frames: neither
//! checksums nor segmentation are left to the host, and a frame takes one buffer.

mod tap;
mod worker;

pub use tap::open as open_tap;
pub use worker::Worker;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;

use crate::config::Net;
use crate::devices::virtio_mmio::Identity;

/// Descriptors of each queue: first to the guest, then from it.
pub const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Bytes before each frame; of a frame to the guest the last two are the number of
/// its buffers.
const HEADER: usize = 12;
/// The longest frame in bytes: a tap's largest MTU with its Ethernet header fits.
const FRAME: usize = 65_550;

/// What the transport tells the driver of `net`.
pub fn identity(net: &Net) -> Identity {
    Identity {
        device_type: VIRTIO_ID_NET,
        features: u64::from(net.mac.is_some()) << VIRTIO_NET_F_MAC,
        config: net.mac.unwrap_or_default().to_vec(),
    }
}
