//! virtio-net: section 5.1 of the virtio 1.2 specification. Checksums and the cutting of
//! long TCP segments are left to the host's kernel, as far as the guest likes: the tap
//! takes and gives the same headers as virtio.

mod receive;
mod tap;
mod worker;

pub use tap::Tap;
pub use worker::Worker;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};

use crate::Result;
use crate::config::NetArg;
use crate::devices::virtio_mmio::Identity;

/// Descriptors of each queue: first to the guest, then from it.
pub const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Bytes before each frame: struct virtio_net_hdr_v1.
const HEADER: usize = 12;
/// The longest frame in bytes: the longest IP packet with its Ethernet header fits.
const FRAME: usize = 65_550;
/// What the host's kernel does for a guest that wants it: checksums and segments of the
/// guest's frames, then those that the guest takes without.
const OFFLOADS: [u32; 6] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
];

/// A tap that this machine has for itself.
#[derive(Debug)]
pub struct Net {
    /// The open tap.
    pub tap: Tap,
    /// The guest's Ethernet address; without one the guest chooses.
    pub mac: Option<[u8; 6]>,
}

impl Net {
    /// Attaches to the tap that `arg` names.
    pub fn open(arg: &NetArg) -> Result<Self> {
        Ok(Self {
            tap: Tap::open(&arg.tap)?,
            mac: arg.mac,
        })
    }
}

/// What the transport tells the driver of `net`.
pub fn identity(net: &Net) -> Identity {
    let mut features = 1 << VIRTIO_NET_F_MRG_RXBUF;
    features |= u64::from(net.mac.is_some()) << VIRTIO_NET_F_MAC;
    if net.tap.offloads() {
        features |= OFFLOADS.iter().fold(0, |bits, bit| bits | 1 << bit);
    }
    Identity {
        device_type: VIRTIO_ID_NET,
        features,
        config: net.mac.unwrap_or_default().to_vec(),
    }
}
