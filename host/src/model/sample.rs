//! What happened to VMs between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use super::{Task, Vm};
use crate::read::{CpuTimes, KvmVm, Meter, Pressure, Root, Throttling, Times, VCPU_COUNTERS};

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
    /// KVM's counters.
    pub kvm: BTreeMap<&'static str, u64>,
    /// What its limit did to it.
    pub throttling: Option<Throttling>,
}

/// Looks at the same VMs again and again.
#[derive(Debug)]
pub struct Sampler {
    root: Root,
    mount: Option<String>,
    meters: BTreeMap<(i32, u64), Vec<(i32, Meter)>>,
}

impl Sampler {
    /// For a host.
    pub fn new(root: Root) -> Self {
        let mount = root.hierarchy().ok().and_then(|h| h.v2);
        Self {
            root,
            mount,
            meters: BTreeMap::new(),
        }
    }

    /// Looks at these VMs. Threads that have ended are left out.
    pub fn look(&mut self, vms: &[Vm]) -> Sample {
        let there: BTreeSet<_> = vms.iter().map(|vm| (vm.pid, vm.start)).collect();
        self.meters.retain(|key, _| there.contains(key));
        let samples = vms.iter().map(|vm| ((vm.pid, vm.start), self.vm(vm)));
        Sample {
            at: Instant::now(),
            vms: samples.collect(),
            cpus: self.root.cpu_times().unwrap_or_default(),
            pressure: self.root.cpu_pressure(None).ok(),
        }
    }

    /// Looks for the threads of these VMs anew where they are others than before.
    pub fn forget_threads(&mut self, vms: &[Vm]) {
        for vm in vms {
            let wanted = vm.vcpu_tasks().count() + vm.io_tasks().count();
            let key = (vm.pid, vm.start);
            if self
                .meters
                .get(&key)
                .is_some_and(|meters| meters.len() != wanted)
            {
                self.meters.remove(&key);
            }
        }
    }

    fn vm(&mut self, vm: &Vm) -> VmSample {
        let root = &self.root;
        let meters = self.meters.entry((vm.pid, vm.start)).or_insert_with(|| {
            let wanted = vm.vcpu_tasks().map(|(_, task)| task).chain(vm.io_tasks());
            let open = |task: &Task| Some((task.tid, Meter::new(root, task.pid, task.tid).ok()?));
            wanted.filter_map(open).collect()
        });
        let at = Instant::now();
        let tasks = meters
            .iter()
            .filter_map(|(tid, meter)| Some((*tid, meter.read().ok()?)));
        let tasks = tasks.collect();
        // The root is all of the host, not the VM.
        let group = vm.cgroup.as_ref().filter(|group| *group != "/");
        let group = group.zip(self.mount.as_ref());
        let throttling =
            group.and_then(|(group, mount)| root.throttling(&format!("{mount}{group}")).ok());
        VmSample {
            at,
            tasks,
            kvm: vm.kvm.map(|vm| counters(root, vm)).unwrap_or_default(),
            throttling,
        }
    }
}

fn counters(root: &Root, vm: KvmVm) -> BTreeMap<&'static str, u64> {
    root.kvm_counters(vm, VCPU_COUNTERS)
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
    /// Its threads by id; those that were there at both ends.
    pub tasks: BTreeMap<i32, TaskRates>,
    /// KVM's counters, a second.
    pub kvm: BTreeMap<&'static str, f64>,
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
    let idle = after.cpus.idle.saturating_sub(before.cpus.idle);
    let pressure = before.pressure.zip(after.pressure).map(|(before, after)| {
        after.some_usec.saturating_sub(before.some_usec) as f64 / seconds / 1e4
    });
    let host = HostRates {
        idle_cpus: cpus as f64 * idle as f64 / total.max(1) as f64,
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
    let kvm = after
        .kvm
        .iter()
        .filter_map(|(name, &after)| Some((*name, since(*before.kvm.get(name)?, after) / seconds)));
    let throttling = before.throttling.zip(after.throttling);
    VmRates {
        tasks: tasks.collect(),
        kvm: kvm.collect(),
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
            kvm: BTreeMap::from([("exits", turns)]),
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
        assert_eq!(vms[0].kvm["exits"], 25.0);
        assert_eq!(
            (vms[0].throttled_percent, vms[0].throttled_usec),
            (Some(50.0), Some(2500.0))
        );
        assert_eq!((host.idle_cpus, host.waiting_vcpus), (2.0, 0.05));
        // A process that was restarted under the same id has no rates yet.
        let other = Vm { start: 2, ..vm };
        let (_, vms) = rates(&[other], &before, &after, 4);
        assert_eq!(vms[0], VmRates::default());
    }
}
