//! What happened to VMs between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
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
    pub kvm: Arc<Counts>,
    /// Those of each vCPU, where its process has their files open.
    pub vcpus: Vec<(u32, Counts)>,
    /// What its limits did to it.
    pub throttling: Option<Throttling>,
    /// What happened between the last two readings of counters and limits, which are older
    /// than this look where VMs take turns.
    pub counted: Option<Arc<CountRates>>,
}

/// KVM's counters of a VM and what its limits did, as they were read at one time.
#[derive(Debug)]
struct Reading {
    at: Instant,
    kvm: Arc<Counts>,
    vcpus: Vec<(u32, Counts)>,
    throttling: Option<Throttling>,
}

/// How many files of KVM's counters and of limits are read for one look, beside those of VMs
/// that are new. KVM's have to be opened anew each time, and the kernel adds up a limit's over
/// all CPUs: on a host of many VMs that would be most of what a look costs, so they take turns.
/// Each VM's comes within as many looks as it takes for all files at this number a look.
pub const FILES_A_LOOK: usize = 256;

/// What names a VM: its process, and when that started.
type Key = (i32, u64);

/// Looks at the same VMs again and again, by files that stay open.
#[derive(Debug)]
pub struct Sampler {
    root: Root,
    mount: Option<String>,
    /// The threads that are looked at.
    wanted: fn(&Role) -> bool,
    held: BTreeMap<Key, Held>,
    /// KVM's counters that this kernel's debugfs has, once it is known.
    counters: Option<Vec<usize>>,
    /// Whose turn it was last.
    turn: Key,
}

/// What is known of a VM from look to look.
#[derive(Debug, Default)]
struct Held {
    files: Option<Files>,
    newest: Option<Reading>,
    counted: Option<Arc<CountRates>>,
}

/// What is open of a VM.
#[derive(Debug)]
struct Files {
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
            turn: Key::default(),
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
        let there: BTreeSet<_> = vms.iter().map(key).collect();
        self.held.retain(|key, _| there.contains(key));
        for vm in vms {
            let host = (&self.root, self.mount.as_deref());
            let open = || Files::open(host, vm, self.wanted, &mut self.counters);
            let held = self.held.entry(key(vm)).or_default();
            held.files.get_or_insert_with(open);
        }
        self.count();
        let samples = self.held.iter().map(|(key, held)| (*key, held.look()));
        let vms: BTreeMap<_, _> = samples.collect();
        // One of which no thread is left has ended: nothing is held of it.
        let ended = |key: &Key| vms.get(key).is_none_or(|vm| vm.tasks.is_empty());
        self.held.retain(|key, _| !ended(key));
        Sample {
            at: Instant::now(),
            vms,
            cpus: self.root.cpu_times().unwrap_or_default(),
            pressure: self.root.cpu_pressure(None).ok(),
        }
    }

    /// Reads counters and limits of those whose turn it is, and twice of those that are new: two
    /// readings make the first rates.
    fn count(&mut self) {
        let due = self.due();
        for (key, held) in &mut self.held {
            if !held.takes_turns() || due.contains(key) {
                held.count();
            }
        }
    }

    /// Whose turn it is: as many as may be read in one look, from the one after the last.
    fn due(&mut self) -> BTreeSet<Key> {
        let mut left = FILES_A_LOOK;
        let after = self.held.range((Excluded(self.turn), Unbounded));
        let order = after.chain(self.held.range(..=self.turn));
        let fits = |(_, held): &(&Key, &Held)| {
            let rest = left.checked_sub(held.turn_files());
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let waiting = order.filter(|(_, held)| held.takes_turns());
        let due: Vec<Key> = waiting.take_while(fits).map(|(key, _)| *key).collect();
        self.turn = due.last().copied().unwrap_or(self.turn);
        due.into_iter().collect()
    }

    /// Closes what is open of VMs that are others than before: their threads, counters and
    /// limits are looked for anew.
    pub fn changed(&mut self, vms: impl IntoIterator<Item = (i32, u64)>) {
        for key in vms {
            if let Some(held) = self.held.get_mut(&key) {
                held.files = None;
            }
        }
    }

    /// Closes all files. An open one of KVM's keeps its VM's memory of the kernel after the
    /// VM's end: that is for as long as between two looks, which must not be long.
    pub fn let_go(&mut self) {
        self.held.values_mut().for_each(|held| held.files = None);
    }
}

fn key(vm: &Vm) -> Key {
    (vm.pid, vm.start)
}

impl Held {
    /// How many files are read when it is its turn. Statistics files of vCPUs are not among
    /// them: a reading of one is cheap.
    fn turn_files(&self) -> usize {
        let files = self.files.as_ref();
        files.map_or(0, |files| files.kvm.opens() + files.limits.count())
    }

    fn takes_turns(&self) -> bool {
        self.turn_files() > 0 && self.counted.is_some()
    }

    /// Reads counters and limits.
    fn count(&mut self) {
        let Some(files) = &self.files else {
            return;
        };
        let at = Instant::now();
        let (kvm, vcpus) = files.kvm.read();
        let reading = Reading {
            at,
            kvm: Arc::new(kvm),
            vcpus,
            throttling: files.limits.read(),
        };
        let earlier = self.newest.as_ref();
        self.counted = earlier.map(|earlier| Arc::new(CountRates::between(earlier, &reading)));
        self.newest = Some(reading);
    }

    /// Looks at the threads; the rest is what was read last.
    fn look(&self) -> VmSample {
        let at = Instant::now();
        let meters = self.files.iter().flat_map(|files| &files.meters);
        let tasks = meters.filter_map(|(tid, meter)| Some((*tid, meter.read().ok()?)));
        let newest = self.newest.as_ref();
        VmSample {
            at,
            tasks: tasks.collect(),
            kvm: newest.map_or_else(Arc::default, |reading| reading.kvm.clone()),
            vcpus: newest.map_or_else(Vec::new, |reading| reading.vcpus.clone()),
            throttling: newest.and_then(|reading| reading.throttling),
            counted: self.counted.clone(),
        }
    }
}

impl Files {
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VmRates {
    /// How long the interval was.
    pub seconds: f64,
    /// Its threads by id; those that were there at both ends.
    pub tasks: BTreeMap<i32, TaskRates>,
    /// What KVM counted and its limits did, over an interval of their own where VMs take turns.
    pub counted: Arc<CountRates>,
}

/// What KVM counted of a VM and its limits did to it, between two readings.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CountRates {
    /// How long that was.
    pub seconds: f64,
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
    let seconds = seconds(before.at, after.at);
    let tasks = after.tasks.iter().filter_map(|(tid, after)| {
        let before = before.tasks.get(tid)?;
        let delay_ns = grown(before.delay_ns, after.delay_ns);
        let turns = grown(before.turns, after.turns);
        let rates = TaskRates {
            run_percent: grown(before.run_ns, after.run_ns) / seconds / 1e7,
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
    VmRates {
        seconds,
        tasks: tasks.collect(),
        counted: after.counted.clone().unwrap_or_default(),
    }
}

impl CountRates {
    fn between(before: &Reading, after: &Reading) -> Self {
        let seconds = seconds(before.at, after.at);
        let rate = |after: &Counts, before: &Counts| {
            after.with(before, |after, before| grown(before, after) / seconds)
        };
        let vcpus = after.vcpus.iter().filter_map(|(vcpu, after)| {
            let (_, before) = before.vcpus.iter().find(|(other, _)| other == vcpu)?;
            Some((*vcpu, rate(after, before)))
        });
        let throttling = before.throttling.zip(after.throttling);
        Self {
            seconds,
            kvm: rate(&after.kvm, &before.kvm),
            vcpus: vcpus.collect(),
            throttled_percent: throttling.map(|(before, after)| {
                let periods = grown(before.nr_periods, after.nr_periods);
                100.0 * grown(before.nr_throttled, after.nr_throttled) / periods.max(1.0)
            }),
            throttled_usec: throttling.map(|(before, after)| {
                grown(before.throttled_usec, after.throttled_usec) / seconds
            }),
        }
    }
}

fn seconds(before: Instant, after: Instant) -> f64 {
    after.duration_since(before).as_secs_f64().max(1e-9)
}

/// How much more a counter has; one that began anew has no more.
fn grown(before: u64, after: u64) -> f64 {
    after.saturating_sub(before) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(at: Instant, run_ns: u64, delay_ns: u64, turns: u64) -> Sample {
        let times = Times {
            run_ns,
            delay_ns,
            turns,
        };
        let vm = VmSample {
            at,
            tasks: BTreeMap::from([(7, times)]),
            kvm: Arc::default(),
            vcpus: Vec::new(),
            throttling: None,
            counted: None,
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
        let before = sample(start, 0, 0, 0);
        let end = start + Duration::from_secs(2);
        let after = sample(end, 500_000_000, 100_000_000, 50);
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
        assert_eq!((host.idle_cpus, host.waiting_vcpus), (2.0, 0.05));
        assert_eq!(host.steal_cpus, 0.4);
        // A process that was restarted under the same id has no rates yet.
        let other = Vm { start: 2, ..vm };
        let (_, vms) = rates(&[other], &before, &after, 4);
        assert_eq!(vms[0], VmRates::default());
    }

    /// Whether that was one look or many.
    #[test]
    fn counters_are_told_over_the_time_between_their_readings() {
        let start = Instant::now();
        let reading = |seconds, exits, throttled: u64| Reading {
            at: start + Duration::from_secs(seconds),
            kvm: Arc::new(Counts::from_iter([("exits", exits)])),
            vcpus: vec![(0, Counts::from_iter([("spin_exits", exits)]))],
            throttling: Some(Throttling {
                nr_periods: throttled * 2,
                nr_throttled: throttled,
                throttled_usec: throttled * 1000,
                ..Throttling::default()
            }),
        };
        for (seconds, exits) in [(1, 80.0), (16, 5.0)] {
            let rates = CountRates::between(&reading(3, 20, 5), &reading(3 + seconds, 100, 21));
            assert_eq!(rates.seconds, seconds as f64);
            assert_eq!(rates.kvm.get("exits"), Some(exits));
            assert_eq!(rates.vcpus[0].1.get("spin_exits"), Some(exits));
            assert_eq!(rates.throttled_percent, Some(50.0));
            assert_eq!(rates.throttled_usec, Some(16000.0 / seconds as f64));
        }
    }
}
