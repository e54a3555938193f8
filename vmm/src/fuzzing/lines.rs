//! Counts what an input has written to the host's log: nobody may fill it.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use super::seen::Seen;
use crate::log::is_ours;

/// Lines that an input may cause: a device says one thing a minute, and has one driver here.
const MOST: u64 = 1;

thread_local! {
    /// Of this thread, so far.
    static LINES: Cell<u64> = const { Cell::new(0) };
}

static INPUTS: AtomicU64 = AtomicU64::new(0);
static ALL: AtomicU64 = AtomicU64::new(0);

/// Takes what vmm's own log would take.
struct Counter;

impl log::Log for Counter {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        is_ours(metadata)
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            LINES.set(LINES.get() + 1);
        }
    }

    fn flush(&self) {}
}

fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        log::set_logger(&Counter).expect("the first logger");
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// Runs `target` on `input`; returns how many lines it has logged. Too many are a finding.
pub fn counted(target: fn(&[u8], &mut Seen), input: &[u8]) -> u64 {
    start();
    let before = LINES.get();
    target(input, &mut Seen::default());
    let lines = LINES.get() - before;
    assert!(lines <= MOST, "{lines} lines in the log: {input:x?}");
    INPUTS.fetch_add(1, Ordering::Relaxed);
    ALL.fetch_add(lines, Ordering::Relaxed);
    lines
}

/// What a fuzzer runs on each input; at its end it tells the sum.
pub fn fuzz(target: fn(&[u8], &mut Seen), input: &[u8]) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        // SAFETY: `tell` uses nothing that is gone by then: two numbers and standard error.
        assert_eq!(unsafe { libc::atexit(tell) }, 0);
    });
    counted(target, input);
}

extern "C" fn tell() {
    let [inputs, lines] = [&INPUTS, &ALL].map(|number| number.load(Ordering::Relaxed));
    eprintln!("{inputs} inputs logged {lines} lines, none of them more than {MOST}");
}
