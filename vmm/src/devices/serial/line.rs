//! The line from the port to whoever reads what the guest prints.
//!
//! No vCPU ever waits for a reader: what is not taken at once waits here, up to a bound,
//! and `vmm-io` sends it on; what is over the bound is dropped, and counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::sink::Sink;
use super::watch::Watch;
use crate::devices::counters::Counters;
use crate::{Error, Result};

/// Bytes that wait for the reader at most.
pub const WAITING: usize = 256 * 1024;
/// How long a machine that has ended waits for the reader to take the rest.
const LAST: Duration = Duration::from_millis(300);

/// The port's end and `vmm-io`'s.
pub type Shared = Arc<Mutex<Line>>;

/// Takes the line, whatever happened to the thread that had it last.
pub fn lock(line: &Shared) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line.
pub struct Line {
    sink: Sink,
    waiting: VecDeque<u8>,
    watch: Option<Watch>,
    /// Written when something waits.
    stuck: EventFd,
    counters: Arc<Counters>,
}

impl Line {
    /// A line to `sink`; `watch` sees all that the guest prints, and `stuck` is written when
    /// some of it waits for [`Line::drain`].
    pub fn new(sink: Sink, watch: Option<Watch>, stuck: EventFd, counters: Arc<Counters>) -> Self {
        Self {
            sink,
            waiting: VecDeque::new(),
            watch,
            stuck,
            counters,
        }
    }

    /// The guest prints.
    fn print(&mut self, bytes: &[u8]) {
        self.counters.from_guest(bytes.len() as u64);
        if self.watch.as_mut().is_some_and(|watch| watch.take(bytes)) {
            self.watch = None;
        }
        let before = self.waiting.len();
        let taken = if before == 0 { self.send(bytes) } else { 0 };
        let room = (WAITING - before).min(bytes.len() - taken);
        self.waiting.extend(&bytes[taken..taken + room]);
        self.counters.dropped((bytes.len() - taken - room) as u64);
        if before == 0 && room > 0 {
            // Fails only when 2^64 - 1 of them wait already.
            let _ = self.stuck.write(1);
        }
    }

    /// How many of these bytes are done with: none while the reader takes none.
    fn send(&mut self, bytes: &[u8]) -> usize {
        match self.sink.write(bytes) {
            Ok(taken) => taken,
            Err(error) if is_for_later(&error) => 0,
            // A reader that has gone must not stop the guest.
            Err(_) => {
                self.counters.dropped(bytes.len() as u64);
                bytes.len()
            }
        }
    }

    /// Sends what waits, as much as is taken now; tells whether something is left.
    pub fn drain(&mut self) -> bool {
        if self.sink.prepare().is_err() {
            self.counters.dropped(self.waiting.len() as u64);
            self.waiting.clear();
        }
        while !self.waiting.is_empty() {
            let mut waiting = std::mem::take(&mut self.waiting);
            let taken = self.send(waiting.as_slices().0);
            waiting.drain(..taken);
            self.waiting = waiting;
            if taken == 0 {
                break;
            }
        }
        self.is_stuck()
    }

    /// Whether something waits for the reader.
    pub fn is_stuck(&self) -> bool {
        !self.waiting.is_empty() || self.sink.is_behind()
    }

    /// The machine has ended: the reader gets a moment for the rest. Returns how many bytes it
    /// did not take then; they are lost.
    pub fn finish(&mut self) -> usize {
        let end = Instant::now() + LAST;
        while self.drain() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.sink.wait(left) {
                break;
            }
        }
        let lost = std::mem::take(&mut self.waiting).len();
        self.counters.dropped(lost as u64);
        lost
    }

    /// What is written when something waits.
    pub fn stuck(&self) -> Result<EventFd> {
        let stuck = self.stuck.try_clone();
        stuck.map_err(Error::system("share an event"))
    }

    /// What it counts: bytes each way, and those that were lost.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where it goes.
    pub fn sink(&mut self) -> &mut Sink {
        &mut self.sink
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The port's end.
pub struct Output(pub Shared);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use rustix::fs::{OFlags, fcntl_setfl};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    /// A reader that takes nothing for a while: what it misses is counted to the byte, and
    /// all else comes in order.
    #[test]
    fn what_nobody_takes_is_kept_up_to_the_bound_and_counted_above() {
        let (reader, writer) = std::io::pipe().unwrap();
        fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let stuck = EventFd::new(EFD_NONBLOCK).unwrap();
        let counters = Arc::<Counters>::default();
        let sink = Sink::from(File::from(OwnedFd::from(writer)));
        let mut line = Line::new(sink, None, stuck.try_clone().unwrap(), counters.clone());
        let printed: Vec<u8> = (0..400_000u32).map(|n| (n % 251) as u8).collect();
        for chunk in printed.chunks(1000) {
            line.print(chunk);
        }
        assert_eq!(stuck.read().unwrap(), 1, "told once");
        assert!(line.is_stuck());
        assert_eq!(line.waiting.len(), WAITING);

        let mut reader = File::from(OwnedFd::from(reader));
        let mut got: Vec<u8> = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = line.drain();
            match reader.read(&mut buffer) {
                Ok(size) => got.extend(&buffer[..size]),
                Err(_) if !left => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(got, printed[..got.len()]);
        let counted = crate::devices::counters::Counted {
            name: "console".into(),
            counters,
        };
        let stat = counted.look();
        assert_eq!(stat.from_guest_bytes, 400_000);
        assert_eq!(stat.dropped + got.len() as u64, 400_000);
        assert!(got.len() > WAITING);
    }

    #[test]
    fn what_is_not_taken_at_the_end_is_counted() {
        let (_reader, writer) = std::io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let counters = Arc::<Counters>::default();
        let sink = Sink::from(File::from(OwnedFd::from(writer)));
        let stuck = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut line = Line::new(sink, None, stuck, counters.clone());
        line.print(&[b'x'; 100_000]);
        let lost = line.finish();
        assert!((1..100_000).contains(&lost), "{lost}");
        let name = "console".into();
        let counted = crate::devices::counters::Counted { name, counters };
        assert_eq!(counted.look().dropped, lost as u64);
        assert_eq!(line.finish(), 0, "told once");
    }
}
