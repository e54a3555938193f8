//! The host's CPUs.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::Root;

/// How CPUs share cores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// CPUs that are online.
    pub cpus: usize,
    /// Cores that they are of.
    pub cores: usize,
    /// The processor's name, if the kernel tells it.
    pub model: Option<String>,
}

/// What all CPUs did since the host's start, in ticks of 1/100 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// All time.
    pub total: u64,
    /// Time without a task to run.
    pub idle: u64,
    /// Time that was taken from this host, where it is a VM itself.
    pub steal: u64,
}

/// Time since this process's host started, by the clock that start times are of.
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

impl Root {
    /// Whether the kernel is locked down, as it is after Secure Boot: kernel_lockdown(7). It
    /// refuses files in debugfs that may be written, to root, too.
    pub fn is_locked_down(&self) -> bool {
        let text = self.text("sys/kernel/security/lockdown");
        text.is_ok_and(|text| text.contains("[integrity]") || text.contains("[confidentiality]"))
    }

    /// CPUs and cores, of /proc/cpuinfo.
    pub fn topology(&self) -> io::Result<Topology> {
        let text = self.text("proc/cpuinfo")?;
        let value = |line: &str, key: &str| {
            let (found, value) = line.split_once(':')?;
            (found.trim() == key).then(|| value.trim().to_string())
        };
        let all = |key: &str| {
            text.lines()
                .filter_map(|line| value(line, key))
                .collect::<Vec<_>>()
        };
        let cpus = all("processor").len();
        let cores: BTreeSet<_> = all("physical id").into_iter().zip(all("core id")).collect();
        Ok(Topology {
            cpus,
            cores: if cores.is_empty() { cpus } else { cores.len() },
            model: all("model name").into_iter().next(),
        })
    }

    /// The first line of /proc/stat.
    pub fn cpu_times(&self) -> io::Result<CpuTimes> {
        let text = self.text("proc/stat")?;
        let line = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("cpu "));
        let line = line.ok_or(io::ErrorKind::InvalidData)?;
        // user nice system idle iowait irq softirq steal; guests' time is in user's.
        let times: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        Ok(CpuTimes {
            total: times.iter().sum(),
            idle: times.iter().skip(3).take(2).sum(),
            steal: times.get(7).copied().unwrap_or_default(),
        })
    }
}
