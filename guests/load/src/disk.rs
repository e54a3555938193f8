//! Load on disks, past every cache, and what stands on them.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memmap2::MmapMut;
use rustix::fs::OFlags;

use crate::Run;
use crate::data::{Random, fill};
use crate::error::{Error, Result};

/// What has one content.
const BLOCK: usize = 4096;
/// The longest request in blocks.
const LONGEST: u64 = 8;

/// What tells a block of a disk from all others.
fn place(disk: u64, block: u64) -> u64 {
    (disk << 32) | block
}

/// A part of a disk that one thread writes and reads.
pub struct Part {
    name: String,
    disk: u64,
    file: File,
    blocks: Range<u64>,
    /// How often each block was written; 0 is an empty one.
    generations: Vec<u64>,
    /// Aligned, as direct requests have to be.
    buffer: MmapMut,
}

impl Part {
    /// The part `number` of `parts` of disk `disk`, which is empty.
    pub fn open(path: &Path, disk: u64, number: u64, parts: u64) -> Result<Self> {
        let name = path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path)
            .map_err(Error::system(format!("open {name}")))?;
        Self::new(name, file, disk, number, parts)
    }

    fn new(name: String, mut file: File, disk: u64, number: u64, parts: u64) -> Result<Self> {
        // A block device tells its size only so.
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(Error::system(format!("measure {name}")))?;
        let blocks = bytes / BLOCK as u64;
        let blocks = blocks * number / parts..blocks * (number + 1) / parts;
        Ok(Self {
            generations: vec![0; (blocks.end - blocks.start) as usize],
            buffer: MmapMut::map_anon(BLOCK * LONGEST as usize)
                .map_err(Error::system("allocate memory"))?,
            name,
            disk,
            file,
            blocks,
        })
    }

    /// Writes and reads at random until the run is over.
    pub fn load(&mut self, run: &Run, seed: u64) -> Result<()> {
        let mut random = Random::new(seed);
        let [read, write, flush] = ["read", "write", "flush"]
            .map(|what| run.clocks.clock(&format!("{what} {}", self.name)));
        while run.goes_on() {
            let count = 1 + random.below(LONGEST);
            let first = random.below(self.generations.len() as u64 - count);
            match random.below(16) {
                0 => flush.time(|| self.file.sync_data())?,
                1..8 => {
                    let bytes = self.read(first, count, |file, bytes, at| {
                        read.time(|| file.read_exact_at(bytes, at))
                    })?;
                    run.count(bytes);
                }
                _ => {
                    self.renew(first, count);
                    let bytes = &self.buffer[..BLOCK * count as usize];
                    let at = (self.blocks.start + first) * BLOCK as u64;
                    write.time(|| self.file.write_all_at(bytes, at))?;
                    run.count(bytes.len() as u64);
                }
            }
        }
        Ok(())
    }

    /// Fills the buffer with the blocks' next contents.
    fn renew(&mut self, first: u64, count: u64) {
        for (index, block) in (first..first + count).zip(self.buffer.chunks_mut(BLOCK)) {
            let generation = &mut self.generations[index as usize];
            *generation += 1;
            fill(
                block,
                place(self.disk, self.blocks.start + index),
                *generation,
            );
        }
    }

    /// Reads blocks by `read`, and checks them.
    fn read(
        &mut self,
        first: u64,
        count: u64,
        read: impl FnOnce(&File, &mut [u8], u64) -> Result<()>,
    ) -> Result<u64> {
        let bytes = &mut self.buffer[..BLOCK * count as usize];
        let at = (self.blocks.start + first) * BLOCK as u64;
        read(&self.file, bytes, at)?;
        let mut expected = [0; BLOCK];
        for (index, block) in (first..first + count).zip(bytes.chunks(BLOCK)) {
            let generation = self.generations[index as usize];
            match generation {
                0 => expected.fill(0),
                _ => fill(
                    &mut expected,
                    place(self.disk, self.blocks.start + index),
                    generation,
                ),
            }
            if block != expected {
                let place = self.blocks.start + index;
                let say = format!("{}, block {place}, written {generation} times", self.name);
                return Err(Error::Data(say));
            }
        }
        Ok(BLOCK as u64 * count)
    }

    /// Reads all of it back; its checksum goes on from `crc`.
    pub fn check(&mut self, run: &Run, crc: &mut crc32fast::Hasher) -> Result<()> {
        let clock = run.clocks.clock(&format!("check {}", self.name));
        clock.time(|| self.file.sync_all())?;
        let blocks = self.generations.len() as u64;
        let mut first = 0;
        while first < blocks {
            let count = LONGEST.min(blocks - first);
            self.read(first, count, |file, bytes, at| {
                clock.time(|| file.read_exact_at(bytes, at))
            })?;
            crc.update(&self.buffer[..BLOCK * count as usize]);
            first += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BLOCKS: u64 = 32;

    /// Two parts of an image that were loaded, and the run.
    fn loaded(file: &File) -> (Run, Vec<Part>) {
        file.set_len(BLOCKS * BLOCK as u64).unwrap();
        let run = Run::new(Duration::from_millis(50), Duration::from_secs(3600));
        let part = |number| Part::new("d".into(), file.try_clone().unwrap(), 1, number, 2).unwrap();
        let mut parts = vec![part(0), part(1)];
        for part in &mut parts {
            part.load(&run, 1).unwrap();
        }
        (run, parts)
    }

    #[test]
    fn what_was_written_is_read_back_with_the_images_checksum() {
        let file = tempfile::tempfile().unwrap();
        let (run, mut parts) = loaded(&file);
        let mut crc = crc32fast::Hasher::new();
        for part in &mut parts {
            part.check(&run, &mut crc).unwrap();
        }
        let mut image = vec![0; BLOCK * BLOCKS as usize];
        file.read_exact_at(&mut image, 0).unwrap();
        assert_eq!(crc.finalize(), crc32fast::hash(&image));
    }

    #[test]
    fn a_byte_that_is_not_what_was_written_is_found() {
        let file = tempfile::tempfile().unwrap();
        let (run, mut parts) = loaded(&file);
        let at = (BLOCKS - 1) * BLOCK as u64 + 7;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
        let mut crc = crc32fast::Hasher::new();
        parts[0].check(&run, &mut crc).unwrap();
        let checked = parts[1].check(&run, &mut crc);
        assert!(matches!(checked, Err(Error::Data(_))), "{checked:?}");
    }
}
