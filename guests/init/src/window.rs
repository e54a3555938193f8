//! The measured window: its time, and what the kernel counted in it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::protocol::Go;

/// When the window is, counted from GO.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// When GO came.
    pub go: Instant,
    /// From GO to its begin.
    pub begin: Duration,
    /// From GO to its end.
    pub end: Duration,
}

impl Window {
    /// The window of an order that has just come.
    pub fn new(go: &Go) -> Self {
        let begin = Duration::from_millis(go.warmup_ms);
        Self {
            go: Instant::now(),
            begin,
            end: begin + Duration::from_millis(go.window_ms),
        }
    }

    /// Sleeps until a time after GO; not at all if it has passed.
    pub fn sleep_until(&self, time: Duration) {
        std::thread::sleep(time.saturating_sub(self.go.elapsed()));
    }
}

/// Counts of the guest's kernel that tell why a workload contends.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts(BTreeMap<String, f64>);

impl Counts {
    /// Reads them now.
    pub fn now() -> Self {
        let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&interrupts, &stat)
    }

    fn parse(interrupts: &str, stat: &str) -> Self {
        let mut counts = BTreeMap::new();
        for (label, name) in [
            ("RES", "ipi_reschedule"),
            ("CAL", "ipi_call"),
            ("TLB", "ipi_tlb"),
        ] {
            if let Some(sum) = interrupt_sum(interrupts, label) {
                counts.insert(name.into(), sum);
            }
        }
        let switches = stat.lines().find_map(|l| l.strip_prefix("ctxt "));
        if let Some(n) = switches.and_then(|n| n.trim().parse().ok()) {
            counts.insert("context_switches".into(), n);
        }
        Self(counts)
    }

    /// What was counted from `before` until now.
    pub fn since(self, before: &Self) -> BTreeMap<String, f64> {
        let started = |name: &str| before.0.get(name).copied().unwrap_or(0.0);
        self.0
            .into_iter()
            .map(|(name, count)| (name.clone(), count - started(&name)))
            .collect()
    }
}

/// Sum over all CPUs of a line of /proc/interrupts such as `TLB:  1  2  TLB shootdowns`.
fn interrupt_sum(text: &str, label: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(label)?.strip_prefix(':'))?;
    Some(
        line.split_whitespace()
            .map_while(|n| n.parse::<f64>().ok())
            .sum(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_cpus() {
        let interrupts = "     CPU0 CPU1\nTLB:   3   4   TLB shootdowns\nRES: 1 1 Rescheduling\n";
        let before = Counts::parse(interrupts, "cpu 1\nctxt 10\n");
        let after = Counts::parse("TLB: 5 5 TLB\n", "ctxt 17\n");
        let delta = after.since(&before);
        assert_eq!(delta["ipi_tlb"], 3.0);
        assert_eq!(delta["context_switches"], 7.0);
        assert!(!delta.contains_key("ipi_call"));
    }
}
