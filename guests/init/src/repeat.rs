//! A piece of work that is done again and again until one ends after the window.
//!
//! The work in the window is the difference between what was done at its two ends;
//! of a piece that was under way, its share of the time or what it told itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::protocol::{Go, Outcome};
use crate::window::{Counts, Window};

/// Repeats `piece` from now on. It is told its number, from 0, and may tell what
/// part of itself is done.
///
/// `size` is what a piece counts in `unit` a second.
pub fn run(
    go: &Go,
    (size, unit): (f64, &'static str),
    piece: impl Fn(u32, &dyn Fn(f64)) -> Result<()> + Sync,
) -> Result<Outcome> {
    let window = Window::new(go);
    let (track, stop) = (Track::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let pieces = scope.spawn(|| {
            let going = |_: &u32| !stop.load(Ordering::Relaxed);
            (0..).take_while(going).try_for_each(|number| {
                let reach = |part| track.reach(window.go.elapsed(), f64::from(number) + part);
                reach(0.0);
                piece(number, &reach)?;
                reach(1.0);
                Ok(())
            })
        });
        window.sleep_until(window.begin);
        let (before, begin) = (Counts::now(), window.go.elapsed());
        window.sleep_until(window.end);
        let (extras, end) = (Counts::now().since(&before), window.go.elapsed());
        stop.store(true, Ordering::Relaxed);
        match pieces.join() {
            Ok(ended) => ended?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let window_s = (end - begin).as_secs_f64();
        Ok(Outcome {
            value: (track.at(end) - track.at(begin)) * size / window_s,
            unit,
            window_s,
            extras,
        })
    })
}

/// How many pieces were done by when.
#[derive(Default)]
struct Track(Mutex<Vec<(Duration, f64)>>);

impl Track {
    fn reach(&self, now: Duration, done: f64) {
        let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        points.push((now, done));
    }

    /// How much was done at a time, in a straight line between what is known.
    fn at(&self, time: Duration) -> f64 {
        let points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = points.partition_point(|&(at, _)| at < time);
        let Some(&(after, more)) = points.get(next) else {
            return points.last().map_or(0.0, |&(_, done)| done);
        };
        let Some(&(before, done)) = next.checked_sub(1).and_then(|i| points.get(i)) else {
            return 0.0;
        };
        let share = (time - before).as_secs_f64() / (after - before).as_secs_f64();
        done + (more - done) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn work_between_two_times_is_in_a_straight_line() {
        let track = Track::default();
        assert_eq!(track.at(Duration::from_millis(5)), 0.0);
        for (ms, done) in [(10, 0.0), (20, 0.5), (40, 1.0)] {
            track.reach(Duration::from_millis(ms), done);
        }
        for (ms, done) in [(5, 0.0), (10, 0.0), (15, 0.25), (30, 0.75), (99, 1.0)] {
            let at = track.at(Duration::from_millis(ms));
            assert!((at - done).abs() < 1e-9, "{ms}: {at}");
        }
    }

    #[test]
    fn pieces_are_counted_and_a_failure_is_told() {
        let go = Go {
            workload: "any".into(),
            clients: 1,
            warmup_ms: 5,
            window_ms: 20,
            seed: 1,
        };
        let sleep = |_, _: &dyn Fn(f64)| {
            thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        let outcome = run(&go, (7.0, "things/s"), sleep).unwrap();
        assert!(outcome.value > 0.0);
        let fail = |number, _: &dyn Fn(f64)| match number {
            0 => Ok(()),
            _ => Err(Error::Workload("no".into())),
        };
        assert!(run(&go, (1.0, ""), fail).is_err());
    }
}
