//! virtio-vsock: section 5.10 of the virtio 1.2 specification. Streams between programs
//! of the guest and, by Unix sockets, programs of the host.

mod connection;
mod muxer;
mod packet;
mod worker;

pub use muxer::Muxer;
pub use worker::Worker;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use crate::Result;
use crate::config::VsockArg;
use crate::devices::socket::Socket;
use crate::devices::virtio_mmio::Identity;

/// Descriptors of each queue: to the guest, from it, and events.
pub const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// The host's end of a guest's sockets.
#[derive(Debug)]
pub struct Vsock {
    /// The guest's address.
    pub cid: u32,
    /// Its streams.
    pub muxer: Muxer,
    /// The file at which the host's programs find it.
    pub socket: Socket,
}

impl Vsock {
    /// Listens at the socket that `arg` names.
    pub fn open(arg: &VsockArg) -> Result<Self> {
        let (socket, listener) = Socket::bind(&arg.socket)?;
        Ok(Self {
            cid: arg.cid,
            muxer: Muxer::new(arg.cid.into(), socket.path(), listener)?,
            socket,
        })
    }

    /// The device's part, and the file, which outlives it.
    pub fn split(self) -> ((u32, Muxer), Socket) {
        ((self.cid, self.muxer), self.socket)
    }
}

/// What the transport tells the driver: the guest's address.
pub fn identity(cid: u32) -> Identity {
    Identity {
        device_type: VIRTIO_ID_VSOCK,
        features: 0,
        config: u64::from(cid).to_le_bytes().into(),
    }
}
