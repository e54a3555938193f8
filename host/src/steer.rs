//! What an operator wants of a VM, as writes for the door.

use std::path::Path;

use crate::act::{
    Affinity, Cgroup, Class, CpuMax, CpuWeight, Done, Door, Slice, Target, Uclamp, Write,
};
use crate::model::{Role, Task, Vm, is_machine, shown};
use crate::read::Root;
use crate::{Error, Result};

/// Who shares a core-scheduling cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum CoreSched {
    /// No cookie: as any task
    Off,
    /// A VM's threads share one: only they run on one core together
    Vm,
    /// Each vCPU has its own
    Vcpu,
}

/// What is to be changed; what is not given stays.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Class of the vCPUs.
    pub vcpu_class: Option<Class>,
    /// Class of the threads that serve devices.
    pub io_class: Option<Class>,
    /// Slice of the vCPUs.
    pub vcpu_slice: Option<Slice>,
    /// Slice of the threads that serve devices.
    pub io_slice: Option<Slice>,
    /// Clamps of the vCPUs.
    pub vcpu_uclamp: Option<Uclamp>,
    /// CPUs of some of the vCPUs.
    pub vcpu_affinity: Option<Affinity>,
    /// Who may run beside them on a core.
    pub core_sched: Option<CoreSched>,
    /// The control group that the VM is to be in.
    pub cgroup: Option<Cgroup>,
    /// The group's share.
    pub cpu_weight: Option<CpuWeight>,
    /// The group's limit.
    pub cpu_max: Option<CpuMax>,
    /// Other files of the group, and what is to be in them.
    pub files: Vec<(String, String)>,
}

/// Writes to a VM's threads and group. When a part fails, all before it is undone.
///
/// # Errors
/// [`Error::Gone`] where the VM has ended since it was found.
pub fn steer(vm: &Vm, writes: Vec<Write>) -> Result<Vec<Done>> {
    Door::open(vm.pid, vm.start, format!("VM {}", shown(&vm.name)))?.write(writes)
}

impl Wishes {
    /// The writes, in a fixed order: cookie, group, CPUs, class, slice, clamps.
    ///
    /// # Errors
    /// Where it can be seen that they would fail, or reach somebody else.
    pub fn writes(&self, root: &Root, vm: &Vm) -> Result<Vec<Write>> {
        let vcpus: Vec<Target> = vm.vcpu_tasks().map(|(_, task)| target(vm, task)).collect();
        let io: Vec<Target> = vm.io_tasks().map(|task| target(vm, task)).collect();
        if self.asks_of_vcpus() && vcpus.len() < vm.vcpus {
            return Err(Error::Unavailable(format!(
                "VM {}: {} of {} vCPUs' threads are known: run it as root, with debugfs mounted",
                shown(&vm.name),
                vcpus.len(),
                vm.vcpus
            )));
        }
        let cookies = self.core_sched.map(|who| cookies(who, &vcpus));
        let mut writes = cookies.unwrap_or_default();
        writes.extend(self.group(root, vm)?);
        writes.extend(self.cpus(vm)?);
        for (targets, class, slice) in [
            (&vcpus, self.vcpu_class, self.vcpu_slice),
            (&io, self.io_class, self.io_slice),
        ] {
            for target in targets {
                writes.extend(class.map(|class| Write::Class(target.clone(), class)));
                writes.extend(slice.map(|slice| Write::Slice(target.clone(), slice)));
            }
        }
        let clamps = self.vcpu_uclamp.into_iter();
        writes.extend(clamps.flat_map(|clamps| {
            let each = vcpus.iter().cloned();
            each.map(move |target| Write::Uclamp(target, clamps))
        }));
        Ok(writes)
    }

    fn asks_of_vcpus(&self) -> bool {
        self.vcpu_class.is_some()
            || self.vcpu_slice.is_some()
            || self.vcpu_uclamp.is_some()
            || self.vcpu_affinity.is_some()
            || self.core_sched.is_some()
    }

    fn cpus(&self, vm: &Vm) -> Result<Vec<Write>> {
        let Some(affinity) = &self.vcpu_affinity else {
            return Ok(Vec::new());
        };
        affinity.check(vm.vcpus)?;
        let lists = affinity.lists().map(|(vcpu, cpus)| {
            let mut tasks = vm.vcpu_tasks();
            let task = tasks.find(|(number, _)| *number == u32::from(vcpu));
            let (_, task) = task.ok_or_else(|| {
                Error::Usage(format!("VM {} has no vCPU {vcpu}", shown(&vm.name)))
            })?;
            Ok(Write::Cpus(target(vm, task), cpus.clone()))
        });
        lists.collect()
    }

    fn group(&self, root: &Root, vm: &Vm) -> Result<Vec<Write>> {
        let weight = self
            .cpu_weight
            .map(|w| ("cpu.weight".into(), w.to_string()));
        let max = self.cpu_max.map(|max| ("cpu.max".into(), max.kernel()));
        let files = weight.into_iter().chain(max).chain(self.files.clone());
        let files: Vec<(String, String)> = files.collect();
        let mut writes = Vec::new();
        let group = match &self.cgroup {
            Some(group) => {
                move_possible(vm, group)?;
                let process = process(vm);
                writes.push(Write::Move(process, group.clone()));
                group.clone()
            }
            None if files.is_empty() => return Ok(writes),
            None => found_group(root, vm)?,
        };
        if !files.is_empty() {
            alone(root, vm, group.path())?;
        }
        let files = files.into_iter();
        writes.extend(files.map(|(file, value)| Write::Group(group.clone(), file, value)));
        Ok(writes)
    }
}

fn process(vm: &Vm) -> Target {
    Target {
        pid: vm.pid,
        tid: vm.pid,
        start: vm.start,
        label: format!("VM {}", shown(&vm.name)),
    }
}

/// A scope of systemd's that loses its process ends, and takes the machine's record with it.
fn move_possible(vm: &Vm, group: &Cgroup) -> Result<()> {
    if vm.cgroup.as_deref().is_some_and(is_machine) {
        return Err(Error::Unavailable(format!(
            "VM {} is in a scope of systemd's or libvirt's, which would end without it: give              its domain another <partition>, or systemd another Slice=",
            shown(&vm.name)
        )));
    }
    match group.path().is_dir() {
        true => Ok(()),
        false => Err(Error::Unavailable(format!(
            "there is no control group {}: mkdir it first",
            group.path().display()
        ))),
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

/// The VM's control group.
fn found_group(root: &Root, vm: &Vm) -> Result<Cgroup> {
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
                "VM {name} has no control group of its own: it is in the root; --cgroup gives \
                 it one"
            ))
        })?;
    Ok(Cgroup::at(root.path(&format!("{mount}{path}"))))
}

/// Sees that nobody else is in a VM's group. What the VM's process has started is its own:
/// `vmm` with a uid has a helper.
fn alone(root: &Root, vm: &Vm, group: &Path) -> Result<()> {
    let own: Vec<i32> = vm.tasks.iter().map(|task| task.pid).collect();
    let path = group.display().to_string();
    let inside = root
        .processes_below(group)
        .map_err(|source| Error::refused("list", format!("control group {path}"), source, ""))?;
    let others = inside.iter().filter(|&&pid| {
        let child = root.stat(pid, pid).is_ok_and(|stat| stat.ppid == vm.pid);
        !own.contains(&pid) && !child
    });
    let others = others.count();
    if others > 0 {
        return Err(Error::Unavailable(format!(
            "VM {} shares control group {} with {others} other processes: they would be \
             weighed and limited too; start the VM in a scope or slice of its own",
            shown(&vm.name),
            shown(&path)
        )));
    }
    Ok(())
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
