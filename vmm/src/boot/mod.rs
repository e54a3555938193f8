//! Puts everything into memory that a kernel finds when it starts: the 64-bit
//! boot protocol of Documentation/arch/x86/boot.rst.

mod acpi;
mod images;
mod registers;
mod tables;

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{ByteValued, Bytes, GuestAddress};

pub use images::Images;
pub use registers::prepare;

use crate::config::Config;
use crate::layout::{ACPI, CMDLINE, HIGH_RAM, LOW_RAM_END, MMIO_GAP_END, ZERO_PAGE};
use crate::memory::{GuestMemory, low_end};
use crate::{Error, Result};

/// e820 types: usable memory, and memory to leave alone.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// Offset of the 64-bit entry point in a bzImage's protected-mode part.
const ENTRY_64: u64 = 0x200;
/// The newest boot protocol, for kernels that come without a header of their own.
const BOOT_PROTOCOL: u16 = 0x20f;
const PAGE: u64 = 4096;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Loads all; returns the address at which the first vCPU starts.
pub fn load(memory: &GuestMemory, config: &Config, images: &mut Images) -> Result<u64> {
    let kernel = load_kernel(memory, &images.kernel.0, &mut images.kernel.1)?;
    if kernel.end > low_end(memory) {
        return Err(too_small("kernel", &images.kernel.0, kernel.end));
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

struct Kernel {
    entry: u64,
    end: u64,
    header: setup_header,
}

fn load_kernel(memory: &GuestMemory, path: &Path, file: &mut File) -> Result<Kernel> {
    let fail = |reason: String| Error::Kernel {
        path: path.to_path_buf(),
        reason,
    };
    let mut magic = [0; 4];
    file.read_exact(&mut magic)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => fail("is empty; give a bzImage or an ELF vmlinux".into()),
            _ => fail(format!("cannot be read: {e}")),
        })?;
    let is_elf = magic == ELF_MAGIC;
    let start = Some(GuestAddress(HIGH_RAM));
    let loaded: KernelLoaderResult = if is_elf {
        Elf::load(memory, None, file, start)
    } else {
        BzImage::load(memory, None, file, start)
    }
    .map_err(|e| {
        fail(format!(
            "{e}; give a bzImage or an ELF vmlinux, and enough --mem"
        ))
    })?;
    let mut header = loaded.setup_header.unwrap_or(setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: BOOT_PROTOCOL,
        initrd_addr_max: i32::MAX as u32,
        ..Default::default()
    });
    if !is_elf && header.xloadflags & 1 == 0 {
        return Err(fail("has no 64-bit entry point".into()));
    }
    // An old header field that 64-bit kernels don't read, but some tools do.
    header.code32_start = HIGH_RAM as u32;
    Ok(Kernel {
        entry: loaded.kernel_load.0 + if is_elf { 0 } else { ENTRY_64 },
        // Where a compressed kernel unpacks itself, it needs init_size bytes.
        end: loaded
            .kernel_end
            .max(header.pref_address.saturating_add(header.init_size.into())),
        header,
    })
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
    let top = low_end(memory).min(u64::from(header.initrd_addr_max) + 1);
    let address = top.saturating_sub(size) & !(PAGE - 1);
    if address < kernel_end {
        return Err(too_small(
            "kernel and initrd",
            path,
            kernel_end.saturating_add(size),
        ));
    }
    memory
        .read_exact_volatile_from(GuestAddress(address), file, size as usize)
        .map_err(|e| Error::Memory(format!("initrd {}: {e}", path.display())))?;
    // Below 4 GiB by the choice of `top`.
    Ok((address as u32, size as u32))
}

fn too_small(what: &str, path: &Path, end: u64) -> Error {
    Error::Memory(format!(
        "too small for {what} {}: give at least --mem {}M",
        path.display(),
        end.div_ceil(1 << 20) + 1
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
