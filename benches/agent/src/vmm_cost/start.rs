//! From exec to the guest's first instruction, by the kernel's tracepoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use dense_record::{Error, Result};

use crate::trace::{line, value};

/// A trace buffer of our own.
const INSTANCE: &str = "/sys/kernel/tracing/instances/vmm-cost";
const EVENTS: &[&str] = &[
    "sched/sched_switch",
    "sched/sched_process_exec",
    "sched/sched_process_fork",
    "kvm/kvm_entry",
    // A KVM in software has no entries: it tells of each instruction that it emulates.
    "kvm/kvm_emulate_insn",
];
/// What ends the trace: entries until then fit into the buffer.
const LAST: (&str, &str) = ("kvm/kvm_exit", "traceoff:1");

/// Times in us of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub exec_us: u64,
    pub entry_us: u64,
    /// CPU time of all the process's threads from the one to the other.
    pub cpu_us: u64,
}

/// Tracing under way; its buffer goes with it.
pub struct Trace(PathBuf);

impl Trace {
    pub fn begin() -> Result<Self> {
        let folder = PathBuf::from(INSTANCE);
        fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
        let trace = Self(folder);
        trace.write("trace_clock", "mono")?;
        for event in EVENTS {
            trace.write(&format!("events/{event}/enable"), "1")?;
        }
        let (event, action) = LAST;
        trace.write(&format!("events/{event}/trigger"), action)?;
        Ok(trace)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).map_err(Error::io("write to", &path))
    }

    /// What it took process `pid` to start its guest.
    pub fn end(self, pid: u32) -> Result<Start> {
        self.write("tracing_on", "0")?;
        let path = self.0.join("trace");
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        parse(&String::from_utf8_lossy(&text), pid).ok_or_else(|| {
            Error::Invalid("the trace has no exec and first entry of the guest".into())
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // A trigger that has fired or not is in the way of removal.
        let (event, action) = LAST;
        let _ = self.write(&format!("events/{event}/trigger"), &format!("!{action}"));
        let _ = fs::remove_dir(&self.0);
    }
}

fn parse(text: &str, pid: u32) -> Option<Start> {
    let mut threads = BTreeSet::from([pid]);
    let mut exec_us = None;
    // On which CPU since when.
    let mut running: BTreeMap<u32, u64> = BTreeMap::new();
    let mut cpu_us = 0;
    let number = |text: &str, name: &str| value(text, name)?.parse::<u32>().ok();
    for line in text.lines().filter_map(line) {
        let mine = threads.contains(&line.tid);
        match line.event {
            "sched_process_exec" if line.tid == pid => {
                exec_us = Some(line.at_us);
                running.insert(line.cpu, line.at_us);
            }
            _ if exec_us.is_none() => {}
            "sched_process_fork" if mine => threads.extend(number(line.text, "child_pid")),
            "sched_switch" => {
                if let Some(since) = running.remove(&line.cpu) {
                    cpu_us += line.at_us - since;
                }
                let next = number(line.text, "next_pid")?;
                if threads.contains(&next) {
                    running.insert(line.cpu, line.at_us);
                }
            }
            "kvm_entry" | "kvm_emulate_insn" if mine => {
                let still = running.values().map(|since| line.at_us - since);
                return Some(Start {
                    exec_us: exec_us?,
                    entry_us: line.at_us,
                    cpu_us: cpu_us + still.sum::<u64>(),
                });
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
      dense-bench-7       [000] .....   1.000100: sched_process_fork: comm=dense-bench pid=7 child_comm=dense-bench child_pid=9
      dense-bench-9       [001] .....   1.000200: sched_process_exec: filename=/vmfirst/vmm pid=9 old_pid=9
              vmm-9       [001] d..2.   1.000300: sched_switch: prev_comm=vmm prev_pid=9 prev_prio=120 prev_state=R ==> next_comm=rcu next_pid=3 next_prio=120
              rcu-3       [001] d..2.   1.000400: sched_switch: prev_comm=rcu prev_pid=3 prev_prio=120 prev_state=S ==> next_comm=vmm next_pid=9 next_prio=120
              vmm-9       [001] .....   1.000450: sched_process_fork: comm=vmm pid=9 child_comm=vmm child_pid=10
           <idle>-0       [000] d..2.   1.000500: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=vcpu0 next_pid=10 next_prio=120
            other-99      [000] .....   1.000510: kvm_entry: vcpu 0, rip 0x0
            vcpu0-10      [000] d....   1.000600: kvm_entry: vcpu 0, rip 0x1000200
            vcpu0-10      [000] d....   1.000700: kvm_entry: vcpu 0, rip 0x1000300
";

    #[test]
    fn time_on_every_cpu_counts_up_to_the_first_entry() {
        let expected = Start {
            exec_us: 1_000_200,
            entry_us: 1_000_600,
            // 100 before rcu, 200 after it, 100 of vcpu0.
            cpu_us: 400,
        };
        assert_eq!(parse(TRACE, 9), Some(expected));
    }

    #[test]
    fn a_trace_without_a_start_gives_none() {
        assert_eq!(parse(TRACE, 8), None);
        assert_eq!(parse("", 9), None);
    }
}
