//! A machine as the kernel shows it to whoever looks: its threads, their times and KVM's
//! counters, by the looker's rights. A machine without rights of its own is seen as any other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vmfirst_host::act::CpuList;
use vmfirst_host::model::{Role, Sample, Sampler, Scanner, Task, Vm};
use vmfirst_host::read::{Counts, HITS, Root, Times, uptime};

use super::share;
use super::types::{OwnStat, Stat, ThreadInfo, ThreadStat, VcpuStat, Yields};
use crate::api::client::Answer;
use crate::api::peer::Process;
use crate::config::VmName;
use crate::plain::plain;
use crate::sched::Class;
use crate::{Error, Result};

/// Start times are in ticks of 1/100 s.
const TICK: Duration = Duration::from_millis(10);

/// The VM that a machine's process is.
pub fn vm(name: &VmName, process: &Process) -> Result<Vm> {
    let root = Root::default();
    found(&mut Scanner::new(&root), name, process)
}

fn found(scanner: &mut Scanner, name: &VmName, process: &Process) -> Result<Vm> {
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    if own.to_str() != Some(&std::process::id().to_string()) {
        return Err(Error::Refused(format!(
            "machine {name} can't be looked at: /proc here is of another PID namespace; mount \
             this one's"
        )));
    }
    let vm = i32::try_from(process.pid)
        .ok()
        .and_then(|pid| scanner.process(pid));
    // It is alive still: what was read was of no process that had its id later.
    if process.has_ended() {
        return Err(Error::Gone(format!("machine {name} has ended")));
    }
    vm.ok_or_else(|| {
        Error::Refused(format!(
            "machine {name} (process {}) shows no vCPUs: look as its user or as root",
            process.pid
        ))
    })
}

/// A machine's threads: the vCPUs', and all others.
pub fn threads(vm: &Vm) -> (Vec<ThreadInfo>, Vec<ThreadInfo>) {
    let info = |task: &Task| {
        Some(ThreadInfo {
            tid: task.tid,
            name: plain(&task.name),
            class: Class::of(task.tid).ok()?,
            cpus: CpuList::of(task.tid).ok()?.to_string(),
        })
    };
    let vcpus = vm.vcpu_tasks().filter_map(|(_, task)| info(task));
    (vcpus.collect(), helpers(vm).filter_map(info).collect())
}

/// Its own threads that run no vCPU; what serves devices comes first.
fn helpers(vm: &Vm) -> impl Iterator<Item = &Task> {
    let is_own = |task: &&Task| matches!(task.role, Role::Io | Role::Main | Role::Other);
    vm.tasks.iter().filter(is_own)
}

/// Looks at machines again and again.
#[derive(Debug)]
pub struct Sight {
    root: Root,
    sampler: Sampler,
}

impl Default for Sight {
    fn default() -> Self {
        let root = Root::default();
        Self {
            sampler: Sampler::of_all_threads(root.clone()),
            root,
        }
    }
}

impl Sight {
    /// What machines did since their start, of those that answered.
    pub fn look(&mut self, answers: Vec<Answer<OwnStat>>) -> Vec<Answer<Stat>> {
        let mut scanner = Scanner::new(&self.root);
        let seen: Vec<_> = answers
            .into_iter()
            .map(|answer| {
                let vm = answer.said.and_then(|own| {
                    let process = answer.process.as_ref();
                    let process = process.ok_or_else(|| unseen(&answer.name))?;
                    Ok((own, found(&mut scanner, &answer.name, process)?))
                });
                (answer.name, answer.process, vm)
            })
            .collect();
        let vms = seen.iter().filter_map(|(.., vm)| vm.as_ref().ok());
        let vms: Vec<Vm> = vms.map(|(_, vm)| vm.clone()).collect();
        let sample = self.sampler.look(&vms);
        let seen = seen.into_iter();
        seen.map(|(name, process, vm)| Answer {
            said: vm.and_then(|(own, vm)| self.stat(&name, own, &vm, &sample)),
            name,
            process,
        })
        // One that has ended between the question and the look.
        .filter(|answer| !matches!(answer.said, Err(Error::Gone(_))))
        .collect()
    }

    fn stat(&self, name: &VmName, own: OwnStat, vm: &Vm, sample: &Sample) -> Result<Stat> {
        let gone = || Error::Gone(format!("machine {name} has ended"));
        let look = sample.vms.get(&(vm.pid, vm.start)).ok_or_else(gone)?;
        let started = TICK * u32::try_from(vm.start).unwrap_or(u32::MAX);
        let up = uptime().saturating_sub(Instant::now().duration_since(look.at));
        let thread = |task: &Task| self.thread(task, look.tasks.get(&task.tid)?);
        let counters: BTreeMap<_, _> = look.vcpus.iter().copied().collect();
        let vcpus = vm.vcpu_tasks().filter_map(|(number, task)| {
            let counters = counters.get(&number).copied().unwrap_or_default();
            Some(vcpu_stat(thread(task)?, own.steal_time, &counters))
        });
        let vcpus = vcpus.collect();
        Ok(Stat {
            name: name.to_string(),
            pid: vm.pid.unsigned_abs(),
            uptime_ns: up.saturating_sub(started).as_nanos() as u64,
            vcpus,
            helpers: helpers(vm).filter_map(thread).collect(),
            devices: own.devices,
        })
    }

    fn thread(&self, task: &Task, times: &Times) -> Option<ThreadStat> {
        let stat = self.root.stat(task.pid, task.tid).ok()?;
        Some(ThreadStat {
            tid: task.tid,
            name: plain(&task.name),
            cpu: stat.processor.and_then(|cpu| cpu.try_into().ok())?,
            class: Class::of(task.tid).ok()?,
            run_ns: times.run_ns,
            delay_ns: times.delay_ns,
            delay_share: share(times.delay_ns, times.run_ns),
        })
    }
}

/// That a machine's process has no id here.
fn unseen(name: &VmName) -> Error {
    Error::Refused(format!(
        "machine {name} runs in a PID namespace that is not seen from here: look from outside it"
    ))
}

fn vcpu_stat(thread: ThreadStat, steal: bool, counters: &Counts) -> VcpuStat {
    let hits = counters.iter().filter_map(|(name, n)| {
        let reason = name.strip_prefix(HITS)?;
        Some((reason.to_string(), n))
    });
    let yields = Yields {
        attempts: counters.get("yield_attempts"),
        hits: hits.collect(),
        same_cpu: counters.get("yield_same_cpu"),
        other_cpu: counters.get("yield_other_cpu"),
    };
    VcpuStat {
        // What KVM adds to the guest's steal time is the run delay of the vCPU's thread:
        // arch/x86/kvm/x86.c, record_steal_time(). The guest and its vCPUs are left alone.
        steal_ns: steal.then_some(thread.delay_ns),
        thread,
        exits: counters.get("exits"),
        halts: counters.get("halt_exits"),
        spin_exits: counters.get("spin_exits"),
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
        let stock = Counts::from_iter([("exits", 5)]);
        let stat = vcpu_stat(thread.clone(), false, &stock);
        let json = serde_json::to_value(&stat).unwrap();
        assert_eq!(
            (&json["exits"], &json["delay_share"]),
            (&5.into(), &0.25.into())
        );
        for absent in ["steal_ns", "halts", "spin_exits", "yields"] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
        let patched = Counts::from_iter([
            ("yield_attempts", 4),
            ("yield_hits_ipi", 2),
            ("yield_hits_relaxed", 0),
        ]);
        let stat = vcpu_stat(thread, true, &patched);
        assert_eq!(stat.steal_ns, Some(stat.thread.delay_ns));
        let yields = stat.yields.unwrap();
        let hits = [("ipi", 2), ("relaxed", 0)].map(|(n, v)| (n.to_string(), v));
        assert_eq!((yields.attempts, yields.hits), (Some(4), hits.into()));
        assert_eq!(yields.same_cpu, None);
    }
}
