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

/// Fills a request with the host's random bytes; returns how many it got.
fn serve(memory: &GuestMemory, chain: Chain) -> u32 {
    let Ok(mut output) = chain.writer(memory) else {
        return 0;
    };
    let mut bytes = [0; MOST];
    let wanted = output.available_bytes().min(MOST);
    let Ok(size) = getrandom(&mut bytes[..wanted], GetRandomFlags::empty()) else {
        return 0;
    };
    match output.write_all(&bytes[..size]) {
        Ok(()) => size as u32,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests;
