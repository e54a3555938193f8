//! Page tables and segment descriptors of the first vCPU, as data.

use super::write;
use crate::Result;
use crate::layout::{GDT, PML4};
use crate::memory::GuestMemory;

/// A segment: its selector and the upper half of its descriptor's fields.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Selector: index in the table times eight.
    pub selector: u16,
    /// Descriptor type: code or data, with access rights.
    pub kind: u8,
    /// 64-bit code.
    pub long: bool,
    /// Default operand size of 32 bits.
    pub big: bool,
}

/// Code and data, at the selectors that Linux calls __BOOT_CS and __BOOT_DS.
pub const SEGMENTS: [Segment; 2] = [
    Segment {
        selector: 0x10,
        kind: 0xb, // code, readable, accessed
        long: true,
        big: false,
    },
    Segment {
        selector: 0x18,
        kind: 0x3, // data, writable, accessed
        long: false,
        big: true,
    },
];

const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;
const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_SIZE: u64 = 2 << 20;
/// Page directories: one a GiB, so that all below 4 GiB is mapped to itself.
const DIRECTORIES: u64 = 4;

impl Segment {
    /// The descriptor: base 0, limit 4 GiB, present, ring 0 (Intel SDM volume 3, 3.4.5).
    fn descriptor(&self) -> u64 {
        let access = 0x90 | u64::from(self.kind);
        let flags = 0x8 | u64::from(self.big) << 2 | u64::from(self.long) << 1;
        flags << 52 | 0xf << 48 | access << 40 | 0xffff
    }
}

/// Writes both tables to where [`crate::layout`] says.
pub fn write_all(memory: &GuestMemory) -> Result<()> {
    for segment in &SEGMENTS {
        let address = GDT + u64::from(segment.selector);
        write(memory, address, &segment.descriptor().to_le_bytes())?;
    }
    let pdpt = PML4 + PAGE;
    let directories = pdpt + PAGE;
    let entry =
        |table: u64, index: u64, value: u64| write(memory, table + index * 8, &value.to_le_bytes());
    entry(PML4, 0, pdpt | PRESENT_WRITABLE)?;
    for directory in 0..DIRECTORIES {
        entry(
            pdpt,
            directory,
            (directories + directory * PAGE) | PRESENT_WRITABLE,
        )?;
    }
    for page in 0..DIRECTORIES * ENTRIES {
        let value = (page * LARGE_PAGE_SIZE) | LARGE_PAGE | PRESENT_WRITABLE;
        entry(directories, page, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_flat() {
        assert_eq!(SEGMENTS[0].descriptor(), 0x00af_9b00_0000_ffff);
        assert_eq!(SEGMENTS[1].descriptor(), 0x00cf_9300_0000_ffff);
    }
}
