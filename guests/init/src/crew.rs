//! A crew of threads that count what they do until the window is over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::Result;
use crate::protocol::{Go, Outcome};
use crate::window::{Counts, Window};

/// What a member of the crew shares with the one who measures.
pub struct Member<'a> {
    /// Its number, from 0.
    pub number: u32,
    stop: &'a AtomicBool,
    counter: &'a AtomicU64,
}

impl Member<'_> {
    /// Whether to go on.
    pub fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Counts work done.
    pub fn count(&self, more: u64) {
        self.counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// Counts of each member in the window, and the rest of an outcome.
pub struct Counted {
    /// By number.
    pub each: Vec<u64>,
    outcome: Outcome,
}

impl Counted {
    /// The outcome: `work` done in the window, as units a second.
    pub fn outcome(mut self, work: f64, unit: &'static str) -> Outcome {
        self.outcome.value = work / self.outcome.window_s;
        self.outcome.unit = unit;
        self.outcome
    }
}

/// Runs `body` in as many threads as vCPUs, from now to the window's end. A body
/// that fails fails the workload.
pub fn run(go: &Go, body: impl Fn(&Member) -> Result<()> + Sync) -> Result<Counted> {
    let window = Window::new(go);
    let stop = AtomicBool::new(false);
    let counters: Vec<AtomicU64> = (0..go.clients).map(|_| AtomicU64::new(0)).collect();
    let now = || -> Vec<u64> { counters.iter().map(|c| c.load(Ordering::Relaxed)).collect() };
    thread::scope(|scope| {
        let members: Vec<_> = (0..)
            .zip(&counters)
            .map(|(number, counter)| {
                let member = Member {
                    number,
                    stop: &stop,
                    counter,
                };
                let body = &body;
                scope.spawn(move || body(&member))
            })
            .collect();
        window.sleep_until(window.begin);
        let (counts, begin, before) = (Counts::now(), window.go.elapsed(), now());
        window.sleep_until(window.end);
        let (end, after) = (window.go.elapsed(), now());
        let extras = Counts::now().since(&counts);
        stop.store(true, Ordering::Relaxed);
        for member in members {
            match member.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(Counted {
            each: after.iter().zip(&before).map(|(a, b)| a - b).collect(),
            outcome: Outcome {
                value: 0.0,
                unit: "",
                window_s: (end - begin).as_secs_f64(),
                extras,
            },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn go() -> Go {
        Go {
            workload: "any".into(),
            clients: 3,
            warmup_ms: 1,
            window_ms: 20,
            seed: 1,
        }
    }

    #[test]
    fn each_member_counts_for_itself() {
        let counted = run(&go(), |member| {
            while member.go_on() {
                if member.number < 2 {
                    member.count(1);
                }
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(counted.each.len(), 3);
        assert_eq!(counted.each[2], 0);
        let outcome = counted.outcome(10.0, "things/s");
        assert_eq!(outcome.value, 10.0 / outcome.window_s);
    }

    #[test]
    fn a_member_that_fails_fails_the_workload() {
        let ended = run(&go(), |member| match member.number {
            1 => Err(Error::Workload("no".into())),
            _ => Ok(()),
        });
        assert!(ended.is_err());
    }
}
