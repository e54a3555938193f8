//! virtio-rng: section 5.4 of the virtio 1.2 specification.

mod worker;

pub use worker::Worker;

use std::io::Write;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::devices::virtio_mmio::{Chain, Identity};
use crate::memory::GuestMemory;

/// Descriptors of the one queue.
pub const QUEUE_SIZE: u16 = 64;
/// Bytes that a request gets at most: getrandom gives that many without interruption,
/// and the driver asks again for more.
const MOST: usize = 256;

/// What the transport tells the driver.
pub fn identity() -> Identity {
    Identity {
        device_type: VIRTIO_ID_RNG,
        features: 0,
        config: Vec::new(),
    }
}

/// Where the bytes come from: fills the beginning of a request and tells how much of it.
pub type Source = fn(&mut [u8]) -> Option<usize>;

/// The host's random bytes.
pub fn host(bytes: &mut [u8]) -> Option<usize> {
    getrandom(bytes, GetRandomFlags::empty()).ok()
}

/// Fills a request; returns how many bytes it got.
fn serve(source: Source, memory: &GuestMemory, chain: Chain) -> u32 {
    let Ok(mut output) = chain.writer(memory) else {
        return 0;
    };
    let mut bytes = [0; MOST];
    let wanted = output.available_bytes().min(MOST);
    let Some(size) = source(&mut bytes[..wanted]) else {
        return 0;
    };
    match output.write_all(&bytes[..size]) {
        Ok(()) => size as u32,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests;
