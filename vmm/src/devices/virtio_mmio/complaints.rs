//! What a device says of its driver, in the host's log. A guest can make it say the same
//! again and again: it does so once a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two messages of a device.
const SILENCE: Duration = Duration::from_secs(60);

/// One device's.
#[derive(Debug)]
pub struct Complaints {
    device: String,
    last: Mutex<Option<Instant>>,
}

impl Complaints {
    /// For a device of this name.
    pub fn new(device: String) -> Self {
        Self {
            device,
            last: Mutex::default(),
        }
    }

    /// Says `what`, unless the device has said something within the last minute.
    pub fn say(&self, what: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= SILENCE) {
            *last = Some(Instant::now());
            log::warn!("{}: {what}", self.device);
        }
    }
}
