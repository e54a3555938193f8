//! stress-ng's tlb-shootdown stressor from Debian: processes that share memory
//! change its protection, so that every change interrupts all CPUs.

use std::collections::BTreeMap;

use crate::protocol::{Go, Outcome};
use crate::window::{Counts, Window};
use crate::{Error, Result, shell};

const PROGRAM: &str = "/usr/bin/stress-ng";
const STRESSOR: &str = "tlb-shootdown";

/// Runs it once to warm up, and once in the window.
pub fn run(go: &Go) -> Result<Outcome> {
    if go.window_ms == 0 || !go.window_ms.is_multiple_of(1000) {
        return Err(Error::Workload(format!(
            "stress-ng runs for whole seconds, not {} ms",
            go.window_ms
        )));
    }
    let window = Window::new(go);
    let seconds = (go.window_ms / 1000).to_string();
    let (seed, clients) = (go.seed.to_string(), go.clients.to_string());
    let args = [
        "--seed",
        &seed,
        "--tlb-shootdown",
        &clients,
        "--metrics-brief",
        "--temp-path",
        "/tmp",
    ];
    let run = |limit: &[&str]| shell::output(PROGRAM, &[&args, limit].concat());
    run(&["--tlb-shootdown-ops", "1"])?;
    if window.go.elapsed() > window.begin {
        return Err(Error::Workload(format!(
            "warming up took {} ms: give more than {} ms",
            window.go.elapsed().as_millis(),
            go.warmup_ms
        )));
    }
    window.sleep_until(window.begin);
    let counts = Counts::now();
    let printed = run(&["--timeout", &format!("{seconds}s")])?;
    let extras = Counts::now().since(&counts);
    outcome(&printed, extras)
}

fn outcome(printed: &[String], extras: BTreeMap<String, f64>) -> Result<Outcome> {
    let (operations, window_s) = printed
        .iter()
        .find_map(|line| metrics(line))
        .ok_or_else(|| Error::Workload("stress-ng gave no metrics".into()))?;
    Ok(Outcome {
        value: operations / window_s,
        unit: "bogo ops/s",
        window_s,
        extras,
    })
}

/// Reads operations and real time of a line of the metrics:
/// `stress-ng: metrc: [61] tlb-shootdown  1234  2.00  1.1  2.2  617.00  373.9`.
fn metrics(line: &str) -> Option<(f64, f64)> {
    let (_, numbers) = line.split_once(&format!("] {STRESSOR} "))?;
    let mut numbers = numbers.split_whitespace().map(str::parse::<f64>);
    let operations = numbers.next()?.ok()?;
    let seconds = numbers.next()?.ok()?;
    (seconds > 0.0).then_some((operations, seconds))
}

#[cfg(test)]
mod tests {
    use super::metrics;

    #[test]
    fn metrics_are_read() {
        let line = "stress-ng: metrc: [61] tlb-shootdown     1234      2.00      1.1   2.2   617.0   373.9";
        assert_eq!(metrics(line), Some((1234.0, 2.0)));
        assert_eq!(
            metrics("stress-ng: info:  [61] dispatching hogs: 4 tlb-shootdown"),
            None
        );
    }
}
