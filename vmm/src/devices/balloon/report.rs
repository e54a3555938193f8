//! Gives memory that the guest reports as free back to the host.

use rustix::mm::{Advice, madvise};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::devices::virtio_mmio::Chain;
use crate::memory::GuestMemory;

/// Ranges of a report at most; Linux has 32. What is above stays the guest's.
const RANGES: usize = 64;
/// The host's page in bytes.
const PAGE: u64 = 4096;

/// Takes a report; returns how many bytes the host has back. A range that isn't the
/// guest's memory, or that the device may not write to, is left alone.
pub fn take(memory: &GuestMemory, chain: Chain) -> u64 {
    let ranges = chain.take(RANGES).filter(|range| range.is_write_only());
    ranges
        .filter_map(|range| give_back(memory, range.addr(), range.len().into()))
        .sum()
}

/// Gives back the whole pages of `length` bytes at `start`: how many bytes they are. The
/// range must be in one region.
fn give_back(memory: &GuestMemory, start: GuestAddress, length: u64) -> Option<u64> {
    let region = memory.find_region(start)?;
    let end = start.0.checked_add(length)?;
    if end > region.start_addr().0 + region.len() {
        return None;
    }
    let first = start.0.checked_next_multiple_of(PAGE)?;
    let length = (end - end % PAGE).checked_sub(first).filter(|&n| n > 0)?;
    let host = memory.get_host_address(GuestAddress(first)).ok()?;
    // SAFETY: `length` bytes from there are one region's anonymous, private mapping, which
    // `memory` keeps. Whoever else has them, the guest and other devices, reads and writes
    // them as memory that the guest may change at any time.
    unsafe { madvise(host.cast(), length as usize, Advice::LinuxDontNeed) }.ok()?;
    Some(length)
}
