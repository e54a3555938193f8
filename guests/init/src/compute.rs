//! The control: one counting loop for each vCPU, which nothing but its share of
//! a CPU can slow down.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::Result;
use crate::protocol::{Go, Outcome};
use crate::window::{Counts, Window};

/// Iterations between two looks at the flag.
const BATCH: u64 = 10_000;

/// Counts iterations in the window.
pub fn run(go: &Go) -> Result<Outcome> {
    let window = Window::new(go);
    let stop = AtomicBool::new(false);
    let counters: Vec<AtomicU64> = (0..go.clients).map(|_| AtomicU64::new(0)).collect();
    let total = || -> u64 { counters.iter().map(|c| c.load(Ordering::Relaxed)).sum() };
    thread::scope(|scope| {
        for counter in &counters {
            scope.spawn(|| count(counter, &stop, go.seed));
        }
        window.sleep_until(window.begin);
        let (counts, begin, before) = (Counts::now(), window.go.elapsed(), total());
        window.sleep_until(window.end);
        let (end, after) = (window.go.elapsed(), total());
        stop.store(true, Ordering::Relaxed);
        let window_s = (end - begin).as_secs_f64();
        Ok(Outcome {
            value: (after - before) as f64 / window_s / 1e6,
            unit: "M iterations/s",
            window_s,
            extras: Counts::now().since(&counts),
        })
    })
}

fn count(counter: &AtomicU64, stop: &AtomicBool, seed: u64) {
    let mut state = seed;
    while !stop.load(Ordering::Relaxed) {
        for i in 0..BATCH {
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(i),
            );
        }
        counter.fetch_add(BATCH, Ordering::Relaxed);
    }
}
