//! `vmfirst set`.

use clap::{Args, ValueEnum};

use super::{print, select, warn};
use crate::act::{
    Affinity, Cgroup, Class, CpuMax, CpuWeight, Done, Door, Slice, Target, Uclamp, Write,
};
use crate::model::{Role, Task, Vm, shown};
use crate::read::Root;
use crate::{Error, Result};

/// What `vmfirst set --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst set web --vcpu-class rr:2 --vcpu-affinity 0=2,1=3
  vmfirst set web --vcpu-slice 0.5ms           chosen sooner after a wake-up, for shorter
  vmfirst set batch --vcpu-class idle          only what others leave
  vmfirst set web --core-sched vm              no other VM on the same core's threads
  vmfirst set web --cpu-weight 400 --cpu-max 150%
  vmfirst set web db --cgroup-set memory.low=1073741824
  vmfirst set web --vcpu-class fair --vcpu-slice default --dry-run

What is not given stays. Each value is read back. When a part fails, all that was done
before it is undone, for this VM; the exit status is 1, and a line says why. libvirt and
systemd may write a control group's files again later; a thread's class, slice, clamps,
CPUs and cookie are only changed by who sets them.";

/// Who shares a core-scheduling cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CoreSched {
    /// No cookie: as any task
    Off,
    /// A VM's threads share one: only they run on one core together
    Vm,
    /// Each vCPU has its own
    Vcpu,
}

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
        let plans = vms.iter().map(|vm| Ok((vm, self.writes(root, vm)?)));
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
            let done = Door::open(vm.pid, vm.start, whose.clone())?.write(writes)?;
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

    /// In a fixed order: cookie, group, CPUs, class, slice, clamps.
    fn writes(&self, root: &Root, vm: &Vm) -> Result<Vec<Write>> {
        let target = |task: &Task| target(vm, task);
        let vcpus: Vec<Target> = vm.vcpu_tasks().map(|(_, task)| target(task)).collect();
        let io: Vec<Target> = vm.io_tasks().map(target).collect();
        let asks = self.vcpu_class.is_some()
            || self.vcpu_slice.is_some()
            || self.vcpu_uclamp.is_some()
            || self.vcpu_affinity.is_some()
            || self.core_sched.is_some();
        if asks && vcpus.len() < vm.vcpus {
            return Err(Error::Unavailable(format!(
                "VM {}: {} of {} vCPUs' threads are known: run it as root, with debugfs mounted",
                shown(&vm.name),
                vcpus.len(),
                vm.vcpus
            )));
        }
        if (self.io_class.is_some() || self.io_slice.is_some()) && io.is_empty() {
            warn(&format!(
                "VM {} has no thread that only serves devices: its first thread does",
                shown(&vm.name)
            ));
        }
        let mut writes = self
            .core_sched
            .map(|who| cookies(who, &vcpus))
            .unwrap_or_default();
        writes.extend(self.group(root, vm)?);
        if let Some(affinity) = &self.vcpu_affinity {
            affinity.check(vm.vcpus)?;
            for (vcpu, cpus) in affinity.lists() {
                let task = vm
                    .vcpu_tasks()
                    .find(|(number, _)| *number == u32::from(vcpu));
                let (_, task) = task.ok_or_else(|| {
                    Error::Usage(format!("VM {} has no vCPU {vcpu}", shown(&vm.name)))
                })?;
                writes.push(Write::Cpus(target(task), cpus.clone()));
            }
        }
        for (targets, class, slice) in [
            (&vcpus, self.vcpu_class, self.vcpu_slice),
            (&io, self.io_class, self.io_slice),
        ] {
            for target in targets.iter() {
                writes.extend(class.map(|class| Write::Class(target.clone(), class)));
                writes.extend(slice.map(|slice| Write::Slice(target.clone(), slice)));
            }
        }
        if let Some(clamps) = self.vcpu_uclamp {
            writes.extend(
                vcpus
                    .iter()
                    .map(|target| Write::Uclamp(target.clone(), clamps)),
            );
        }
        Ok(writes)
    }

    fn group(&self, root: &Root, vm: &Vm) -> Result<Vec<Write>> {
        let mut files: Vec<(String, String)> = Vec::new();
        files.extend(
            self.cpu_weight
                .map(|weight| ("cpu.weight".into(), weight.to_string())),
        );
        files.extend(self.cpu_max.map(|max| ("cpu.max".into(), max.kernel())));
        for setting in &self.cgroup_set {
            let (file, value) = setting
                .split_once('=')
                .ok_or_else(|| Error::Usage(format!("--cgroup-set {setting}: give FILE=VALUE")))?;
            if file.is_empty() || file.contains('/') || file.starts_with("cgroup.") {
                return Err(Error::Usage(format!(
                    "--cgroup-set {setting}: give a weight or limit such as io.weight=50"
                )));
            }
            files.push((file.into(), value.into()));
        }
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let group = own_group(root, vm)?;
        let writes = files.into_iter();
        Ok(writes
            .map(|(file, value)| Write::Group(group.clone(), file, value))
            .collect())
    }
}

/// A thread of a VM, with the name that messages have of it.
fn target(vm: &Vm, task: &Task) -> Target {
    let part = match task.role {
        Role::Vcpu(number) => format!("vCPU {number}"),
        _ => format!("thread {}", shown(&task.name)),
    };
    Target {
        pid: task.pid,
        tid: task.tid,
        start: task.start,
        label: format!("{part} of VM {}", shown(&vm.name)),
    }
}

/// The VM's control group, if nobody else is in it.
fn own_group(root: &Root, vm: &Vm) -> Result<Cgroup> {
    let name = shown(&vm.name);
    let hierarchy = root
        .hierarchy()
        .map_err(|source| Error::refused("read", "the control groups' mounts", source, ""))?;
    let mount = hierarchy.v2.as_ref().ok_or_else(|| {
        Error::Unavailable(format!(
            "VM {name}: weights and limits need cgroup v2, which isn't mounted; class, slice, \
             clamps, CPUs and cookies work"
        ))
    })?;
    if hierarchy.v1 && !hierarchy.cpu {
        return Err(Error::Unavailable(format!(
            "VM {name}: the CPU controller is on cgroup v1 here, which vmfirst doesn't write: \
             boot with systemd.unified_cgroup_hierarchy=1; class, slice, clamps, CPUs and \
             cookies work"
        )));
    }
    let path = vm
        .cgroup
        .as_deref()
        .filter(|path| *path != "/")
        .ok_or_else(|| {
            Error::Unavailable(format!(
                "VM {name} has no control group of its own: it is in the root"
            ))
        })?;
    let own: Vec<i32> = vm.tasks.iter().map(|task| task.pid).collect();
    let inside = root
        .processes_below(&format!("{mount}{path}"))
        .map_err(|source| Error::refused("list", format!("control group {path}"), source, ""))?;
    let others = inside.iter().filter(|pid| !own.contains(pid)).count();
    if others > 0 {
        return Err(Error::Unavailable(format!(
            "VM {name} shares control group {} with {others} other processes: they would be \
             weighed and limited too; start the VM in a scope or slice of its own",
            shown(path)
        )));
    }
    Ok(Cgroup::at(root.path(&format!("{mount}{path}"))))
}

fn cookies(who: CoreSched, vcpus: &[Target]) -> Vec<Write> {
    let each = |make: fn(Target) -> Write| vcpus.iter().cloned().map(make).collect();
    match (who, vcpus) {
        (CoreSched::Off, _) => each(Write::NoCookie),
        (CoreSched::Vcpu, _) => each(Write::NewCookie),
        (CoreSched::Vm, [first, others @ ..]) => vec![
            Write::NewCookie(first.clone()),
            Write::SameCookie(first.clone(), others.to_vec()),
        ],
        (CoreSched::Vm, []) => Vec::new(),
    }
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
        Write::Group(group, file, value) => {
            format!("{} -> {value}", group.path().join(file).display())
        }
    }
}
