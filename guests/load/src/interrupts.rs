//! Interrupts of the virtio devices: counted, and moved from CPU to CPU.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::Run;
use crate::error::{Error, Result};

const TABLE: &str = "/proc/interrupts";
/// How long they stay where they are.
const STAY: Duration = Duration::from_millis(10);

/// A device's interrupt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// Its number.
    pub number: u32,
    /// How many came.
    pub count: u64,
    /// On how many CPUs.
    pub cpus: usize,
}

/// Those of the virtio devices, by the devices' names.
pub fn lines() -> Result<BTreeMap<String, Line>> {
    let text = fs::read_to_string(TABLE).map_err(Error::system(format!("read {TABLE}")))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `16: 5 0 IO-APIC 16-edge virtio0`
fn parse(line: &str) -> Option<(String, Line)> {
    let (number, rest) = line.trim_start().split_once(':')?;
    let name = rest.split_whitespace().next_back()?;
    if !name.starts_with("virtio") {
        return None;
    }
    let counts = rest
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok());
    let counts: Vec<u64> = counts.collect();
    let line = Line {
        number: number.parse().ok()?,
        count: counts.iter().sum(),
        cpus: counts.iter().filter(|count| **count > 0).count(),
    };
    Some((name.into(), line))
}

/// Gives every device another CPU, over and over: there interrupts get lost, if anywhere.
pub fn move_around(run: &Run, cpus: usize) -> Result<()> {
    let numbers: Vec<u32> = lines()?.values().map(|line| line.number).collect();
    for turn in 0.. {
        for (index, number) in numbers.iter().enumerate() {
            if !run.goes_on() {
                return Ok(());
            }
            let path = format!("/proc/irq/{number}/smp_affinity_list");
            // Coprime steps: devices meet on a CPU now and then.
            let cpu = (turn * (2 * index + 1) + index) % cpus;
            fs::write(&path, cpu.to_string()).map_err(Error::system(format!("write to {path}")))?;
        }
        sleep(STAY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_many_came_and_where() {
        let line = " 17:    5   0   12   IO-APIC   17-edge      virtio1";
        let expected = Line {
            number: 17,
            count: 17,
            cpus: 2,
        };
        assert_eq!(parse(line), Some(("virtio1".into(), expected)));
        assert_eq!(parse("  4:  9  IO-APIC  4-edge  ttyS0"), None);
        assert_eq!(parse("           CPU0       CPU1"), None);
    }
}
