//! The devices that a guest sees.

pub mod balloon;
pub mod block;
pub mod counters;
pub mod net;
pub mod power;
pub mod pvpanic;
pub mod rng;
pub mod rtc;
pub mod serial;
pub mod socket;
pub mod virtio_mmio;
pub mod vsock;

/// Puts a register's value into the bytes that the guest reads: little endian,
/// zeros above the value's width.
pub(crate) fn put(value: u64, data: &mut [u8]) {
    let bytes = value.to_le_bytes();
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(i).copied().unwrap_or(0);
    }
}

/// The value that the guest writes, at most eight bytes of it.
pub(crate) fn get(data: &[u8]) -> u64 {
    data.iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| (value << 8) | u64::from(byte))
}
