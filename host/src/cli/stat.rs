//! `vmfirst stat`.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{choose, cut, print, prometheus, select, warn};
use crate::Result;
use crate::model::{
    BOUNDS_US, Finder, Histogram, HostRates, Sample, Sampler, Vm, VmRates, rates, shown,
};
use crate::read::{self, Counted, HITS, Root};

/// What `vmfirst stat --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst stat                    one second of all VMs
  vmfirst stat --watch=5 web      every five seconds
  vmfirst stat --json | jq '.vms[] | select(.ready_percent > 5)'
  vmfirst stat --watch --histogram web    how long its vCPUs wait for their turns
  vmfirst stat --prometheus       counters since the start, for a scraper

READY% is the share of the time in which a vCPU could have run and had no CPU: run delay,
what others call CPU ready, and what its guest sees as steal time. Under 5 % is fine; from
5 % on a row has the mark \"!\", from 10 % on \"!!\". WAIT us is how long a vCPU waited for a turn.
HALTS, SPINS, YIELDS and HITS are a second: spins are pause-loop exits (a stock kernel tells only
the yields: to a vCPU that waited, tried and done), HITS are vCPUs that a yield let run, with
vmfirst's kernel series also by why they were chosen. They are told of the VM by KVM's debugfs
(root, no lockdown), and of each vCPU where its VMM keeps KVM's statistics files open: vmm, and
QEMU from 8.1 on. THROT% is the share of cpu.max's periods in which the VM or a vCPU of it ran out
of quota. Where these are of more than 256 files (with a stock kernel, beyond 64 VMs, or 51 with
limits), VMs take turns: each keeps what was told of it until its next one, and JSON has over how
long that was counted. \"-\" is what this kernel does not tell. The guest sees READY% as steal time.
--histogram counts turns by how long they were waited for: the kernel tells sums, so all turns of
a vCPU in an interval count with their mean; short intervals show more.
The first line has the CPUs' idle time beside the time that vCPUs waited: both at once is a
matter of placement, not of too few CPUs.";

/// From here on a vCPU waits more than is fine, and much more, in per cent.
const MARKS: [(f64, &str); 2] = [(10.0, "!!"), (5.0, "!")];

/// How often threads and VMs are looked for, in intervals.
const FIND_EVERY: u64 = 10;

/// The longest interval over which files stay open.
const HOLD: Duration = Duration::from_secs(10);

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// VMs by name or process id [default: all]
    #[arg(value_name = "VM")]
    names: Vec<String>,
    /// Go on, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,
    /// End after so many intervals
    #[arg(long, value_name = "NUMBER", requires = "watch")]
    count: Option<u64>,
    /// Show how long vCPUs waited for their turns instead: shares by powers of four
    #[arg(long)]
    histogram: bool,
    /// Print JSON, one object an interval; with --histogram that, too
    #[arg(long)]
    json: bool,
    /// Print counters since the start in Prometheus's text format
    #[arg(long, conflicts_with_all = ["json", "watch", "histogram"])]
    prometheus: bool,
}

impl Options {
    /// Shows.
    pub fn run(self, root: &Root) -> Result<()> {
        let seconds = self.watch.unwrap_or(1);
        let interval = Duration::from_secs(seconds.into());
        if self.prometheus {
            let vms = select(root, &self.names)?;
            read::allow_many_files();
            let sample = Sampler::new(root.clone()).look(&vms);
            return print(&prometheus::text(root, &vms, &sample));
        }
        let mut watch = Watch::new(root.clone(), self.names, interval)?;
        let intervals = match self.watch {
            Some(_) => self.count.unwrap_or(u64::MAX),
            None => 1,
        };
        for _ in 0..intervals {
            sleep(interval);
            let (host, rates) = watch.step();
            print(&match (self.json, self.histogram) {
                (true, _) => {
                    let object = object(&watch, &host, &rates, self.histogram);
                    format!("{}\n", super::json(&object)?)
                }
                (false, true) => histograms(&watch),
                (false, false) => watch.table(&host, &rates),
            })?;
            watch.refresh();
        }
        Ok(())
    }
}

/// VMs that are looked at again and again; new ones are found now and then.
pub struct Watch {
    names: Vec<String>,
    finder: Finder,
    sampler: Sampler,
    before: Sample,
    looks: u64,
    interval: Duration,
    /// How long each vCPU's thread waited for its turns, by id and start.
    waits: BTreeMap<(i32, u64), Histogram>,
    /// The VMs.
    pub vms: Vec<Vm>,
    /// How many CPUs are online.
    pub cpus: usize,
}

impl Watch {
    /// Takes the first look.
    pub fn new(root: Root, names: Vec<String>, interval: Duration) -> Result<Self> {
        let (finder, notes) = Finder::new(root.clone());
        notes.iter().for_each(|note| warn(note));
        let vms = choose(finder.vms().to_vec(), &names)?;
        read::allow_many_files();
        let mut sampler = Sampler::of_vcpus(root.clone());
        Ok(Self {
            before: sampler.look(&vms),
            cpus: root.topology().map_or(1, |topology| topology.cpus),
            finder,
            names,
            sampler,
            looks: 0,
            interval,
            waits: BTreeMap::new(),
            vms,
        })
    }

    /// What happened since the last look.
    pub fn step(&mut self) -> (HostRates, Vec<VmRates>) {
        let after = self.sampler.look(&self.vms);
        let found = rates(&self.vms, &self.before, &after, self.cpus);
        self.before = after;
        self.looks += 1;
        self.count_waits(&found.1);
        if self.interval > HOLD {
            self.sampler.let_go();
        }
        found
    }

    /// What an interval's rates are as a table.
    pub fn table(&self, host: &HostRates, rates: &[VmRates]) -> String {
        table(&self.vms, host, rates, self.cpus)
    }

    fn count_waits(&mut self, rates: &[VmRates]) {
        for (vm, rates) in self.vms.iter().zip(rates) {
            for (_, task) in vm.vcpu_tasks() {
                if let Some(times) = rates.tasks.get(&task.tid) {
                    let turns = (times.turns * rates.seconds).round() as u64;
                    let waits = self.waits.entry((task.tid, task.start)).or_default();
                    waits.add(times.wait_us, turns);
                }
            }
        }
    }

    /// How long all of a VM's vCPUs waited for their turns since the first look.
    fn waits(&self, vm: &Vm) -> Histogram {
        let mut sum = Histogram::default();
        for (_, task) in vm.vcpu_tasks() {
            if let Some(waits) = self.waits.get(&(task.tid, task.start)) {
                sum.merge(waits);
            }
        }
        sum
    }

    /// Looks for VMs that are new or have ended: before the next interval begins.
    pub fn refresh(&mut self) {
        if !self.looks.is_multiple_of(FIND_EVERY) {
            return;
        }
        let changed = self.finder.again();
        self.sampler.changed(changed);
        // One that was named and has ended is left out.
        let named =
            |vm: &&Vm| self.names.contains(&vm.name) || self.names.contains(&vm.pid.to_string());
        let all = self.finder.vms().iter();
        self.vms = all
            .filter(|vm| self.names.is_empty() || named(vm))
            .cloned()
            .collect();
        let tasks = self.vms.iter().flat_map(Vm::vcpu_tasks);
        let there: BTreeSet<_> = tasks.map(|(_, task)| (task.tid, task.start)).collect();
        self.waits.retain(|key, _| there.contains(key));
        // What is new has rates from the next interval but one on.
    }
}

/// The mean of a VM's vCPUs, and the worst.
pub fn ready(vm: &Vm, rates: &VmRates) -> (f64, f64) {
    let each = vm
        .vcpu_tasks()
        .filter_map(|(_, task)| Some(rates.tasks.get(&task.tid)?.ready_percent));
    let (mut sum, mut worst, mut count) = (0.0, 0.0f64, 0.0);
    for ready in each {
        (sum, worst, count) = (sum + ready, worst.max(ready), count + 1.0);
    }
    (sum / f64::max(count, 1.0), worst)
}

/// How a share of ready time is marked.
pub fn mark(percent: f64) -> &'static str {
    let reached = MARKS.iter().find(|(from, _)| percent >= *from);
    reached.map_or("", |(_, mark)| mark)
}

/// The first line of table and screen.
pub fn headline(host: &HostRates, cpus: usize) -> String {
    let pressure = host
        .pressure_percent
        .map_or("-".into(), |p| format!("{p:.1} %"));
    let both = host.idle_cpus.min(host.waiting_vcpus);
    let note = match both >= 0.05 * cpus as f64 {
        true => "; CPUs idle beside waiting vCPUs: see CPUS in vmfirst list",
        false => "",
    };
    // A host that is a VM itself has less than it seems.
    let steal = match host.steal_cpus >= 0.01 {
        true => format!(", {:.2} stolen", host.steal_cpus),
        false => String::new(),
    };
    format!(
        "{cpus} CPUs, {:.2} idle{steal}; vCPUs waited for {:.2}; pressure {pressure}{note}\n",
        host.idle_cpus, host.waiting_vcpus
    )
}

fn object(
    watch: &Watch,
    host: &HostRates,
    rates: &[VmRates],
    histogram: bool,
) -> serde_json::Value {
    let all = watch.vms.iter().zip(rates).map(|(vm, rates)| {
        let (mean, worst) = ready(vm, rates);
        let vcpus = vm.vcpu_tasks().map(|(number, task)| {
            let mut value = json!(rates.tasks.get(&task.tid));
            value["vcpu"] = json!(number);
            value["tid"] = json!(task.tid);
            if let Some(kvm) = of_vcpu(rates, number) {
                value["kvm_per_second"] = json!(kvm);
            }
            if histogram {
                value["wait_turns"] = json!(watch.waits.get(&(task.tid, task.start)));
            }
            value
        });
        let mut value = json!({
            "name": vm.name, "pid": vm.pid, "vmm": vm.vmm,
            "ready_percent": mean, "ready_percent_worst": worst,
            "vcpus": vcpus.collect::<Vec<_>>(),
            "kvm_per_second": rates.counted.kvm,
            "counted_seconds": rates.counted.seconds,
            "throttled_percent": rates.counted.throttled_percent,
            "throttled_usec_per_second": rates.counted.throttled_usec,
        });
        if histogram {
            value["wait_turns"] = json!(watch.waits(vm));
        }
        value
    });
    let mut value = json!({ "host": host, "vms": all.collect::<Vec<_>>() });
    if histogram {
        value["wait_turns_below_us"] = json!(BOUNDS_US);
    }
    value
}

/// The sum of some of KVM's counters; none where the kernel has none of them.
pub fn sum(kvm: &Counted<f64>, names: &[&str]) -> Option<f64> {
    let found = names.iter().filter_map(|name| kvm.get(name));
    found.reduce(|a, b| a + b)
}

/// The same as it is printed.
pub fn per_second(kvm: &Counted<f64>, names: &[&str]) -> String {
    sum(kvm, names).map_or("-".into(), |sum| format!("{sum:.0}"))
}

/// What KVM counts of yields to vCPUs that wait, on a stock kernel.
pub const YIELDS: &[&str] = &["directed_yield_attempted"];

/// How often a spinning vCPU's CPU was offered to another.
pub fn yields(kvm: &Counted<f64>) -> String {
    match per_second(kvm, &["yield_attempts"]).as_str() {
        "-" => per_second(kvm, YIELDS),
        yields => yields.into(),
    }
}

/// How often a yield let one run.
fn hits(kvm: &Counted<f64>) -> String {
    let hits = kvm.iter().filter(|(name, _)| name.starts_with(HITS));
    let sum = hits.map(|(_, hits)| hits).reduce(|a, b| a + b);
    sum.map_or_else(
        || per_second(kvm, &["directed_yield_successful"]),
        |sum| format!("{sum:.0}"),
    )
}

/// Whom yields let run: why the kernel chose them.
fn whom(kvm: &Counted<f64>) -> Option<String> {
    let hits = kvm.iter().filter_map(|(name, hits)| {
        let reason = name.strip_prefix(HITS)?;
        (hits > 0.0).then(|| format!("{reason} {hits:.0}"))
    });
    let hits: Vec<_> = hits.collect();
    (!hits.is_empty()).then(|| format!("     hits a second by reason: {}\n", hits.join(", ")))
}

/// KVM's counters of a single vCPU, where they are told.
fn of_vcpu(rates: &VmRates, number: u32) -> Option<&Counted<f64>> {
    let mut vcpus = rates.counted.vcpus.iter();
    let (_, kvm) = vcpus.find(|(vcpu, _)| *vcpu == number)?;
    (!kvm.is_empty()).then_some(kvm)
}

/// What [`counters`] makes of none.
const NO_COUNTERS: &str = "      -       -       -       -";

fn counters(kvm: &Counted<f64>) -> String {
    format!(
        "{:>7} {:>7} {:>7} {:>7}",
        per_second(kvm, &["halt_exits"]),
        per_second(kvm, &["spin_exits"]),
        yields(kvm),
        hits(kvm)
    )
}

/// The shares of turns by how long was waited for them, 80 columns wide.
fn histograms(watch: &Watch) -> String {
    let mut text =
        "% of turns by the wait for them since the start; an interval's by their mean:\n"
            .to_string();
    let bounds = [
        "<1us", "<4us", "<16us", "<64us", "<256us", "<1ms", "<4ms", "<16ms", "<65ms", "<.26s",
        "more",
    ];
    let head: String = bounds.iter().map(|bound| format!("{bound:>6}")).collect();
    text += &format!("{:<10}{:>4}{head}\n", "NAME", "VCPU");
    let mut row = |name: &str, vcpu: &str, histogram: &Histogram| {
        let Some(percent) = histogram.percent() else {
            return;
        };
        let cells: String = percent.iter().map(|p| format!("{p:>6.1}")).collect();
        text += &format!("{:<10}{vcpu:>4}{cells}\n", cut(name, 9));
    };
    for vm in &watch.vms {
        row(&shown(&vm.name), "all", &watch.waits(vm));
        for (number, task) in vm.vcpu_tasks() {
            if let Some(histogram) = watch.waits.get(&(task.tid, task.start)) {
                row("", &number.to_string(), histogram);
            }
        }
    }
    text
}

fn table(vms: &[Vm], host: &HostRates, rates: &[VmRates], cpus: usize) -> String {
    let mut text = headline(host, cpus);
    text += &format!(
        "{:<20} {:>4} {:>6} {:>7}   {:>8} {:>7} {:>7} {:>7} {:>7} {:>6}\n",
        "NAME", "VCPU", "RUN%", "READY%", "WAIT us", "HALTS", "SPINS", "YIELDS", "HITS", "THROT%"
    );
    for (vm, rates) in vms.iter().zip(rates) {
        let (mean, _) = ready(vm, rates);
        let run: f64 = vm
            .vcpu_tasks()
            .filter_map(|(_, t)| Some(rates.tasks.get(&t.tid)?.run_percent))
            .sum();
        let throttled = rates.counted.throttled_percent;
        text += &format!(
            "{:<20} {:>4} {run:>6.1} {mean:>7.2}{:<2} {:>8} {} {:>6}\n",
            cut(&shown(&vm.name), 20),
            "all",
            mark(mean),
            "",
            counters(&rates.counted.kvm),
            throttled.map_or("-".into(), |p| format!("{p:.1}")),
        );
        text += &whom(&rates.counted.kvm).unwrap_or_default();
        for (number, task) in vm.vcpu_tasks() {
            let Some(times) = rates.tasks.get(&task.tid) else {
                continue;
            };
            text += &format!(
                "{:<20} {number:>4} {:>6.1} {:>7.2}{:<2} {:>8.0} {}\n",
                "",
                times.run_percent,
                times.ready_percent,
                mark(times.ready_percent),
                times.wait_us,
                of_vcpu(rates, number).map_or(NO_COUNTERS.into(), counters),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CountRates, Role, Task, TaskRates, Vmm};

    fn web() -> (Vm, VmRates) {
        let task = |number: i32| Task {
            pid: 7,
            tid: 8 + number,
            name: format!("vcpu{number}"),
            role: Role::Vcpu(number.unsigned_abs()),
            start: 1,
        };
        let vm = Vm {
            name: "web".into(),
            vmm: Vmm::Vmm,
            pid: 7,
            start: 1,
            cgroup: None,
            pod: None,
            vcpus: 2,
            tasks: vec![task(0), task(1)],
            kvm: None,
        };
        let times = TaskRates {
            wait_us: 100.0,
            turns: 10.0,
            ..TaskRates::default()
        };
        let of = |spins| Counted::from_iter([("spin_exits", spins), ("yield_hits_ipi", 2.0)]);
        let rates = VmRates {
            seconds: 2.0,
            tasks: [(8, times), (9, times)].into(),
            counted: std::sync::Arc::new(CountRates {
                kvm: of(50.0),
                vcpus: vec![(0, of(40.0)), (1, of(10.0))],
                ..CountRates::default()
            }),
        };
        (vm, rates)
    }

    #[test]
    fn no_counters_are_as_wide_as_some() {
        assert_eq!(counters(&Counted::default()), NO_COUNTERS);
    }

    /// NAME VCPU RUN% READY% WAIT HALTS SPINS YIELDS HITS THROT%
    #[test]
    fn spins_are_told_of_each_vcpu_and_whom_yields_hit() {
        let (vm, rates) = web();
        let text = table(&[vm], &HostRates::default(), &[rates], 4);
        let words = |line: &str| {
            let words = line.split_whitespace().map(str::to_string);
            words.collect::<Vec<_>>()
        };
        let lines: Vec<_> = text.lines().map(words).collect();
        assert_eq!(
            lines[2],
            ["web", "all", "0.0", "0.00", "-", "50", "-", "2", "-"]
        );
        assert_eq!(lines[3].join(" "), "hits a second by reason: ipi 2");
        assert_eq!(lines[4], ["0", "0.0", "0.00", "100", "-", "40", "-", "2"]);
        assert_eq!(lines[5][5], "10");
    }

    #[test]
    fn waits_add_up_over_intervals_in_80_columns() {
        let empty = tempfile::tempdir().unwrap();
        let root = Root::at(empty.path());
        let mut watch = Watch::new(root, Vec::new(), Duration::from_secs(2)).unwrap();
        let (vm, rates) = web();
        watch.vms = vec![vm];
        assert_eq!(histograms(&watch).lines().count(), 2);
        watch.count_waits(std::slice::from_ref(&rates));
        watch.count_waits(&[rates]);
        // Two intervals of 2 s with 10 turns a second.
        let mut expected = Histogram::default();
        expected.add(100.0, 40);
        assert_eq!(watch.waits[&(8, 1)], expected);
        let text = histograms(&watch);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let row = text.lines().nth(2).unwrap();
        assert!(row.starts_with("web") && row.contains("100.0"), "{text}");
    }

    #[test]
    fn idle_cpus_beside_waiting_vcpus_and_stolen_time_are_said() {
        let host = |idle_cpus, waiting_vcpus, steal_cpus| HostRates {
            idle_cpus,
            waiting_vcpus,
            steal_cpus,
            pressure_percent: None,
        };
        assert!(headline(&host(1.0, 1.0, 0.0), 4).contains("idle beside waiting"));
        assert!(!headline(&host(1.0, 0.0, 0.0), 4).contains("beside"));
        assert!(headline(&host(0.0, 1.0, 0.25), 4).contains("0.25 stolen"));
    }
}
