//! What devices do, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// One device's counters since the machine's start. Whoever serves the device counts;
/// anybody may look.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    to_guest: AtomicU64,
    from_guest: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
    full: AtomicU64,
}

impl Counters {
    /// So many requests of the driver were answered, well or not.
    pub fn requests(&self, count: u64) {
        add(&self.requests, count);
    }

    /// So many bytes of data went to the guest.
    pub fn to_guest(&self, bytes: u64) {
        add(&self.to_guest, bytes);
    }

    /// So many bytes of data came from the guest.
    pub fn from_guest(&self, bytes: u64) {
        add(&self.from_guest, bytes);
    }

    /// A request was answered with an error, or broke its queue.
    pub fn error(&self) {
        add(&self.errors, 1);
    }

    /// So many frames, packets or bytes (the console's) were lost, because they were
    /// malformed or nobody took them in time.
    pub fn dropped(&self, count: u64) {
        add(&self.dropped, count);
    }

    /// Something for the guest had to wait, because the guest had no buffer for it.
    pub fn full(&self) {
        add(&self.full, 1);
    }
}

/// Nobody draws a conclusion from the order of two counters.
fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// The counters of a device by its name.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Its name: the kind, and its number where there may be several.
    pub name: String,
    /// The counters.
    pub counters: Arc<Counters>,
}

/// A look at a device's counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStat {
    /// Its name: disk0, net0, vsock, rng, balloon, console.
    pub name: String,
    /// Requests of the driver that were answered.
    pub requests: u64,
    /// Bytes of data that the guest got.
    pub to_guest_bytes: u64,
    /// Bytes of data that the guest gave; of the balloon, of memory.
    pub from_guest_bytes: u64,
    /// Requests that were answered with an error, or broke their queue.
    pub errors: u64,
    /// Frames, packets or (of the console) bytes that were lost: malformed, or not taken in
    /// time.
    pub dropped: u64,
    /// How often a frame for the guest waited, because its queue had no buffer left.
    pub queue_full: u64,
}

impl Counted {
    /// Looks at them.
    pub fn look(&self) -> DeviceStat {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters {
            requests,
            to_guest,
            from_guest,
            errors,
            dropped,
            full,
        } = &*self.counters;
        DeviceStat {
            name: self.name.clone(),
            requests: load(requests),
            to_guest_bytes: load(to_guest),
            from_guest_bytes: load(from_guest),
            errors: load(errors),
            dropped: load(dropped),
            queue_full: load(full),
        }
    }
}
