//! The kernel's image, checked as far as it can be before there is a VM.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::GuestAddress;

use crate::layout::HIGH_RAM;
use crate::memory::GuestMemory;
use crate::{Error, Result};

/// Offset of the 64-bit entry point in a bzImage's protected-mode part.
const ENTRY_64: u64 = 0x200;
/// The newest boot protocol, for kernels that come without a header of their own.
const BOOT_PROTOCOL: u16 = 0x20f;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Bytes of an ELF file's header up to the machine that it is for.
const ELF_HEAD: usize = 20;
/// In it: 64 bits, little endian; an executable; x86-64.
const ELF_64_LITTLE: [u8; 2] = [2, 1];
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
/// Bytes of a disk's sector, in which a bzImage counts its real-mode part.
const SETUP_SECTOR: u64 = 512;

/// A kernel in the guest's memory.
pub struct Kernel {
    /// Where it starts.
    pub entry: u64,
    /// Where the memory that it needs ends.
    pub end: u64,
    /// What it says of itself, or what is said for it.
    pub header: setup_header,
}

/// Loads it; `path` is for messages.
pub fn load(memory: &GuestMemory, path: &Path, file: &mut File) -> Result<Kernel> {
    let fail = |reason: String| Error::Kernel {
        path: path.to_path_buf(),
        reason,
    };
    let mut head = Vec::new();
    (&*file)
        .take(ELF_HEAD as u64)
        .read_to_end(&mut head)
        .and_then(|_| file.seek(SeekFrom::Start(0)))
        .map_err(|error| fail(format!("cannot be read: {error}")))?;
    let kernel = match head.starts_with(&ELF_MAGIC) {
        true => load_elf(memory, &head, file),
        false => load_bzimage(memory, file),
    };
    kernel.map_err(fail)
}

/// An image's part, or why it is not loaded.
type Loaded<T> = std::result::Result<T, String>;

fn load_elf(memory: &GuestMemory, head: &[u8], file: &mut File) -> Loaded<Kernel> {
    check_elf(head)?;
    let start = Some(GuestAddress(HIGH_RAM));
    let loaded = Elf::load(memory, None, file, start).map_err(no_kernel)?;
    let entry = loaded.kernel_load.0;
    if !(HIGH_RAM..loaded.kernel_end).contains(&entry) {
        return Err(format!("starts at {entry:#x}, where nothing of it is"));
    }
    let header = setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: BOOT_PROTOCOL,
        initrd_addr_max: i32::MAX as u32,
        ..Default::default()
    };
    Ok(kernel(entry, &loaded, header))
}

fn check_elf(head: &[u8]) -> Loaded<()> {
    let half = |at: usize| {
        let bytes = head.get(at..at + 2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    };
    let known = head.get(4..6) == Some(&ELF_64_LITTLE)
        && half(16) == Some(ET_EXEC)
        && half(18) == Some(EM_X86_64);
    match known {
        true => Ok(()),
        false => Err("is no executable for x86-64".into()),
    }
}

fn load_bzimage(memory: &GuestMemory, file: &mut File) -> Loaded<Kernel> {
    let start = Some(GuestAddress(HIGH_RAM));
    let loaded = BzImage::load(memory, None, file, start).map_err(no_kernel)?;
    let header = loaded.setup_header.unwrap_or_default();
    if header.xloadflags & 1 == 0 {
        return Err("has no 64-bit entry point".into());
    }
    let there = file.metadata().map_or(0, |file| file.len());
    let whole = image_size(&header);
    if there < whole {
        return Err(format!("is cut short: it has {there} bytes of {whole}"));
    }
    let entry = loaded.kernel_load.0 + ENTRY_64;
    Ok(kernel(entry, &loaded, header))
}

/// Bytes of a bzImage by its own header: the real-mode part with its first sector, then
/// paragraphs of 16 bytes.
fn image_size(header: &setup_header) -> u64 {
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    (sectors + 1) * SETUP_SECTOR + u64::from(header.syssize) * 16
}

fn kernel(entry: u64, loaded: &KernelLoaderResult, mut header: setup_header) -> Kernel {
    // An old header field that 64-bit kernels don't read, but some tools do.
    header.code32_start = HIGH_RAM as u32;
    // Where a compressed kernel unpacks itself, it needs init_size bytes.
    let unpacked = header.pref_address.saturating_add(header.init_size.into());
    Kernel {
        entry,
        end: loaded.kernel_end.max(unpacked),
        header,
    }
}

fn no_kernel(error: impl std::fmt::Display) -> String {
    format!("{error}; give a bzImage or an ELF vmlinux, and enough --mem")
}
