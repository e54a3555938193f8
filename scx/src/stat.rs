//! `scx_vmfirst stat`.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use vmfirst_host::exposition::{Family, written};
use vmfirst_host::model::find;
use vmfirst_host::read::Root;

use crate::counters::{self, Counts, bound_us, quantile_us};
use crate::{Error, print};

/// What `scx_vmfirst stat --help` ends with.
pub const HELP: &str = "\
Examples:
  scx_vmfirst stat                  all since it was loaded
  scx_vmfirst stat --watch=5        every five seconds, what happened in these
  scx_vmfirst stat --json | jq .counters.lent
  scx_vmfirst stat --prometheus     for a scraper

Of spin exits, those by a sender have an IPI that nobody has answered yet. A yield goes to the
receiver of that IPI, else by rank to the vCPU that others most likely wait for, else to KVM's
choice. It is lent when that vCPU ran next in the yielder's place; refused for debt when it
was ahead of others already; gone when it had a CPU by then, or may not run there.
Waits are from a wake-up until the thread ran; a quantile is the end of a power of two.";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// Go on, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=3600))]
    watch: Option<u32>,
    /// End after so many intervals
    #[arg(long, value_name = "NUMBER", requires = "watch")]
    count: Option<u64>,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
    /// Print counters in Prometheus's text format
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
}

impl Options {
    /// Shows.
    pub fn run(&self, root: &Root) -> Result<(), Error> {
        let mut before = Counts::default();
        let mut left = match self.watch {
            Some(_) => self.count.unwrap_or(u64::MAX),
            None => 1,
        };
        if self.watch.is_some() {
            before = read()?;
        }
        while left > 0 {
            left -= 1;
            sleep(Duration::from_secs(self.watch.unwrap_or(0).into()));
            let counts = read()?;
            let shown = counts.since(&before);
            print(&match (self.json, self.prometheus) {
                (true, _) => json(&shown),
                (_, true) => prometheus(&shown, &names(root)),
                _ => table(&shown, &names(root)),
            })?;
            before = counts;
        }
        Ok(())
    }
}

fn read() -> Result<Counts, Error> {
    counters::read()?.ok_or_else(|| {
        Error::Unavailable(
            "nothing is counted: scx_vmfirst does not run, or you are not root; see \
             scx_vmfirst status"
                .into(),
        )
    })
}

impl Counts {
    /// What was counted since then.
    fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (name, count) in &mut since.counters {
            *count = count.saturating_sub(before.counters.get(name).copied().unwrap_or(0));
        }
        for (kind, counts) in &mut since.wakeups {
            let old = before.wakeups.get(kind).into_iter().flatten();
            counts
                .iter_mut()
                .zip(old)
                .for_each(|(count, old)| *count = count.saturating_sub(*old));
        }
        for (pid, vm) in &mut since.vms {
            let old = before.vms.get(pid).copied().unwrap_or_default();
            vm.ran_ns = vm.ran_ns.saturating_sub(old.ran_ns);
            vm.waited_ns = vm.waited_ns.saturating_sub(old.waited_ns);
            vm.turns = vm.turns.saturating_sub(old.turns);
            vm.lent = vm.lent.saturating_sub(old.lent);
        }
        since
    }
}

fn json(counts: &Counts) -> String {
    // Texts and numbers can't fail.
    serde_json::to_string(counts).unwrap_or_default() + "\n"
}

/// The names of the VMs by their processes.
fn names(root: &Root) -> BTreeMap<u32, String> {
    let vms = find(root).vms.into_iter();
    vms.filter_map(|vm| Some((u32::try_from(vm.pid).ok()?, vm.name)))
        .collect()
}

fn table(counts: &Counts, names: &BTreeMap<u32, String>) -> String {
    let n = |name: &str| counts.counters.get(name).copied().unwrap_or_default();
    let ms = |name: &str| n(name) / 1_000_000;
    let mut text = format!(
        "spin exits {}, of senders {}; yields {}: to receivers {}, by rank {}, without KVM's \
         choice {}\nlent {}, refused for debt {}, gone {}\n\
         ran: VMs {} ms, ordinary {} ms, offline {} ms, kernel {} ms; turns by floors: ordinary \
         {}, offline {}; rescued {}\nvCPU migrations {}, taken from another cache {}, wake-ups \
         that took a CPU {}\n",
        n("spin"),
        n("sender"),
        n("yield"),
        n("receiver"),
        n("ranked"),
        n("kick"),
        n("lent"),
        n("debt"),
        n("gone"),
        ms("vm_ns"),
        ms("fair_ns"),
        ms("offline_ns"),
        ms("kernel_ns"),
        n("fair_floor"),
        n("offline_floor"),
        n("rescued"),
        n("migrated"),
        n("stolen"),
        n("preempt"),
    );
    for (kind, waits) in &counts.wakeups {
        if let (Some(half), Some(most)) = (quantile_us(waits, 0.5), quantile_us(waits, 0.99)) {
            let all: u64 = waits.iter().sum();
            text += &format!("waits of {kind}: {all}, half <= {half} us, 99 % <= {most} us\n");
        }
    }
    let all: u64 = counts.vms.values().map(|vm| vm.ran_ns).sum();
    for (pid, vm) in &counts.vms {
        let name = names.get(pid).map_or("-", String::as_str);
        text += &format!(
            "VM {name} (process {pid}): {} vCPUs, ran {} ms ({:.1} % of all VMs), waited {} ms, \
             turns {}, lent {}\n",
            vm.vcpus,
            vm.ran_ns / 1_000_000,
            100.0 * vm.ran_ns as f64 / all.max(1) as f64,
            vm.waited_ns / 1_000_000,
            vm.turns,
            vm.lent,
        );
    }
    text
}

fn prometheus(counts: &Counts, names: &BTreeMap<u32, String>) -> String {
    let mut events = Family::new(
        "scx_vmfirst_events_total",
        "counter",
        "What the scheduler did, by name: see scx_vmfirst stat --help.",
    );
    let mut time = Family::new(
        "scx_vmfirst_run_seconds_total",
        "counter",
        "CPU time by kind of thread.",
    );
    for (name, count) in &counts.counters {
        match name.strip_suffix("_ns") {
            Some(kind) => time.add(&[("kind", kind)], *count as f64 / 1e9),
            None => events.add(&[("event", name)], *count as f64),
        }
    }
    let mut waits = Family::new(
        "scx_vmfirst_wakeups_total",
        "counter",
        "Wake-ups by how long, in us at most, each waited for a CPU; not cumulative.",
    );
    for (kind, buckets) in &counts.wakeups {
        for (at, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let bound = bound_us(at).to_string();
            waits.add(&[("kind", kind), ("below_us", &bound)], *count as f64);
        }
    }
    let mut ran = Family::new(
        "scx_vmfirst_vm_run_seconds_total",
        "counter",
        "CPU time of a VM's vCPUs and I/O threads.",
    );
    let mut waited = Family::new(
        "scx_vmfirst_vm_wait_seconds_total",
        "counter",
        "Time that a VM's vCPUs waited for a CPU.",
    );
    for (pid, vm) in &counts.vms {
        let (pid_text, name) = (pid.to_string(), names.get(pid));
        let labels = [
            ("vm", name.map_or("", String::as_str)),
            ("pid", pid_text.as_str()),
        ];
        ran.add(&labels, vm.ran_ns as f64 / 1e9);
        waited.add(&labels, vm.waited_ns as f64 / 1e9);
    }
    written(&[events, time, waits, ran, waited])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{BUCKETS, VmCounts};

    fn counts(lent: u64, ran_ns: u64) -> Counts {
        let vm = VmCounts {
            ran_ns,
            vcpus: 2,
            ..VmCounts::default()
        };
        let mut waits = vec![0; BUCKETS];
        waits[3] = lent;
        Counts {
            counters: BTreeMap::from([("lent", lent), ("vm_ns", ran_ns)]),
            wakeups: BTreeMap::from([("vcpu", waits)]),
            vms: BTreeMap::from([(7, vm)]),
        }
    }

    #[test]
    fn an_interval_is_what_was_counted_in_it() {
        let since = counts(10, 9_000_000).since(&counts(4, 2_000_000));
        assert_eq!(since, counts(6, 7_000_000));
    }

    #[test]
    fn table_and_prometheus_name_vms_and_waits() {
        let names = BTreeMap::from([(7, "we\"b".to_string())]);
        let text = table(&counts(6, 7_000_000), &names);
        assert!(text.contains("lent 6"), "{text}");
        assert!(text.contains("waits of vcpu: 6, half <= 8 us"), "{text}");
        assert!(
            text.contains("VM we\"b (process 7): 2 vCPUs, ran 7 ms (100.0 %"),
            "{text}"
        );
        let text = prometheus(&counts(6, 7_000_000), &names);
        for line in [
            "scx_vmfirst_events_total{event=\"lent\"} 6\n",
            "scx_vmfirst_run_seconds_total{kind=\"vm\"} 0.007\n",
            "scx_vmfirst_wakeups_total{kind=\"vcpu\",below_us=\"8\"} 6\n",
            "scx_vmfirst_vm_run_seconds_total{vm=\"we\\\"b\",pid=\"7\"} 0.007\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
