//! Deadlines: every request is waited for, and none for long.
//!
//! A request whose interrupt is lost is never answered when it is the only one. So an
//! operation that takes longer than the deadline fails, and one that doesn't come back
//! at all is seen by the watchdog.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// One kind of operation of one thread, with all that it took.
pub struct Clock {
    what: String,
    start: Instant,
    deadline: Duration,
    /// Since when the operation runs, in ns after `start`; 0 when there is none.
    since: AtomicU64,
    count: AtomicU64,
    longest: AtomicU64,
}

impl Clock {
    /// Performs an operation; fails if it took too long.
    pub fn time<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let begin = self.now();
        self.since.store(begin, Ordering::Relaxed);
        let done = operation();
        self.since.store(0, Ordering::Relaxed);
        let took = self.now() - begin;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(took, Ordering::Relaxed);
        if took > self.deadline.as_nanos() as u64 {
            return Err(self.late(took));
        }
        done.map_err(Error::system(&self.what))
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn late(&self, ns: u64) -> Error {
        Error::Late {
            what: self.what.clone(),
            took: Duration::from_nanos(ns),
        }
    }

    fn overdue(&self) -> Option<Error> {
        let since = self.since.load(Ordering::Relaxed);
        let waits = self.now().saturating_sub(since);
        (since > 0 && waits > self.deadline.as_nanos() as u64).then(|| self.late(waits))
    }
}

/// All clocks of a run.
pub struct Clocks {
    start: Instant,
    deadline: Duration,
    clocks: Mutex<Vec<Arc<Clock>>>,
}

/// What operations of one kind took.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Took {
    /// How many there were.
    pub count: u64,
    /// The longest in us.
    pub longest_us: u64,
}

impl Clocks {
    /// For operations that may take up to `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            start: Instant::now(),
            deadline,
            clocks: Mutex::default(),
        }
    }

    /// How long an operation may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A thread's clock for operations that are called so.
    pub fn clock(&self, what: &str) -> Arc<Clock> {
        let clock = Arc::new(Clock {
            what: what.into(),
            start: self.start,
            deadline: self.deadline,
            since: AtomicU64::new(0),
            count: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        });
        self.lock().push(clock.clone());
        clock
    }

    /// An operation that has been running for too long.
    pub fn overdue(&self) -> Option<Error> {
        self.lock().iter().find_map(|clock| clock.overdue())
    }

    /// What operations took, by their names.
    pub fn took(&self) -> BTreeMap<String, Took> {
        let mut all: BTreeMap<String, Took> = BTreeMap::new();
        for clock in self.lock().iter() {
            let took = all.entry(clock.what.clone()).or_default();
            took.count += clock.count.load(Ordering::Relaxed);
            let longest = clock.longest.load(Ordering::Relaxed) / 1000;
            took.longest_us = took.longest_us.max(longest);
        }
        all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Clock>>> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_fails_and_is_seen_while_it_lasts() {
        let clocks = Clocks::new(Duration::ZERO);
        let clock = clocks.clock("wait");
        let late = clock.time(|| {
            std::thread::sleep(Duration::from_millis(1));
            assert!(matches!(clocks.overdue(), Some(Error::Late { .. })));
            Ok(())
        });
        assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
        assert!(clocks.overdue().is_none());
        let took = &clocks.took()["wait"];
        assert_eq!(took.count, 1);
        assert!(took.longest_us >= 1000, "{took:?}");
    }

    #[test]
    fn what_is_in_time_gives_its_result() {
        let clocks = Clocks::new(Duration::from_secs(3600));
        assert_eq!(clocks.clock("a").time(|| Ok(7)).unwrap(), 7);
        let failed = clocks
            .clock("b")
            .time(|| Err::<(), _>(io::ErrorKind::NotFound.into()));
        assert!(matches!(failed, Err(Error::System { .. })), "{failed:?}");
    }
}
