//! `vmfirst stat`.

use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{choose, cut, print, prometheus, warn};
use crate::Result;
use crate::model::{Finder, HostRates, Sample, Sampler, Vm, VmRates, rates, shown};
use crate::read::{self, Root};

/// What `vmfirst stat --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst stat                    one second of all VMs
  vmfirst stat --watch=5 web      every five seconds
  vmfirst stat --json | jq '.vms[] | select(.ready_percent > 5)'
  vmfirst stat --prometheus       counters since the start, for a scraper

READY% is the share of the time in which a vCPU could have run and had no CPU: run delay,
what others call CPU ready, and what its guest sees as steal time. Under 5 % is fine; from
5 % on a row has the mark \"!\", from 10 % on \"!!\". WAIT us is how long a vCPU waited for a turn.
HALTS, SPINS and YIELDS are of the whole VM, a second: spins are pause-loop exits (on a stock
kernel only the yields are told: to a vCPU that waited, tried and done), HITS are vCPUs that
a yield let run. THROT% is the share of cpu.max's periods in which the VM ran out of quota.
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
    /// Print JSON, one object an interval
    #[arg(long)]
    json: bool,
    /// Print counters since the start in Prometheus's text format
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
}

impl Options {
    /// Shows.
    pub fn run(self, root: &Root) -> Result<()> {
        let seconds = self.watch.unwrap_or(1);
        let interval = Duration::from_secs(seconds.into());
        let mut watch = Watch::new(root.clone(), self.names, interval)?;
        if self.prometheus {
            return print(&prometheus::text(root, &watch.vms, &watch.before));
        }
        let intervals = match self.watch {
            Some(_) => self.count.unwrap_or(u64::MAX),
            None => 1,
        };
        for _ in 0..intervals {
            sleep(interval);
            let (host, rates) = watch.step();
            print(&match self.json {
                true => format!("{}\n", super::json(&object(&watch.vms, &host, &rates))?),
                false => table(&watch.vms, &host, &rates, watch.cpus),
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
        let mut sampler = Sampler::new(root.clone());
        Ok(Self {
            before: sampler.look(&vms),
            cpus: root.topology().map_or(1, |topology| topology.cpus),
            finder,
            names,
            sampler,
            looks: 0,
            interval,
            vms,
        })
    }

    /// What happened since the last look.
    pub fn step(&mut self) -> (HostRates, Vec<VmRates>) {
        let after = self.sampler.look(&self.vms);
        let found = rates(&self.vms, &self.before, &after, self.cpus);
        self.before = after;
        self.looks += 1;
        if self.interval > HOLD {
            self.sampler.let_go();
        }
        found
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
        self.before = self.sampler.look(&self.vms);
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
    format!(
        "{cpus} CPUs, {:.2} idle; vCPUs waited for {:.2}; pressure {pressure}{note}\n",
        host.idle_cpus, host.waiting_vcpus
    )
}

fn object(vms: &[Vm], host: &HostRates, rates: &[VmRates]) -> serde_json::Value {
    let all = vms.iter().zip(rates).map(|(vm, rates)| {
        let (mean, worst) = ready(vm, rates);
        let vcpus = vm.vcpu_tasks().map(|(number, task)| {
            let mut value = json!(rates.tasks.get(&task.tid));
            value["vcpu"] = json!(number);
            value["tid"] = json!(task.tid);
            value
        });
        json!({
            "name": vm.name, "pid": vm.pid, "vmm": vm.vmm,
            "ready_percent": mean, "ready_percent_worst": worst,
            "vcpus": vcpus.collect::<Vec<_>>(),
            "kvm_per_second": rates.kvm,
            "throttled_percent": rates.throttled_percent,
            "throttled_usec_per_second": rates.throttled_usec,
        })
    });
    json!({ "host": host, "vms": all.collect::<Vec<_>>() })
}

/// A counter of KVM's, a second.
pub fn per_second(rates: &VmRates, names: &[&str]) -> String {
    let found: Vec<f64> = names
        .iter()
        .filter_map(|name| rates.kvm.get(name))
        .collect();
    match found.is_empty() {
        true => "-".into(),
        false => format!("{:.0}", found.iter().sum::<f64>()),
    }
}

/// The counters whose sum is the vCPUs that a yield let run.
pub const HITS: &[&str] = &[
    "yield_hits_answer",
    "yield_hits_ipi",
    "yield_hits_irq",
    "yield_hits_irqs_off",
    "yield_hits_kernel",
    "yield_hits_relaxed",
];

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
        let hits = match per_second(rates, HITS).as_str() {
            "-" => per_second(rates, &["directed_yield_successful"]),
            hits => hits.into(),
        };
        let yields = match per_second(rates, &["yield_attempts"]).as_str() {
            "-" => per_second(rates, &["directed_yield_attempted"]),
            yields => yields.into(),
        };
        text += &format!(
            "{:<20} {:>4} {run:>6.1} {mean:>7.2}{:<2} {:>8} {:>7} {:>7} {yields:>7} {hits:>7} {:>6}\n",
            cut(&shown(&vm.name), 20),
            "all",
            mark(mean),
            "",
            per_second(rates, &["halt_exits"]),
            per_second(rates, &["spin_exits"]),
            rates
                .throttled_percent
                .map_or("-".into(), |p| format!("{p:.1}")),
        );
        for (number, task) in vm.vcpu_tasks() {
            let Some(rates) = rates.tasks.get(&task.tid) else {
                continue;
            };
            text += &format!(
                "{:<20} {number:>4} {:>6.1} {:>7.2}{:<2} {:>8.0}\n",
                "",
                rates.run_percent,
                rates.ready_percent,
                mark(rates.ready_percent),
                rates.wait_us
            );
        }
    }
    text
}
