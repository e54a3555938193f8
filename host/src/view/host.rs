//! Readers of what the host tells in the same files, as a model and for what is common to all.

use std::io;

use crate::read::Root;

/// A line of the host's /proc/meminfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLine {
    /// Its name, without the colon.
    pub key: String,
    /// Its number.
    pub value: u64,
    /// Whether that is in kB; else it counts pages of a size.
    pub kb: bool,
}

/// The host's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// /proc/meminfo, in the host's order.
    pub lines: Vec<MemoryLine>,
    /// The names in /proc/vmstat, in the host's order.
    pub vmstat: Vec<String>,
}

impl HostMemory {
    /// Reads both.
    pub fn read(root: &Root) -> io::Result<Self> {
        let lines = root.text("proc/meminfo")?;
        let vmstat = root.text("proc/vmstat")?;
        let names = vmstat.lines().filter_map(|line| line.split(' ').next());
        Ok(Self {
            lines: lines.lines().filter_map(memory_line).collect(),
            vmstat: names.map(str::to_string).collect(),
        })
    }

    /// A number in bytes.
    pub fn bytes(&self, key: &str) -> u64 {
        let line = self.lines.iter().find(|line| line.key == key);
        line.map_or(0, |line| line.value.saturating_mul(1024))
    }
}

fn memory_line(line: &str) -> Option<MemoryLine> {
    let (key, value) = line.split_once(':')?;
    let value = value.trim();
    let number = value.strip_suffix(" kB");
    Some(MemoryLine {
        key: key.to_string(),
        value: number.unwrap_or(value).parse().ok()?,
        kb: number.is_some(),
    })
}

/// The host's CPUs, each with its part of /proc/cpuinfo.
pub fn cpuinfo(root: &Root) -> io::Result<Vec<(u16, String)>> {
    let text = root.text("proc/cpuinfo")?;
    let parts = text.split("\n\n").filter_map(|part| {
        let first = part.trim_start_matches('\n').lines().next()?;
        let (key, number) = first.split_once(':')?;
        let number = (key.trim() == "processor").then_some(number)?;
        Some((
            number.trim().parse().ok()?,
            part.trim_matches('\n').to_string(),
        ))
    });
    Ok(parts.collect())
}
