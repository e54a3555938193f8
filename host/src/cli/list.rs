//! `vmfirst list`.

use clap::Args;
use serde_json::json;

use super::{cut, print, select};
use crate::Result;
use crate::act::{Class, CpuList, Slice, Uclamp, cookie};
use crate::model::{Task, Vm, shown};
use crate::read::Root;

/// What `vmfirst list --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst list
  vmfirst list --threads web
  vmfirst list --json | jq -r '.[] | select(.vmm == \"libvirt\") | .name'

CLASS and CPUS are the vCPUs'; \"mixed\" where they differ. VMM is what runs it; a VM of
libvirt, systemd or a pod has the name that the host gave it, others the one in their
arguments (-name guest=, --id, --name).";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// VMs by name or process id [default: all]
    #[arg(value_name = "VM")]
    names: Vec<String>,
    /// Show each thread: what it does, class, slice, clamps, CPUs, cookie
    #[arg(long)]
    threads: bool,
    /// Print all that is known as JSON
    #[arg(long, conflicts_with = "threads")]
    json: bool,
}

impl Options {
    /// Lists.
    pub fn run(self, root: &Root) -> Result<()> {
        let vms = select(root, &self.names)?;
        if self.json {
            let all: Vec<_> = vms.iter().map(whole).collect();
            return print(&format!("{}\n", super::json(&all)?));
        }
        print(&match self.threads {
            true => threads(&vms),
            false => table(&vms),
        })
    }
}

/// A VM with how its threads run.
fn whole(vm: &Vm) -> serde_json::Value {
    let mut value = json!(vm);
    let tasks = vm.tasks.iter().map(|task| {
        let how = How::of(task);
        let mut value = json!(task);
        value["class"] = json!(how.class);
        value["cpus"] = json!(how.cpus);
        value["slice_us"] = json!(how.slice_us);
        value["uclamp"] = json!(how.uclamp);
        value["core_cookie"] = json!(how.cookie.map(|cookie| format!("{cookie:#x}")));
        value
    });
    value["tasks"] = tasks.collect();
    value
}

/// How a thread runs; what the kernel doesn't tell is absent.
struct How {
    class: Option<String>,
    cpus: Option<String>,
    slice_us: Option<f64>,
    uclamp: Option<String>,
    cookie: Option<u64>,
}

impl How {
    fn of(task: &Task) -> Self {
        let slice = Slice::of(task.tid).ok().flatten();
        Self {
            class: Class::of(task.tid).ok(),
            cpus: CpuList::of(task.tid).ok().map(|cpus| cpus.to_string()),
            slice_us: slice.map(|slice| slice.as_nanos() as f64 / 1000.0),
            uclamp: Uclamp::of(task.tid).ok().map(|clamps| clamps.to_string()),
            cookie: cookie::of(task.tid).ok(),
        }
    }
}

fn table(vms: &[Vm]) -> String {
    let mut text = format!(
        "{:<24} {:<16} {:>8} {:>5} {:<8} {:<10} CGROUP\n",
        "NAME", "VMM", "PID", "VCPUS", "CLASS", "CPUS"
    );
    for vm in vms {
        let how: Vec<How> = vm.vcpu_tasks().map(|(_, task)| How::of(task)).collect();
        let one = |get: fn(&How) -> Option<&str>| {
            let mut values: Vec<_> = how.iter().map(|how| get(how).unwrap_or("-")).collect();
            values.dedup();
            match values[..] {
                [] => "-".to_string(),
                [value] => value.to_string(),
                _ => "mixed".into(),
            }
        };
        text += &format!(
            "{:<24} {:<16} {:>8} {:>5} {:<8} {:<10} {}\n",
            cut(&shown(&vm.name), 24),
            vm.vmm.name(),
            vm.pid,
            vm.vcpus,
            one(|how| how.class.as_deref()),
            cut(&one(|how| how.cpus.as_deref()), 10),
            shown(vm.cgroup.as_deref().unwrap_or("-"))
        );
    }
    text
}

fn threads(vms: &[Vm]) -> String {
    let mut text = format!(
        "{:<16} {:>8} {:<16} {:<8} {:<8} {:>9} {:<9} {:<10} COOKIE\n",
        "VM", "TID", "NAME", "ROLE", "CLASS", "SLICE us", "UCLAMP", "CPUS"
    );
    for (vm, task) in vms
        .iter()
        .flat_map(|vm| vm.tasks.iter().map(move |task| (vm, task)))
    {
        let how = How::of(task);
        let role = match task.role {
            crate::model::Role::Vcpu(number) => format!("vcpu {number}"),
            role => format!("{role:?}").to_lowercase(),
        };
        text += &format!(
            "{:<16} {:>8} {:<16} {role:<8} {:<8} {:>9} {:<9} {:<10} {}\n",
            cut(&shown(&vm.name), 16),
            task.tid,
            cut(&shown(&task.name), 16),
            how.class.unwrap_or("-".into()),
            how.slice_us.map_or("-".into(), |us| us.to_string()),
            how.uclamp.unwrap_or("-".into()),
            cut(&how.cpus.unwrap_or("-".into()), 10),
            how.cookie
                .map_or("-".into(), |cookie| format!("{cookie:#x}"))
        );
    }
    text
}
