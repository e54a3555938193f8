//! `vmfirst set`.

use std::path::PathBuf;

use clap::Args;

use super::{print, select, warn};
use crate::act::{Affinity, Cgroup, Class, CpuMax, CpuWeight, Done, Slice, Uclamp, Write};
use crate::model::shown;
use crate::read::Root;
use crate::steer::{CoreSched, Wishes, steer};
use crate::{Error, Result};

/// What `vmfirst set --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst set web --vcpu-class rr:2 --vcpu-affinity 0=2,1=3
  vmfirst set web --vcpu-slice 0.5ms           chosen sooner after a wake-up, for shorter
  vmfirst set batch --vcpu-class idle          only what others leave
  vmfirst set web --core-sched vm              no other VM on the same core's threads
  vmfirst set web --cpu-weight 400 --cpu-max 150%
  mkdir /sys/fs/cgroup/web && vmfirst set web --cgroup web --cpu-max 50%
  vmfirst set web db --cgroup-set memory.low=1073741824
  vmfirst set web --vcpu-class fair --vcpu-slice default --dry-run

What is not given stays. Each value is read back. When a part fails, all that was done
before it is undone, for this VM; the exit status is 1, and a line says why. libvirt and
systemd may write a control group's files again later; a thread's class, slice, clamps,
CPUs and cookie are only changed by who sets them.";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// VMs by name or process id
    #[arg(value_name = "VM", required = true)]
    names: Vec<String>,
    /// Class of the vCPUs: fair, batch, idle, rr:PRIORITY, fifo:PRIORITY; vmf, bt where the kernel has them
    #[arg(long, value_name = "CLASS")]
    vcpu_class: Option<Class>,
    /// Class of the threads that serve devices
    #[arg(long, value_name = "CLASS")]
    io_class: Option<Class>,
    /// Slice of the vCPUs: default, or 100us to 100ms (Linux 6.12, fair classes)
    #[arg(long, value_name = "SLICE")]
    vcpu_slice: Option<Slice>,
    /// Slice of the threads that serve devices
    #[arg(long, value_name = "SLICE")]
    io_slice: Option<Slice>,
    /// Utilisation clamps of the vCPUs: default, or MIN:MAX of 0 to 1024
    #[arg(long, value_name = "MIN:MAX")]
    vcpu_uclamp: Option<Uclamp>,
    /// CPUs of some of the vCPUs, as 0=0-3,1=4
    #[arg(long, value_name = "VCPU=CPUS,...")]
    vcpu_affinity: Option<Affinity>,
    /// Who may run on one core's hardware threads together
    #[arg(long, value_name = "WHO")]
    core_sched: Option<CoreSched>,
    /// Move the VM to this control group, below cgroup v2's mount point; it must be there
    #[arg(long, value_name = "GROUP")]
    cgroup: Option<PathBuf>,
    /// cpu.weight of the VM's control group, 1 to 10000
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<CpuWeight>,
    /// cpu.max of the VM's control group: max, or 150% for one and a half CPUs
    #[arg(long, value_name = "LIMIT")]
    cpu_max: Option<CpuMax>,
    /// Another file of the VM's control group
    #[arg(long, value_name = "FILE=VALUE")]
    cgroup_set: Vec<String>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Options {
    /// Changes each of the VMs.
    pub fn run(self, root: &Root) -> Result<()> {
        let vms = select(root, &self.names)?;
        let wishes = self.wishes()?;
        if self.io_class.is_some() || self.io_slice.is_some() {
            for vm in vms.iter().filter(|vm| vm.io_tasks().next().is_none()) {
                warn(&format!(
                    "VM {} has no thread that only serves devices: its first thread does",
                    shown(&vm.name)
                ));
            }
        }
        let plans = vms.iter().map(|vm| Ok((vm, wishes.writes(root, vm)?)));
        let plans = plans.collect::<Result<Vec<_>>>()?;
        if plans.iter().all(|(_, writes)| writes.is_empty()) {
            return Err(Error::Usage(
                "nothing to set: see vmfirst set --help".into(),
            ));
        }
        for (vm, writes) in plans {
            let whose = format!("VM {}", shown(&vm.name));
            if self.dry_run {
                let lines = writes
                    .iter()
                    .map(|write| format!("{whose}: {}\n", planned(write)));
                print(&lines.collect::<String>())?;
                continue;
            }
            let done = steer(vm, writes)?;
            let lines = done.iter().map(
                |Done {
                     what,
                     before,
                     after,
                 }| { format!("{what}: {before} -> {after}\n") },
            );
            print(&lines.collect::<String>())?;
        }
        Ok(())
    }

    fn wishes(&self) -> Result<Wishes> {
        Ok(Wishes {
            vcpu_class: self.vcpu_class,
            io_class: self.io_class,
            vcpu_slice: self.vcpu_slice,
            io_slice: self.io_slice,
            vcpu_uclamp: self.vcpu_uclamp,
            vcpu_affinity: self.vcpu_affinity.clone(),
            core_sched: self.core_sched,
            cgroup: self.cgroup.as_deref().map(Cgroup::named).transpose()?,
            cpu_weight: self.cpu_weight,
            cpu_max: self.cpu_max,
            files: self
                .cgroup_set
                .iter()
                .map(|s| file(s))
                .collect::<Result<_>>()?,
        })
    }
}

/// A setting "FILE=VALUE".
fn file(setting: &str) -> Result<(String, String)> {
    let (file, value) = setting
        .split_once('=')
        .ok_or_else(|| Error::Usage(format!("--cgroup-set {setting}: give FILE=VALUE")))?;
    if file.is_empty() || file.contains('/') || file.starts_with("cgroup.") {
        return Err(Error::Usage(format!(
            "--cgroup-set {setting}: give a weight or limit such as io.weight=50"
        )));
    }
    Ok((file.into(), value.into()))
}

fn planned(write: &Write) -> String {
    match write {
        Write::Class(target, class) => format!("class of {} -> {class}", target.label),
        Write::Slice(target, slice) => format!("slice of {} -> {slice}", target.label),
        Write::Uclamp(target, clamps) => format!("clamps of {} -> {clamps}", target.label),
        Write::Cpus(target, cpus) => format!("CPUs of {} -> {cpus}", target.label),
        Write::NewCookie(target) => format!("cookie of {} -> a new one", target.label),
        Write::SameCookie(first, others) => {
            format!(
                "cookie of {} others -> that of {}",
                others.len(),
                first.label
            )
        }
        Write::NoCookie(target) => format!("cookie of {} -> none", target.label),
        Write::Move(process, group) => {
            format!(
                "control group of {} -> {}",
                process.label,
                group.path().display()
            )
        }
        Write::Group(group, file, value) => {
            format!("{} -> {value}", group.path().join(file).display())
        }
    }
}
