//! What a machine that runs can say of itself.

pub mod kvm;
pub mod prometheus;
pub mod thread;
pub mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use kvm_ioctls::VcpuFd;

use crate::config::{Pv, VmName};
use crate::devices::counters::Counted;
use crate::run::live::Live;
use crate::sched::Tid;
use crate::{Error, Result, cpuid};

use kvm::{Counters, Table};
use thread::{Tasks, Thread, cpus};
use types::{CgroupInfo, Info, Stat, State, ThreadInfo, ThreadStat, VcpuStat, Yields};

/// Kernel counters of yields that found their target begin so; the reason follows.
const HITS: &str = "yield_hits_";

/// Looks at one machine.
pub struct Observer {
    live: Arc<Live>,
    name: VmName,
    pv: Pv,
    tasks: Tasks,
    mem: u64,
    /// Whether the guest can have steal time.
    steal: bool,
    table: Option<Table>,
    /// The vCPUs' statistics files, in order.
    files: Vec<File>,
    devices: Vec<Counted>,
    start: Instant,
}

impl Observer {
    /// For a machine called `name` with these vCPUs.
    pub fn new(live: Arc<Live>, name: VmName, pv: Pv, mem: u64, vcpus: &[VcpuFd]) -> Result<Self> {
        let files: Vec<_> = vcpus.iter().filter_map(kvm::open).collect();
        let first = files.first().filter(|_| files.len() == vcpus.len());
        Ok(Self {
            live,
            name,
            pv,
            tasks: Tasks::open().map_err(Error::system("open /proc/self/task"))?,
            mem,
            steal: cpuid::has_steal_time(vcpus),
            // The same for all vCPUs.
            table: first.and_then(|file| Table::read(file, wanted).ok()),
            files,
            devices: Vec::new(),
            start: Instant::now(),
        })
    }

    /// The same, with what these devices count.
    pub fn counting(self, devices: Vec<Counted>) -> Self {
        Self { devices, ..self }
    }

    /// The machine that is looked at.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// What it is and where its threads may run.
    pub fn info(&self) -> Result<Info> {
        let placement = self.live.placement();
        let threads = placement.threads();
        let look = |tids: &mut dyn Iterator<Item = Tid>| -> Result<Vec<ThreadInfo>> {
            tids.map(|tid| {
                self.thread_info(tid)
                    .map_err(Error::system("look at a thread of this process"))
            })
            .collect()
        };
        Ok(Info {
            name: self.name.to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: match (self.live.stopping(), self.live.control.paused()) {
                (true, _) => State::Stopping,
                (_, true) => State::Paused,
                _ => State::Running,
            },
            launching: placement.launching(),
            uptime_ms: self.start.elapsed().as_millis() as u64,
            mem_bytes: self.mem,
            pv: self.pv,
            cgroup: placement.group().map(|group| {
                let (cpu_weight, cpu_max) = group.shares();
                CgroupInfo {
                    path: group.path().display().to_string(),
                    layout: group.layout(),
                    cpu_weight,
                    cpu_max,
                }
            }),
            vcpus: look(&mut threads.vcpus.iter().copied())?,
            helpers: look(&mut threads.helpers())?,
        })
    }

    /// What it did since its start.
    pub fn stat(&self) -> Result<Stat> {
        let threads = self.live.placement().threads().clone();
        let vcpus = threads.vcpus.iter().enumerate();
        let look = |tid| {
            let thread = self.tasks.look(tid).map(|thread| thread_stat(tid, thread));
            thread.map_err(Error::system("look at a thread of this process"))
        };
        Ok(Stat {
            name: self.name.to_string(),
            pid: std::process::id(),
            uptime_ns: self.start.elapsed().as_nanos() as u64,
            vcpus: vcpus
                .map(|(index, &tid)| Ok(vcpu_stat(look(tid)?, self.steal, &self.counters(index))))
                .collect::<Result<_>>()?,
            helpers: threads.helpers().map(look).collect::<Result<_>>()?,
            devices: self.devices.iter().map(Counted::look).collect(),
        })
    }

    fn thread_info(&self, tid: Tid) -> io::Result<ThreadInfo> {
        let thread = self.tasks.look(tid)?;
        Ok(ThreadInfo {
            tid,
            name: thread.name,
            class: thread.class,
            cpus: cpus(tid)?,
        })
    }

    /// KVM's counters of a vCPU; none where KVM has none.
    fn counters(&self, vcpu: usize) -> Counters {
        let counters = self.table.as_ref().zip(self.files.get(vcpu));
        counters
            .and_then(|(table, file)| table.counters(file).ok())
            .unwrap_or_default()
    }
}

fn wanted(name: &str) -> bool {
    let known = [
        "exits",
        "halt_exits",
        "spin_exits",
        "yield_attempts",
        "yield_same_cpu",
        "yield_other_cpu",
    ];
    known.contains(&name) || name.starts_with(HITS)
}

fn thread_stat(tid: Tid, thread: Thread) -> ThreadStat {
    ThreadStat {
        tid,
        name: thread.name,
        cpu: thread.cpu,
        class: thread.class,
        run_ns: thread.run_ns,
        delay_ns: thread.delay_ns,
        delay_share: share(thread.delay_ns, thread.run_ns),
    }
}

/// `part` of `part` and `rest`; 0 where there is nothing.
pub fn share(part: u64, rest: u64) -> f64 {
    match part.saturating_add(rest) {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}

fn vcpu_stat(thread: ThreadStat, steal: bool, counters: &Counters) -> VcpuStat {
    let counter = |name: &str| counters.get(name).copied();
    let hits: BTreeMap<String, u64> = counters
        .iter()
        .filter_map(|(name, &n)| Some((name.strip_prefix(HITS)?.to_string(), n)))
        .collect();
    let yields = Yields {
        attempts: counter("yield_attempts"),
        hits,
        same_cpu: counter("yield_same_cpu"),
        other_cpu: counter("yield_other_cpu"),
    };
    VcpuStat {
        // What KVM adds to the guest's steal time is the run delay of the vCPU's thread:
        // arch/x86/kvm/x86.c, record_steal_time(). The guest and its vCPUs are left alone.
        steal_ns: steal.then_some(thread.delay_ns),
        thread,
        exits: counter("exits"),
        halts: counter("halt_exits"),
        spin_exits: counter("spin_exits"),
        yields: (yields != Yields::default()).then_some(yields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_absent() {
        let thread = ThreadStat {
            tid: 1,
            name: "vcpu0".into(),
            cpu: 0,
            class: "fair".into(),
            run_ns: 3,
            delay_ns: 1,
            delay_share: share(1, 3),
        };
        let stock = Counters::from([("exits".into(), 5)]);
        let stat = vcpu_stat(thread.clone(), false, &stock);
        let json = serde_json::to_value(&stat).unwrap();
        assert_eq!(
            (&json["exits"], &json["delay_share"]),
            (&5.into(), &0.25.into())
        );
        for absent in ["steal_ns", "halts", "spin_exits", "yields"] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
        let patched = Counters::from([
            ("yield_attempts".into(), 4),
            ("yield_hits_ipi".into(), 2),
            ("yield_hits_relaxed".into(), 0),
        ]);
        let stat = vcpu_stat(thread, true, &patched);
        assert_eq!(stat.steal_ns, Some(stat.thread.delay_ns));
        let yields = stat.yields.unwrap();
        let hits = [("ipi", 2), ("relaxed", 0)].map(|(n, v)| (n.to_string(), v));
        assert_eq!((yields.attempts, yields.hits), (Some(4), hits.into()));
        assert_eq!(yields.same_cpu, None);
    }
}
