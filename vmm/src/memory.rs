//! The guest's memory.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout::{MMIO_GAP, MMIO_GAP_END};
use crate::{Error, Result};

/// The guest's memory, mapped into this process.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// Start and length of each region for `bytes` of memory: around the gap for devices.
pub fn regions(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(MMIO_GAP);
    let high = bytes - low;
    let mut regions = vec![(0, low)];
    if high > 0 {
        regions.push((MMIO_GAP_END, high));
    }
    regions
}

/// Maps `bytes` of memory.
pub fn allocate(bytes: u64) -> Result<GuestMemory> {
    let ranges: Vec<_> = regions(bytes)
        .into_iter()
        .map(|(start, length)| (GuestAddress(start), length as usize))
        .collect();
    GuestMemory::from_ranges(&ranges).map_err(|e| Error::Memory(e.to_string()))
}

/// End of the memory below the gap.
pub fn low_end(memory: &GuestMemory) -> u64 {
    memory
        .iter()
        .map(|region| region.start_addr().0 + region.len())
        .find(|&end| end <= MMIO_GAP)
        .unwrap_or(MMIO_GAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_gap() {
        assert_eq!(regions(1 << 28), [(0, 1 << 28)]);
        assert_eq!(regions(4 << 30), [(0, 3 << 30), (MMIO_GAP_END, 1 << 30)]);
    }
}
