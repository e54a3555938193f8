//! Discard and write-zeroes: ranges of the disk that need no room on the host any more.

use std::io::Read;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtio_bindings::virtio_blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

use super::disk::{Disk, SECTOR};
use super::request::{Reader, Refused, go_on};
use crate::brake::Brake;

/// Ranges of a request at most.
pub const RANGES: u32 = 16;
/// Sectors of a range at most: 1 GiB.
pub const SECTORS: u32 = 1 << 21;
/// Sectors from one place where a range best begins to the next: a page of the host's.
pub const ALIGNMENT: u32 = 8;
/// Bytes of struct virtio_blk_discard_write_zeroes.
const RANGE_SIZE: usize = 16;

/// What becomes of the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody reads them before they are written.
    Discard,
    /// They read as zeros.
    WriteZeroes,
}

/// A range in bytes.
struct Range {
    start: u64,
    length: u64,
    /// Whether the host may take the blocks.
    unmap: bool,
}

/// Carries out a request whose ranges `input` has: all are checked before the first is
/// touched.
pub fn serve(disk: &Disk, brake: &Brake, kind: Kind, input: &mut Reader) -> Result<(), Refused> {
    if disk.read_only {
        return Err(Refused::Io);
    }
    if !disk.discard {
        return Err(Refused::Unsupported);
    }
    let size = input.available_bytes();
    let most = RANGES as usize * RANGE_SIZE;
    if size == 0 || size > most || !size.is_multiple_of(RANGE_SIZE) {
        return Err(Refused::Io);
    }
    let mut bytes = [0; RANGES as usize * RANGE_SIZE];
    input.read_exact(&mut bytes[..size])?;
    let (ranges, _) = bytes[..size].as_chunks();
    let ranges: Vec<Range> = ranges
        .iter()
        .map(|bytes| parse(disk, kind, bytes))
        .collect::<Result<_, _>>()?;
    ranges.iter().try_for_each(|range| {
        go_on(brake)?;
        give_back(disk, range)
    })
}

/// sector: le64, number of sectors: le32, flags: le32.
fn parse(disk: &Disk, kind: Kind, bytes: &[u8; RANGE_SIZE]) -> Result<Range, Refused> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = *bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let count = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes(flags);
    let known = match kind {
        Kind::Discard => 0,
        Kind::WriteZeroes => VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
    };
    if flags & !known != 0 {
        return Err(Refused::Unsupported);
    }
    let end = sector.checked_add(count.into()).ok_or(Refused::Io)?;
    if !(1..=SECTORS).contains(&count) || end > disk.sectors {
        return Err(Refused::Io);
    }
    Ok(Range {
        start: sector * SECTOR,
        length: u64::from(count) * SECTOR,
        unmap: kind == Kind::Discard || flags != 0,
    })
}

/// A hole reads as zeros. The file's size stays.
fn give_back(disk: &Disk, range: &Range) -> Result<(), Refused> {
    let how = match range.unmap {
        true => FallocateFlags::PUNCH_HOLE,
        false => FallocateFlags::ZERO_RANGE,
    };
    let done = fallocate(
        &disk.file,
        how | FallocateFlags::KEEP_SIZE,
        range.start,
        range.length,
    );
    done.map_err(|error| match error {
        // Of the image's file system: the driver then goes without.
        Errno::OPNOTSUPP => Refused::Unsupported,
        _ => Refused::Io,
    })
}
