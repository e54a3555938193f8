//! What the kernel tells of a thread: proc(5).

use std::fs;
use std::io;

use crate::sched::{Class, CpuList, Tid};

/// A thread at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// The CPU that it runs on, or ran on last.
    pub cpu: u32,
    /// Its scheduling class.
    pub class: String,
    /// Time that it ran, in ns.
    pub run_ns: u64,
    /// Time that it waited for a CPU while it could have run, in ns.
    pub delay_ns: u64,
}

impl Thread {
    /// Looks at a thread of this process.
    pub fn look(tid: Tid) -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{tid}/{file}"));
        let (name, cpu) = name_and_cpu(&read("stat")?).ok_or(io::ErrorKind::InvalidData)?;
        let times = read("schedstat")?;
        let mut times = times.split_whitespace().map(str::parse);
        let mut time = || times.next().and_then(Result::ok);
        let (run_ns, delay_ns) = time().zip(time()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            name,
            cpu,
            class: Class::of(tid)?,
            run_ns,
            delay_ns,
        })
    }
}

/// The CPUs that a thread of this process may use.
pub fn cpus(tid: Tid) -> io::Result<String> {
    CpuList::of(tid).map(|list| list.to_string())
}

/// Field 2, in parentheses, and field 39 of "stat".
fn name_and_cpu(stat: &str) -> Option<(String, u32)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let cpu = after.split_whitespace().nth(39 - 3)?;
    Some((name.into(), cpu.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_anything_in_it() {
        let rest = (3..=52)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let stat = format!("7 (a) b (c) {rest}\n");
        assert_eq!(name_and_cpu(&stat), Some(("a) b (c".into(), 39)));
        assert_eq!(name_and_cpu("7 (a"), None);
    }

    #[test]
    fn this_thread_has_run() {
        let look = || Thread::look(crate::gate::own_tid()).unwrap();
        // The kernel adds up at ticks and switches.
        while look().run_ns == 0 {
            std::thread::yield_now();
        }
        assert_eq!(look().class, "fair");
        assert!(Thread::look(1).is_err());
    }
}
