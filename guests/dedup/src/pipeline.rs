//! The stages, each but the first and the last a pool of threads:
//!
//! read a fragment → cut it into chunks by content → look each up by SHA-1 →
//! compress what is new → put in order and write.
//!
//! What goes from stage to stage is in memory of its own, which goes back to the
//! system when done with: unmapping interrupts all CPUs that the program runs on.
//! Pools are split into lanes of up to four threads with queues of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use fastcdc::v2020::FastCDC;
use flate2::{Compress, Compression, FlushCompress, Status};
use memmap2::MmapMut;
use sha1::{Digest as _, Sha1};

use crate::archive::Archive;
use crate::queue::{Producer, Queue};
use crate::table::{Digest, Entry, Packed, Table};
use crate::{Error, Result, fail};

/// Bytes that are read at a time.
const FRAGMENT: usize = 64 * 1024;
/// Bytes of a chunk.
const SHORTEST_CHUNK: u32 = 1024;
const MEAN_CHUNK: u32 = 4096;
pub const LONGEST_CHUNK: usize = 16 * 1024;
/// zlib's worst case for a chunk is a few bytes more than the chunk.
const PACKED_MORE: usize = 256;
/// Items that a queue takes.
const QUEUE: usize = 64;
/// Threads of a stage that share queues.
const LANE: usize = 4;

/// A part of the input.
struct Fragment {
    /// The pass's.
    table: Arc<Table>,
    number: u64,
    /// Whether the pass ends with it.
    last: bool,
    data: MmapMut,
}

/// A part of a fragment.
struct Chunk {
    table: Arc<Table>,
    place: Place,
    data: MmapMut,
}

/// Where a chunk stands in the stream.
#[derive(Debug, Clone, Copy)]
struct Place {
    fragment: u64,
    chunk: u32,
    ends_fragment: bool,
    ends_pass: bool,
}

/// A chunk that is ready for the writer.
struct Done {
    place: Place,
    length: usize,
    entry: Arc<Entry>,
}

/// Queues of up to four threads of each pool.
struct Lane {
    threads: usize,
    fragments: Queue<Fragment>,
    chunks: Queue<Chunk>,
    new: Queue<(Chunk, Arc<Entry>)>,
}

/// All stages.
pub struct Pipeline<'a> {
    input: &'a [u8],
    lanes: Vec<Lane>,
    out: Queue<Done>,
    /// Bytes of input that are archived.
    pub done: AtomicU64,
    /// No more is read once this is set and the first pass has ended.
    pub stop: AtomicBool,
}

impl<'a> Pipeline<'a> {
    /// A pipeline with pools of `threads`.
    pub fn new(input: &'a [u8], threads: usize) -> Self {
        let lanes = (0..threads.div_ceil(LANE))
            .map(|lane| {
                let threads = LANE.min(threads - lane * LANE);
                Lane {
                    threads,
                    fragments: Queue::new(QUEUE, 1),
                    chunks: Queue::new(QUEUE, threads),
                    new: Queue::new(QUEUE, threads),
                }
            })
            .collect();
        Self {
            input,
            lanes,
            out: Queue::new(QUEUE, 2 * threads),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Starts all threads; the one that is returned gives the archive.
    pub fn start<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Result<ScopedJoinHandle<'s, Archive>> {
        let writer = spawn(scope, "write", || self.write())?;
        for lane in &self.lanes {
            for _ in 0..lane.threads {
                let chunks = lane.chunks.producer();
                spawn(scope, "refine", move || lane.refine(&chunks))?;
                let (new, out) = (lane.new.producer(), self.out.producer());
                spawn(scope, "dedup", move || {
                    lane.deduplicate(&new, &out);
                    Ok(())
                })?;
                let out = self.out.producer();
                spawn(scope, "compress", move || lane.compress(&out))?;
            }
        }
        spawn(scope, "read", || self.read())?;
        Ok(writer)
    }

    /// First stage: reads the input over and over, fragment by fragment.
    fn read(&self) -> Result<()> {
        let lanes: Vec<_> = self.lanes.iter().map(|l| l.fragments.producer()).collect();
        let mut lanes = lanes.iter().cycle();
        let mut number = 0;
        for pass in 0_u64.. {
            let table = Arc::new(Table::new());
            let mut fragments = self.input.chunks(FRAGMENT).peekable();
            while let (Some(bytes), Some(lane)) = (fragments.next(), lanes.next()) {
                if pass > 0 && self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let mut data = map(bytes.len())?;
                data.copy_from_slice(bytes);
                lane.push(Fragment {
                    table: Arc::clone(&table),
                    number,
                    last: fragments.peek().is_none(),
                    data,
                });
                number += 1;
            }
        }
        Ok(())
    }

    /// Last stage: puts the chunks in order and archives them.
    fn write(&self) -> Result<Archive> {
        let mut archive = Archive::default();
        let mut order = Order::default();
        while let Some(done) = self.out.pop() {
            order.add(done);
            while let Some(done) = order.next(&mut archive)? {
                self.done.fetch_add(done as u64, Ordering::Relaxed);
            }
        }
        Ok(archive)
    }
}

impl Lane {
    /// Second stage: cuts fragments into chunks where their content says so.
    fn refine(&self, chunks: &Producer<'_, Chunk>) -> Result<()> {
        while let Some(fragment) = self.fragments.pop() {
            let cuts = FastCDC::new(
                &fragment.data,
                SHORTEST_CHUNK,
                MEAN_CHUNK,
                LONGEST_CHUNK as u32,
            );
            for (number, cut) in (0..).zip(cuts) {
                let end = cut.offset + cut.length;
                let mut data = map(cut.length)?;
                data.copy_from_slice(&fragment.data[cut.offset..end]);
                let ends_fragment = end == fragment.data.len();
                chunks.push(Chunk {
                    table: Arc::clone(&fragment.table),
                    place: Place {
                        fragment: fragment.number,
                        chunk: number,
                        ends_fragment,
                        ends_pass: ends_fragment && fragment.last,
                    },
                    data,
                });
            }
        }
        Ok(())
    }

    /// Third stage: new contents go on to be compressed, others to the writer.
    fn deduplicate(&self, new: &Producer<'_, (Chunk, Arc<Entry>)>, out: &Producer<'_, Done>) {
        while let Some(chunk) = self.chunks.pop() {
            let digest = Sha1::digest(&chunk.data).into();
            let (entry, is_new) = chunk.table.enter(digest);
            if is_new {
                new.push((chunk, entry));
            } else {
                out.push(Done {
                    place: chunk.place,
                    length: chunk.data.len(),
                    entry,
                });
            }
        }
    }

    /// Fourth stage.
    fn compress(&self, out: &Producer<'_, Done>) -> Result<()> {
        let mut compressor = Compress::new(Compression::fast(), true);
        while let Some((chunk, entry)) = self.new.pop() {
            let mut packed = map(chunk.data.len() + PACKED_MORE)?;
            compressor.reset();
            let end = compressor.compress(&chunk.data, &mut packed, FlushCompress::Finish);
            if !matches!(end, Ok(Status::StreamEnd)) {
                return Err(Error::Wrong(format!("compressing gave {end:?}")));
            }
            entry.set(Packed {
                map: packed,
                length: compressor.total_out() as usize,
            });
            out.push(Done {
                place: chunk.place,
                length: chunk.data.len(),
                entry,
            });
        }
        Ok(())
    }
}

/// Chunks that came before their turn.
#[derive(Default)]
struct Order {
    early: BTreeMap<(u64, u32), Done>,
    next: (u64, u32),
    /// Contents that this pass has written.
    written: BTreeSet<Digest>,
}

impl Order {
    fn add(&mut self, done: Done) {
        let key = (done.place.fragment, done.place.chunk);
        self.early.insert(key, done);
    }

    /// Archives the chunk whose turn it is, if it is there; returns its length.
    /// What a chunk repeats may be found earlier and compressed later than it:
    /// then it waits, and whoever comes first in the input has the content.
    fn next(&mut self, archive: &mut Archive) -> Result<Option<usize>> {
        let Some(done) = self.early.get(&self.next) else {
            return Ok(None);
        };
        let digest = done.entry.digest;
        if self.written.contains(&digest) {
            archive.repeated(&digest)?;
        } else if let Some(packed) = done.entry.take() {
            archive.content(&packed.map[..packed.length])?;
            self.written.insert(digest);
        } else {
            return Ok(None);
        }
        let (place, length) = (done.place, done.length);
        self.early.remove(&self.next);
        self.next = match place.ends_fragment {
            true => (place.fragment + 1, 0),
            false => (place.fragment, place.chunk + 1),
        };
        if place.ends_pass {
            archive.end_pass()?;
            self.written.clear();
        }
        Ok(Some(length))
    }
}

/// Memory of its own, which goes back to the system when dropped.
fn map(bytes: usize) -> Result<MmapMut> {
    MmapMut::map_anon(bytes).map_err(|source| Error::Map { bytes, source })
}

/// A thread whose failure ends the program: the others would wait for ever.
fn spawn<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    name: &str,
    body: impl FnOnce() -> Result<T> + Send + 's,
) -> Result<ScopedJoinHandle<'s, T>> {
    Builder::new()
        .name(name.into())
        .spawn_scoped(scope, || body().unwrap_or_else(|error| fail(&error)))
        .map_err(Error::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{archive, input};

    /// Archives whole passes of an input with pools of `threads`.
    fn archive(data: &[u8], threads: usize) -> Archive {
        let pipeline = Pipeline::new(data, threads);
        std::thread::scope(|scope| {
            let writer = pipeline.start(scope).unwrap();
            while pipeline.done.load(Ordering::Relaxed) < 2 * data.len() as u64 {
                std::thread::yield_now();
            }
            pipeline.stop.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        })
    }

    #[test]
    fn an_archive_is_the_same_with_any_number_of_threads() {
        let data = input::generate(1 << 20, 1);
        let one = archive(&data, 1);
        let many = archive(&data, 6);
        assert!(one.passes() >= 2);
        assert!(one.bytes() == many.bytes());
        let unpacked = archive::unpack(many.bytes()).unwrap();
        assert!(unpacked.data == data);
        let share = unpacked.duplicate as f64 / data.len() as f64;
        assert!((0.25..0.6).contains(&share), "{share}");
        assert!(many.bytes().len() < data.len() / 2);
    }
}
