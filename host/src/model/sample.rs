//! What happened to VMs between two looks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use super::{Role, Task, Vm};
use crate::read::{
    Counted, Counts, CpuTimes, KvmMeter, Limits, Meter, Pressure, Root, Throttling, Times,
};

/// One look at all VMs.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// The host's CPUs.
    pub cpus: CpuTimes,
    /// The host's pressure on CPUs; none on a kernel without PSI.
    pub pressure: Option<Pressure>,
    /// Each VM, by process and start time.
    pub vms: BTreeMap<(i32, u64), VmSample>,
}

/// One look at one VM.
#[derive(Debug, Clone)]
pub struct VmSample {
    /// When: on a busy host a look at many VMs takes its time.
    pub at: Instant,
    /// Its threads, by id.
    pub tasks: BTreeMap<i32, Times>,
    /// KVM's counters, all vCPUs together.
    pub kvm: Counts,
    /// Those of each vCPU, where its process has their files open.
    pub vcpus: Vec<(u32, Counts)>,
    /// What its limits did to it.
    pub throttling: Option<Throttling>,
}

/// Looks at the same VMs again and again, by files that stay open.
#[derive(Debug)]
pub struct Sampler {
    root: Root,
    mount: Option<String>,
    /// The threads that are looked at.
    wanted: fn(&Role) -> bool,
    held: BTreeMap<(i32, u64), Held>,
    /// KVM's counters that this kernel's debugfs has, once it is known.
    counters: Option<Vec<usize>>,
}

/// What is open of a VM.
#[derive(Debug, Default)]
struct Held {
    meters: Vec<(i32, Meter)>,
    kvm: KvmMeter,
    limits: Limits,
}

impl Sampler {
    /// For a host: looks at threads that run vCPUs or serve devices.
    pub fn new(root: Root) -> Self {
        let mount = root.hierarchy().ok().and_then(|h| h.v2);
        Self {
            root,
            mount,
            wanted: |role| matches!(role, Role::Vcpu(_) | Role::Io | Role::Vhost),
            held: BTreeMap::new(),
            counters: None,
        }
    }

    /// The same for threads that run vCPUs only.
    pub fn of_vcpus(root: Root) -> Self {
        Self {
            wanted: |role| matches!(role, Role::Vcpu(_)),
            ..Self::new(root)
        }
    }

    /// The same for all threads.
    pub fn of_all_threads(root: Root) -> Self {
        Self {
            wanted: |_| true,
            ..Self::new(root)
        }
    }

    /// Looks at these VMs. Threads that have ended are left out.
    pub fn look(&mut self, vms: &[Vm]) -> Sample {
        let there: BTreeSet<_> = vms.iter().map(|vm| (vm.pid, vm.start)).collect();
        self.held.retain(|key, _| there.contains(key));
        let samples = vms.iter().map(|vm| ((vm.pid, vm.start), self.vm(vm)));
        Sample {
            at: Instant::now(),
            vms: samples.collect(),
            cpus: self.root.cpu_times().unwrap_or_default(),
            pressure: self.root.cpu_pressure(None).ok(),
        }
    }

    /// Closes what is open of VMs that are others than before: their threads, counters and
    /// limits are looked for anew.
    pub fn changed(&mut self, vms: impl IntoIterator<Item = (i32, u64)>) {
        for key in vms {
            self.held.remove(&key);
        }
    }

    /// Closes all files. An open one of KVM's keeps its VM's memory of the kernel after the
    /// VM's end: that is for as long as between two looks, which must not be long.
    pub fn let_go(&mut self) {
        self.held.clear();
    }

    fn vm(&mut self, vm: &Vm) -> VmSample {
        let key = (vm.pid, vm.start);
        let held = match self.held.entry(key) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(free) => {
                let host = (&self.root, self.mount.as_deref());
                free.insert(Held::open(host, vm, self.wanted, &mut self.counters))
            }
        };
        let at = Instant::now();
        let tasks = held.meters.iter();
        let tasks = tasks.filter_map(|(tid, meter)| Some((*tid, meter.read().ok()?)));
        let tasks: BTreeMap<_, _> = tasks.collect();
        let (kvm, vcpus) = held.kvm.read();
        let throttling = held.limits.read();
        // One of which no thread is left has ended: nothing is held of it.
        if tasks.is_empty() {
            self.held.remove(&key);
        }
        VmSample {
            at,
            tasks,
            kvm,
            vcpus,
            throttling,
        }
    }
}

impl Held {
    fn open(
        (root, mount): (&Root, Option<&str>),
        vm: &Vm,
        wanted: fn(&Role) -> bool,
        counters: &mut Option<Vec<usize>>,
    ) -> Self {
        let wanted = vm.tasks.iter().filter(|task| wanted(&task.role));
        let open = |task: &Task| Some((task.tid, Meter::new(root, task.pid, task.tid).ok()?));
        Self {
            meters: wanted.filter_map(open).collect(),
            kvm: KvmMeter::new(root, vm.pid, vm.vcpus, vm.kvm, counters),
            limits: Limits::new(root, groups(root, mount, vm)),
        }
    }
}

/// A VM's group, and those below it that its vCPUs are in.
fn groups(root: &Root, mount: Option<&str>, vm: &Vm) -> BTreeSet<String> {
    // The root is all of the host, not the VM.
    let group = vm.cgroup.as_ref().filter(|group| *group != "/");
    let Some((group, mount)) = group.zip(mount) else {
        return BTreeSet::new();
    };
    let mut groups = BTreeSet::from([format!("{mount}{group}")]);
    for (_, task) in vm.vcpu_tasks() {
        let path = root.groups(task.pid, task.tid).unwrap_or_default().v2;
        let below = path.as_ref().and_then(|path| path.strip_prefix(group));
        let mut parts = group.clone();
        for part in below.unwrap_or_default().split('/').skip(1) {
            parts = format!("{parts}/{part}");
            groups.insert(format!("{mount}{parts}"));
        }
    }
    groups
}

/// What a thread did in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TaskRates {
    /// Share of the time that it ran, in per cent.
    pub run_percent: f64,
    /// Share of the time that it waited for a CPU while it could have run, in per cent:
    /// what others call CPU ready, and its guest steal time.
    pub ready_percent: f64,
    /// How often a second it got a CPU.
    pub turns: f64,
    /// How long it waited for one of these turns, in us.
    pub wait_us: f64,
}

/// What a VM did in an interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VmRates {
    /// How long the interval was.
    #[serde(skip)]
    pub seconds: f64,
    /// Its threads by id; those that were there at both ends.
    pub tasks: BTreeMap<i32, TaskRates>,
    /// KVM's counters, a second.
    pub kvm: Counted<f64>,
    /// Those of each vCPU, where they are told.
    #[serde(skip)]
    pub vcpus: Vec<(u32, Counted<f64>)>,
    /// Share of its periods in which it ran out of quota, in per cent: nr_throttled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_percent: Option<f64>,
    /// Time that it was held off, in us a second: throttled_usec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_usec: Option<f64>,
}

/// What the host did in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct HostRates {
    /// Time without a task to run, in CPUs.
    pub idle_cpus: f64,
    /// Time that vCPUs waited for a CPU, in CPUs.
    pub waiting_vcpus: f64,
    /// Time that was taken from this host, where it is a VM itself, in CPUs.
    pub steal_cpus: f64,
    /// Share of the time in which some task waited for a CPU, in per cent: PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure_percent: Option<f64>,
}

/// What happened between two looks at these VMs, on a host of `cpus` CPUs.
pub fn rates(
    vms: &[Vm],
    before: &Sample,
    after: &Sample,
    cpus: usize,
) -> (HostRates, Vec<VmRates>) {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-9);
    let rates: Vec<VmRates> = vms
        .iter()
        .map(|vm| {
            let key = (vm.pid, vm.start);
            let looks = before.vms.get(&key).zip(after.vms.get(&key));
            looks
                .map(|(before, after)| vm_rates(before, after))
                .unwrap_or_default()
        })
        .collect();
    let ready = vms.iter().zip(&rates).flat_map(|(vm, rates)| {
        vm.vcpu_tasks()
            .filter_map(|(_, task)| Some(rates.tasks.get(&task.tid)?.ready_percent))
    });
    let total = after.cpus.total.saturating_sub(before.cpus.total);
    let share = |before: u64, after: u64| {
        cpus as f64 * after.saturating_sub(before) as f64 / total.max(1) as f64
    };
    let pressure = before.pressure.zip(after.pressure).map(|(before, after)| {
        after.some_usec.saturating_sub(before.some_usec) as f64 / seconds / 1e4
    });
    let host = HostRates {
        idle_cpus: share(before.cpus.idle, after.cpus.idle),
        steal_cpus: share(before.cpus.steal, after.cpus.steal),
        waiting_vcpus: ready.sum::<f64>() / 100.0,
        pressure_percent: pressure,
    };
    (host, rates)
}

fn vm_rates(before: &VmSample, after: &VmSample) -> VmRates {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-9);
    let since = |before: u64, after: u64| after.saturating_sub(before) as f64;
    let tasks = after.tasks.iter().filter_map(|(tid, after)| {
        let before = before.tasks.get(tid)?;
        let delay_ns = since(before.delay_ns, after.delay_ns);
        let turns = since(before.turns, after.turns);
        let rates = TaskRates {
            run_percent: since(before.run_ns, after.run_ns) / seconds / 1e7,
            ready_percent: delay_ns / seconds / 1e7,
            turns: turns / seconds,
            wait_us: if turns > 0.0 {
                delay_ns / turns / 1e3
            } else {
                0.0
            },
        };
        Some((*tid, rates))
    });
    let rate = |after: &Counts, before: &Counts| {
        after.with(before, |after, before| since(before, after) / seconds)
    };
    let vcpus = after.vcpus.iter().filter_map(|(vcpu, after)| {
        let (_, before) = before.vcpus.iter().find(|(other, _)| other == vcpu)?;
        Some((*vcpu, rate(after, before)))
    });
    let throttling = before.throttling.zip(after.throttling);
    VmRates {
        seconds,
        tasks: tasks.collect(),
        kvm: rate(&after.kvm, &before.kvm),
        vcpus: vcpus.collect(),
        throttled_percent: throttling.map(|(before, after)| {
            let periods = since(before.nr_periods, after.nr_periods);
            100.0 * since(before.nr_throttled, after.nr_throttled) / periods.max(1.0)
        }),
        throttled_usec: throttling
            .map(|(before, after)| since(before.throttled_usec, after.throttled_usec) / seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(at: Instant, run_ns: u64, delay_ns: u64, turns: u64, throttled: u64) -> Sample {
        let times = Times {
            run_ns,
            delay_ns,
            turns,
        };
        let vm = VmSample {
            at,
            tasks: BTreeMap::from([(7, times)]),
            kvm: [("exits", turns)].into_iter().collect(),
            vcpus: vec![(0, [("spin_exits", turns)].into_iter().collect())],
            throttling: Some(Throttling {
                nr_periods: throttled * 2,
                nr_throttled: throttled,
                throttled_usec: throttled * 1000,
                ..Throttling::default()
            }),
        };
        Sample {
            at,
            cpus: CpuTimes {
                total: turns * 10,
                idle: turns * 5,
                steal: turns,
            },
            pressure: None,
            vms: BTreeMap::from([((7, 1), vm)]),
        }
    }

    #[test]
    fn shares_are_of_the_interval() {
        let start = Instant::now();
        let before = sample(start, 0, 0, 0, 0);
        let after = sample(
            start + Duration::from_secs(2),
            500_000_000,
            100_000_000,
            50,
            5,
        );
        let task = Task {
            pid: 7,
            tid: 7,
            name: "vcpu0".into(),
            role: super::super::Role::Vcpu(0),
            start: 1,
        };
        let vm = Vm {
            name: "web".into(),
            vmm: super::super::Vmm::Vmm,
            pid: 7,
            start: 1,
            cgroup: None,
            pod: None,
            vcpus: 1,
            tasks: vec![task],
            kvm: None,
        };
        let (host, vms) = rates(std::slice::from_ref(&vm), &before, &after, 4);
        let task = vms[0].tasks[&7];
        assert_eq!((task.run_percent, task.ready_percent), (25.0, 5.0));
        assert_eq!((task.turns, task.wait_us), (25.0, 2000.0));
        assert_eq!(vms[0].kvm.get("exits"), Some(25.0));
        assert_eq!(vms[0].vcpus[0].1.get("spin_exits"), Some(25.0));
        assert_eq!(
            (vms[0].throttled_percent, vms[0].throttled_usec),
            (Some(50.0), Some(2500.0))
        );
        assert_eq!((host.idle_cpus, host.waiting_vcpus), (2.0, 0.05));
        assert_eq!(host.steal_cpus, 0.4);
        // A process that was restarted under the same id has no rates yet.
        let other = Vm { start: 2, ..vm };
        let (_, vms) = rates(&[other], &before, &after, 4);
        assert_eq!(vms[0], VmRates::default());
    }
}
