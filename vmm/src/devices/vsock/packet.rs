//! The header of a packet: section 5.10.6 of the virtio 1.2 specification.
//!
//! The crate virtio-vsock has one too, but takes a packet only from one or two
//! descriptors; a driver may cut it as it likes, and Linux does when it sends without
//! copying.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();
/// Most bytes behind a header: what Linux sends at once.
pub const PAYLOAD: usize = 64 * 1024;
/// The host's address.
pub const VMADDR_CID_HOST: u64 = 2;
/// The only kind of socket here: a stream.
pub const VIRTIO_VSOCK_TYPE_STREAM: u16 = 1;

/// Asks for a connection.
pub const VIRTIO_VSOCK_OP_REQUEST: u16 = 1;
/// Accepts it.
pub const VIRTIO_VSOCK_OP_RESPONSE: u16 = 2;
/// Ends it at once, or refuses it.
pub const VIRTIO_VSOCK_OP_RST: u16 = 3;
/// Says in the flags what the sender won't do any more.
pub const VIRTIO_VSOCK_OP_SHUTDOWN: u16 = 4;
/// Carries bytes.
pub const VIRTIO_VSOCK_OP_RW: u16 = 5;
/// Tells how much room there is.
pub const VIRTIO_VSOCK_OP_CREDIT_UPDATE: u16 = 6;
/// Asks for that.
pub const VIRTIO_VSOCK_OP_CREDIT_REQUEST: u16 = 7;

/// Flag of a shutdown: receives no more.
pub const VIRTIO_VSOCK_SHUTDOWN_RCV: u32 = 1;
/// Flag of a shutdown: sends no more.
pub const VIRTIO_VSOCK_SHUTDOWN_SEND: u32 = 2;

/// A packet's header, little endian.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct Header {
    /// The sender's address.
    pub src_cid: U64,
    /// The receiver's.
    pub dst_cid: U64,
    /// The sender's port.
    pub src_port: U32,
    /// The receiver's.
    pub dst_port: U32,
    /// Bytes that follow.
    pub len: U32,
    /// The kind of socket.
    pub r#type: U16,
    /// What the packet is for.
    pub op: U16,
    /// What a shutdown ends.
    pub flags: U32,
    /// Bytes that the sender's buffer holds in all.
    pub buf_alloc: U32,
    /// Bytes that have left that buffer since the connection began, modulo 2^32.
    pub fwd_cnt: U32,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

impl Header {
    /// A packet to the guest at `cid`, without bytes and without room.
    pub fn to_guest(cid: u64, ports: Ports, op: u16) -> Self {
        Self {
            src_cid: VMADDR_CID_HOST.into(),
            dst_cid: cid.into(),
            src_port: ports.host.into(),
            dst_port: ports.guest.into(),
            r#type: VIRTIO_VSOCK_TYPE_STREAM.into(),
            op: op.into(),
            ..Self::default()
        }
    }

    /// The ports of a packet from the guest.
    pub fn ports(&self) -> Ports {
        Ports {
            host: self.dst_port.get(),
            guest: self.src_port.get(),
        }
    }
}
