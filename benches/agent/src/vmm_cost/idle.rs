//! What a process's threads have done so far.

use std::fs;

use dense_record::{Error, Result};

use super::{proc_of, read};

/// Sums over a process's threads.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    pub threads: u64,
    /// A thread that sleeps has given its CPU up, and is woken up again.
    pub vmm_wakeups: u64,
    pub vcpu_wakeups: u64,
    pub cpu_ns: u64,
}

impl Idle {
    pub fn read(pid: u32) -> Result<Self> {
        let folder = proc_of(pid).join("task");
        let tasks = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
        let mut sum = Self::default();
        for task in tasks.flatten() {
            let name = read(&task.path().join("comm"))?;
            let status = read(&task.path().join("status"))?;
            let schedstat = read(&task.path().join("schedstat"))?;
            sum.add(&name, &status, &schedstat);
        }
        Ok(sum)
    }

    fn add(&mut self, name: &str, status: &str, schedstat: &str) {
        let slept = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0);
        // Ours are called vcpu0, QEMU's CPU 0/KVM.
        match name.starts_with("vcpu") || name.starts_with("CPU ") {
            true => self.vcpu_wakeups += slept,
            false => self.vmm_wakeups += slept,
        }
        let on_cpu = schedstat.split_whitespace().next();
        self.cpu_ns += on_cpu.and_then(|ns| ns.parse().ok()).unwrap_or(0);
        self.threads += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_both_kinds_are_told_apart() {
        let status = |n: u64| {
            format!("Name:\tx\nvoluntary_ctxt_switches:\t{n}\nnonvoluntary_ctxt_switches:\t9\n")
        };
        let mut sum = Idle::default();
        sum.add("vcpu0\n", &status(3), "1000 2 3\n");
        sum.add("CPU 0/KVM\n", &status(4), "200 2 3\n");
        sum.add("vmm\n", &status(50), "30 2 3\n");
        let expected = Idle {
            threads: 3,
            vmm_wakeups: 50,
            vcpu_wakeups: 7,
            cpu_ns: 1230,
        };
        assert_eq!(sum, expected);
    }
}
