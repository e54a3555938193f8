//! Puts everything into memory that a kernel finds when it starts: the 64-bit
//! boot protocol of Documentation/arch/x86/boot.rst.

mod acpi;
mod images;
mod kernel;
mod registers;
mod tables;

use std::fs::File;
use std::path::Path;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

pub use images::Images;
pub use registers::prepare;

use crate::config::Config;
use crate::layout::{ACPI, CMDLINE, HIGH_RAM, LOW_RAM_END, MMIO_GAP, MMIO_GAP_END, ZERO_PAGE};
use crate::memory::{GuestMemory, low_end};
use crate::{Error, Result};

/// e820 types: usable memory, and memory to leave alone.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const PAGE: u64 = 4096;

/// Loads all; returns the address at which the first vCPU starts.
pub fn load(memory: &GuestMemory, config: &Config, images: &mut Images) -> Result<u64> {
    let kernel = kernel::load(memory, &images.kernel.0, &mut images.kernel.1)?;
    if kernel.end > low_end(memory) {
        return Err(too_small("kernel", &images.kernel.0, kernel.end, MMIO_GAP));
    }
    let mut header = kernel.header;
    if let Some((path, file)) = &mut images.initrd {
        let (address, size) = load_initrd(memory, &header, kernel.end, path, file)?;
        header.ramdisk_image = address;
        header.ramdisk_size = size;
    }
    let mut cmdline = config.cmdline.clone().into_bytes();
    cmdline.push(0);
    write(memory, CMDLINE, &cmdline)?;
    header.type_of_loader = 0xff;
    header.cmd_line_ptr = CMDLINE as u32;

    let rsdp = acpi::write(memory, config.cpus, config.virtio_devices())?;
    let mut zero_page = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    fill_memory_map(&mut zero_page, config.mem, low_end(memory));
    write(memory, ZERO_PAGE, zero_page.as_slice())?;
    tables::write_all(memory)?;
    Ok(kernel.entry)
}

/// Copies bytes into the guest's memory.
fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<()> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|e| Error::Memory(e.to_string()))
}

/// Puts the ram disk as high as the kernel and the memory allow.
fn load_initrd(
    memory: &GuestMemory,
    header: &setup_header,
    kernel_end: u64,
    path: &Path,
    file: &mut File,
) -> Result<(u32, u32)> {
    let size = file
        .metadata()
        .map_err(Error::file("look at", "initrd", path))?
        .len();
    let limit = MMIO_GAP.min(u64::from(header.initrd_addr_max) + 1);
    let top = low_end(memory).min(limit);
    let address = top.saturating_sub(size) & !(PAGE - 1);
    if address < kernel_end {
        return Err(too_small(
            "kernel and initrd",
            path,
            kernel_end.saturating_add(size),
            limit,
        ));
    }
    memory
        .read_exact_volatile_from(GuestAddress(address), file, size as usize)
        .map_err(|e| Error::Memory(format!("initrd {}: {e}", path.display())))?;
    // Below 4 GiB by the choice of `top`.
    Ok((address as u32, size as u32))
}

/// What to do about something that would end at `end`, where its kind has to end by `limit`.
fn too_small(what: &str, path: &Path, end: u64, limit: u64) -> Error {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let path = path.display();
    // A page or two of the tables are between them.
    if end > limit.saturating_sub(1 << 20) {
        return Error::Usage(format!(
            "{what} {path} would need memory up to {}M: no --mem helps, it has to be below {}M",
            mib(end),
            mib(limit)
        ));
    }
    Error::Memory(format!(
        "too small for {what} {path}: give at least --mem {}M",
        mib(end) + 1
    ))
}

fn fill_memory_map(zero_page: &mut boot_params, bytes: u64, low_end: u64) {
    let high = bytes - low_end;
    let entries = [
        (0, LOW_RAM_END, RAM),
        (ACPI, HIGH_RAM - ACPI, RESERVED),
        (HIGH_RAM, low_end - HIGH_RAM, RAM),
        (MMIO_GAP_END, high, RAM),
    ];
    let used = entries.into_iter().filter(|(_, size, _)| *size > 0);
    for (slot, (addr, size, kind)) in zero_page.e820_table.iter_mut().zip(used) {
        *slot = boot_e820_entry {
            addr,
            size,
            r#type: kind,
        };
        zero_page.e820_entries += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_covers_memory_and_spares_the_tables() {
        let mut zero_page = boot_params::default();
        fill_memory_map(&mut zero_page, 4 << 30, 3 << 30);
        let entries: Vec<_> = zero_page.e820_table[..usize::from(zero_page.e820_entries)]
            .iter()
            .map(|e| (e.addr, e.size, e.r#type))
            .collect();
        let expected = [
            (0, 0x9fc00, RAM),
            (0xe0000, 0x20000, RESERVED),
            (0x100000, (3 << 30) - 0x100000, RAM),
            (1 << 32, 1 << 30, RAM),
        ];
        assert_eq!(entries, expected);
    }
}
