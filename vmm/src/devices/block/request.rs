//! One request of a guest, which may be hostile, on a disk.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;

use super::discard::{self, Kind};
use super::disk::{Disk, SECTOR};
use super::{SEG_MAX, SIZE_MAX};
use crate::brake::Brake;
use crate::devices::counters::Counters;
use crate::memory::GuestMemory;

/// Data goes through a buffer of this many bytes, however much a guest asks for.
const CHUNK: usize = 64 * 1024;
/// The address of the buffer is a multiple of this many bytes, as direct transfers want it.
const ALIGNMENT: usize = 4096;
/// Longest transfer in bytes: as many segments as the driver is told, each as long.
const REQUEST_MAX: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// What a request brings.
pub type Reader<'a> = virtio_queue::Reader<'a>;
type Writer<'a> = virtio_queue::Writer<'a>;

/// Why a request gets another status than "ok".
pub enum Refused {
    /// Outside the disk, of a wrong size, against read-only, or failed by the host.
    Io,
    /// Of a kind that was not offered.
    Unsupported,
}

impl From<std::io::Error> for Refused {
    fn from(_: std::io::Error) -> Self {
        Self::Io
    }
}

/// Carries out one request, and counts. Returns how many bytes were written to the guest's
/// buffers; 0 for a chain that can't even take a status.
pub fn serve(
    disk: &Disk,
    (brake, counters): (&Brake, &Counters),
    memory: &GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
) -> u32 {
    let (Ok(mut input), Ok(mut output)) = (chain.clone().reader(memory), chain.writer(memory))
    else {
        counters.error();
        return 0;
    };
    let data_size = output.available_bytes().checked_sub(1);
    let Some(Ok(mut status)) = data_size.map(|size| output.split_at(size)) else {
        counters.error();
        return 0;
    };
    let code = match execute(disk, brake, &mut input, &mut output) {
        Ok(from_guest) => {
            counters.from_guest(from_guest);
            counters.to_guest(output.bytes_written() as u64);
            VIRTIO_BLK_S_OK
        }
        Err(Refused::Io) => VIRTIO_BLK_S_IOERR,
        Err(Refused::Unsupported) => VIRTIO_BLK_S_UNSUPP,
    };
    if code != VIRTIO_BLK_S_OK {
        counters.error();
    }
    match status.write_all(&[code as u8]) {
        Ok(()) => u32::try_from(output.bytes_written() + 1).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}

/// Returns how many bytes of data the guest gave.
fn execute(
    disk: &Disk,
    brake: &Brake,
    input: &mut Reader,
    output: &mut Writer,
) -> Result<u64, Refused> {
    let mut header = [0; 16];
    input.read_exact(&mut header)?;
    // type: le32, reserved: le32, sector: le64
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => read(disk, brake, sector, output)?,
        VIRTIO_BLK_T_OUT => {
            let size = input.available_bytes();
            write(disk, brake, sector, input)?;
            return Ok(size as u64);
        }
        VIRTIO_BLK_T_FLUSH => disk.file.sync_data()?,
        VIRTIO_BLK_T_GET_ID => output.write_all(&disk.id)?,
        VIRTIO_BLK_T_DISCARD => discard::serve(disk, brake, Kind::Discard, input)?,
        VIRTIO_BLK_T_WRITE_ZEROES => discard::serve(disk, brake, Kind::WriteZeroes, input)?,
        _ => return Err(Refused::Unsupported),
    }
    Ok(0)
}

/// Where a transfer begins in the file, if all of it is on the disk.
fn position(disk: &Disk, sector: u64, length: usize) -> Result<u64, Refused> {
    let length = length as u64;
    let sectors = length / SECTOR;
    let end = sector.checked_add(sectors).ok_or(Refused::Io)?;
    if length > REQUEST_MAX || !length.is_multiple_of(SECTOR) || end > disk.sectors {
        return Err(Refused::Io);
    }
    Ok(sector * SECTOR)
}

/// A machine that has ended waits for no request's end, however long it is.
pub fn go_on(brake: &Brake) -> Result<(), Refused> {
    match brake.has_ended() {
        true => Err(Refused::Io),
        false => Ok(()),
    }
}

fn read(disk: &Disk, brake: &Brake, sector: u64, output: &mut Writer) -> Result<(), Refused> {
    let mut at = position(disk, sector, output.available_bytes())?;
    let mut buffer = Buffer::new(output.available_bytes());
    let buffer = buffer.bytes();
    while output.available_bytes() > 0 {
        go_on(brake)?;
        let n = buffer.len().min(output.available_bytes());
        disk.file.read_exact_at(&mut buffer[..n], at)?;
        output.write_all(&buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

fn write(disk: &Disk, brake: &Brake, sector: u64, input: &mut Reader) -> Result<(), Refused> {
    if disk.read_only {
        return Err(Refused::Io);
    }
    let mut at = position(disk, sector, input.available_bytes())?;
    let mut buffer = Buffer::new(input.available_bytes());
    let buffer = buffer.bytes();
    while input.available_bytes() > 0 {
        go_on(brake)?;
        let n = buffer.len().min(input.available_bytes());
        input.read_exact(&mut buffer[..n])?;
        disk.file.write_all_at(&buffer[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// What data goes through.
struct Buffer(Vec<u8>);

impl Buffer {
    /// For so many bytes, or a part of them.
    fn new(size: usize) -> Self {
        Self(vec![0; CHUNK.min(size) + ALIGNMENT])
    }

    /// From a multiple of the alignment on.
    fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(ALIGNMENT);
        let end = start + self.0.len() - ALIGNMENT;
        &mut self.0[start..end]
    }
}

#[cfg(test)]
mod tests;
