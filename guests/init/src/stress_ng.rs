//! stressors of Debian's stress-ng.
//!
//! `tlb-shootdown` forks, for each instance, a process for every CPU (two to
//! eight); one instance keeps all vCPUs busy. Its processes do not share an
//! address space, so Linux has few TLBs to shoot down: about ten a second.
//!
//! `malloc` with threads does what the other's name says. Its threads share one
//! address space and free blocks that malloc maps one by one, so that every
//! `free` unmaps and interrupts all CPUs, which the caller waits for: tens of
//! thousands a second. `ipi_tlb` of the guest's extras counts them.

use std::collections::BTreeMap;

use crate::protocol::{Go, Outcome};
use crate::shell::Program;
use crate::window::{Counts, Window};
use crate::{Error, Result};

const PROGRAM: &str = "/usr/bin/stress-ng";
/// What it says when no stressor failed.
const SUCCESS: &str = " successful run completed";

/// The processes or threads of a stressor, as arguments; as many as vCPUs.
fn arguments(stressor: &str, clients: u32) -> Vec<String> {
    let mut args = vec![format!("--{stressor}"), "1".to_string()];
    if stressor == "malloc" {
        // From the threshold on a block is a mapping of its own; 64 blocks a
        // thread bound the memory.
        args.extend(
            "--malloc-bytes 1M --malloc-thresh 128K --malloc-max 64"
                .split(' ')
                .map(String::from),
        );
        // The first thread works too.
        if clients > 1 {
            args.extend(["--malloc-pthreads".into(), (clients - 1).to_string()]);
        }
    }
    args
}

/// Runs a stressor once to warm up, and once in the window.
pub fn run(stressor: &str, go: &Go) -> Result<Outcome> {
    if go.window_ms == 0 || !go.window_ms.is_multiple_of(1000) {
        return Err(Error::Workload(format!(
            "stress-ng runs for whole seconds, not {} ms",
            go.window_ms
        )));
    }
    let window = Window::new(go);
    let stress = |limit: &str, value: &str| {
        let mut args = arguments(stressor, go.clients);
        args.extend(["--seed".into(), go.seed.to_string()]);
        args.extend(["--metrics-brief", "--temp-path", "/tmp", limit, value].map(String::from));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Program::start(PROGRAM, &args)?.finish()
    };
    stress(&format!("--{stressor}-ops"), "1")?;
    if window.go.elapsed() > window.begin {
        return Err(Error::Workload(format!(
            "warming up took {} ms: give more than {} ms",
            window.go.elapsed().as_millis(),
            go.warmup_ms
        )));
    }
    window.sleep_until(window.begin);
    let before = Counts::now();
    let printed = stress("--timeout", &format!("{}s", go.window_ms / 1000))?;
    outcome(stressor, &printed, Counts::now().since(&before))
}

fn outcome(stressor: &str, printed: &[String], extras: BTreeMap<String, f64>) -> Result<Outcome> {
    if !printed.iter().any(|line| line.contains(SUCCESS)) {
        let last = printed.last().map_or("nothing", String::as_str);
        return Err(Error::Workload(format!(
            "stress-ng did not tell of a{SUCCESS}; it said last: {last}"
        )));
    }
    let (operations, window_s) = printed
        .iter()
        .find_map(|line| metrics(stressor, line))
        .ok_or_else(|| Error::Workload("stress-ng gave no metrics".into()))?;
    Ok(Outcome {
        value: operations / window_s,
        unit: "bogo ops/s",
        window_s,
        extras,
    })
}

/// Reads operations and real time of a line of the metrics:
/// `stress-ng: metrc: [61] malloc  1234  2.00  1.1  2.2  617.00  373.9`.
fn metrics(stressor: &str, line: &str) -> Option<(f64, f64)> {
    let (_, words) = line.split_once("metrc: [")?;
    let mut words = words.split_whitespace().skip(1);
    if words.next()? != stressor {
        return None;
    }
    let mut numbers = words.map(str::parse::<f64>);
    let operations = numbers.next()?.ok()?;
    let seconds = numbers.next()?.ok()?;
    (seconds > 0.0).then_some((operations, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
stress-ng: info:  [61] dispatching hogs: 1 malloc
stress-ng: metrc: [61] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s
stress-ng: metrc: [61]                           (secs)    (secs)    (secs)   (real time) (usr+sys time)
stress-ng: metrc: [61] malloc             1234      2.00      1.01      0.00       617.00         530.04
stress-ng: info:  [61] successful run completed in 2.01s";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(String::from).collect()
    }

    #[test]
    fn metrics_are_read() {
        let outcome = outcome("malloc", &lines(SAID), BTreeMap::new()).unwrap();
        assert_eq!((outcome.value, outcome.window_s), (617.0, 2.0));
    }

    #[test]
    fn a_run_without_success_or_metrics_is_none() {
        let error = |text: String| {
            let outcome = outcome("malloc", &lines(&text), BTreeMap::new());
            outcome.unwrap_err().to_string()
        };
        let unsuccessful = error(SAID.replace("successful", "unsuccessful"));
        assert!(unsuccessful.contains("it said last"), "{unsuccessful}");
        let empty = error(SAID.replace("2.00", "0.00"));
        assert!(empty.contains("no metrics"), "{empty}");
    }

    #[test]
    fn threads_are_as_many_as_vcpus() {
        assert_eq!(arguments("tlb-shootdown", 4), ["--tlb-shootdown", "1"]);
        assert!(arguments("malloc", 4).ends_with(&["--malloc-pthreads".into(), "3".into()]));
        assert!(!arguments("malloc", 1).contains(&"--malloc-pthreads".to_string()));
    }
}
