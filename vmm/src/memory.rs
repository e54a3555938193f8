//! The guest's memory.

use std::fs;

use rustix::mm;
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

/// Maps `bytes` of memory, which no core dump has in it.
pub fn allocate(bytes: u64) -> Result<GuestMemory> {
    let ranges: Vec<_> = regions(bytes)
        .into_iter()
        .map(|(start, length)| (GuestAddress(start), length as usize))
        .collect();
    let memory = GuestMemory::from_ranges(&ranges).map_err(|e| Error::Memory(e.to_string()))?;
    tell(&memory, mm::Advice::LinuxDontDump)
        .map_err(Error::system("keep the guest's memory out of core dumps"))?;
    Ok(memory)
}

/// How the host is to have the memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Advice {
    /// Huge pages, or none; not given: as the host has it.
    pub huge_pages: Option<bool>,
    /// Whether equal pages of several machines may be one.
    pub mergeable: bool,
}

/// Where the kernel says whether it looks for equal pages.
const KSM_RUN: &str = "/sys/kernel/mm/ksm/run";

impl Advice {
    /// Tells the kernel. What it can't do is an error; that it doesn't look for equal pages
    /// now is a warning.
    pub fn give(self, memory: &GuestMemory) -> Result<()> {
        let huge = self.huge_pages.map(|huge| match huge {
            true => (
                mm::Advice::LinuxHugepage,
                "thp=on",
                "transparent huge pages",
            ),
            false => (
                mm::Advice::LinuxNoHugepage,
                "thp=off",
                "transparent huge pages",
            ),
        });
        let merge = (mm::Advice::LinuxMergeable, "ksm=on", "KSM");
        let merge = self.mergeable.then_some(merge);
        for (advice, option, feature) in huge.into_iter().chain(merge) {
            tell(memory, advice).map_err(|error| {
                Error::Refused(format!(
                    "--memory {option}: {error}; this kernel may have no {feature}: leave it away"
                ))
            })?;
        }
        if self.mergeable && fs::read_to_string(KSM_RUN).unwrap_or_default().trim() != "1" {
            log::warn!("ksm=on: the host looks for no equal pages; echo 1 > {KSM_RUN}");
        }
        Ok(())
    }
}

fn tell(memory: &GuestMemory, advice: mm::Advice) -> Result<(), std::io::Error> {
    memory.iter().try_for_each(|region| {
        let start = region.as_ptr().cast();
        // SAFETY: a region is a mapping of this process's, and the advice changes nothing of
        // what is in it.
        Ok(unsafe { mm::madvise(start, region.len() as usize, advice) }?)
    })
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
