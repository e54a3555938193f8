//! Where the VMs' threads are: control groups and CPUs.

use std::fs;
use std::path::{Path, PathBuf};

use dense_record::chosen::{Layout, Pinning, ThirdParty as Wanted};
use dense_record::spec::CellSpec;
use dense_record::{Error, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::changes::Changes;
use crate::third::ThirdParty;
use crate::threads::{Thread, threads_of};

/// Where cgroup v2 is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The group of all our groups.
const OURS: &str = "dense-bench";

/// Puts the threads of running VMs where the cell wants them, and starts the third
/// party beside them. What is made for that goes with `changes`, which must outlive all.
pub fn place(spec: &CellSpec, pids: &[u32], changes: &mut Changes) -> Result<Option<ThirdParty>> {
    let ours = Path::new(CGROUPS).join(OURS);
    let grouped = spec.chosen.cgroups != Layout::Flat;
    if grouped {
        prepare(Path::new(CGROUPS), changes)?;
    }
    for (vm, &pid) in pids.iter().enumerate() {
        let pinned = spec.chosen.pinning == Pinning::OneToOne;
        let threads = match grouped || pinned {
            true => threads(pid, spec.chosen.vcpus)?,
            false => continue,
        };
        if grouped {
            let group = ours.join(format!("vm{vm}"));
            group_vm(&group, spec.chosen.cgroups, pid, &threads, changes)?;
        }
        if pinned {
            pin(&threads)?;
        }
    }
    if spec.chosen.third_party == Wanted::None {
        return Ok(None);
    }
    let third = ThirdParty::start()?;
    if grouped {
        let group = ours.join("third");
        changes.make_folder(&group)?;
        write(&group.join("cgroup.procs"), &third.pid().to_string())?;
    }
    Ok(Some(third))
}

/// The threads of a VMM: all its vCPUs' must be among them.
fn threads(pid: u32, vcpus: u32) -> Result<Vec<Thread>> {
    let threads = threads_of(pid)?;
    let has = |n: u32| threads.iter().any(|t| t.vcpu == Some(n));
    match (0..vcpus).find(|n| !has(*n)) {
        Some(n) => Err(Error::Invalid(format!(
            "the VMM (process {pid}) has no thread called vcpu{n}: it can't be placed"
        ))),
        None => Ok(threads),
    }
}

/// Makes our group, and lets the CPU controller work below it.
fn prepare(root: &Path, changes: &mut Changes) -> Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_whitespace().any(|c| c == "cpu") {
        return Err(Error::Invalid(format!(
            "{} is no cgroup v2 with the cpu controller: layouts vm and vcpu need it \
             (boot with systemd.unified_cgroup_hierarchy=1); flat works",
            root.display()
        )));
    }
    let enabled = root.join("cgroup.subtree_control");
    let before = fs::read_to_string(&enabled).map_err(Error::io("read", &enabled))?;
    if !before.split_whitespace().any(|c| c == "cpu") {
        changes.write(&enabled, "+cpu", "-cpu")?;
    }
    let ours = root.join(OURS);
    changes.make_folder(&ours)?;
    write(&ours.join("cgroup.subtree_control"), "+cpu")
}

/// Moves a VM into a group of its own, and its threads into groups there. The CPU
/// controller may be enabled beside a process only where groups are threaded.
fn group_vm(
    group: &Path,
    layout: Layout,
    pid: u32,
    threads: &[Thread],
    changes: &mut Changes,
) -> Result<()> {
    changes.make_folder(group)?;
    write(&group.join("cgroup.procs"), &pid.to_string())?;
    check_group(pid, group)?;
    if layout == Layout::Vm {
        return Ok(());
    }
    let folder = |thread: &Thread| match thread.vcpu {
        Some(n) => group.join(format!("vcpu{n}")),
        None => group.join("helpers"),
    };
    for thread in threads {
        let folder = folder(thread);
        if !folder.exists() {
            changes.make_folder(&folder)?;
            write(&folder.join("cgroup.type"), "threaded")?;
        }
    }
    write(&group.join("cgroup.subtree_control"), "+cpu")?;
    for thread in threads {
        let folder = folder(thread);
        write(&folder.join("cgroup.threads"), &thread.tid.to_string())?;
        check_group(thread.tid, &folder)?;
    }
    Ok(())
}

/// Sees that a thread is where it was put.
fn check_group(tid: u32, group: &Path) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{tid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let found = text.lines().find_map(|line| line.strip_prefix("0::"));
    if found.is_some_and(|f| Path::new(CGROUPS).join(f.trim_start_matches('/')) == group) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "thread {tid} was moved to {} and is in {}",
        group.display(),
        found.unwrap_or("no cgroup v2")
    )))
}

/// vCPUs that may run anywhere, held where the seed has them begin: as many on each CPU,
/// whose they are is chance. Hardly any moves later, so that decides who competes with whom.
pub struct Held(Vec<u32>);

impl Held {
    /// Holds all vCPUs of these VMs; none if the cell pins them.
    pub fn hold(spec: &CellSpec, pids: &[u32]) -> Result<Self> {
        if spec.chosen.pinning != Pinning::None {
            return Ok(Self(Vec::new()));
        }
        let mut tids = Vec::new();
        for pid in pids {
            let threads = threads_of(*pid)?;
            tids.extend(threads.iter().filter(|t| t.vcpu.is_some()).map(|t| t.tid));
        }
        fastrand::Rng::with_seed(spec.chosen.seed).shuffle(&mut tids);
        let cpus = our_cpus()?;
        for (tid, cpu) in tids.iter().zip(cpus.iter().cycle()) {
            put(*tid, *cpu)?;
        }
        Ok(Self(tids))
    }

    /// Lets them run on all CPUs that we may use.
    pub fn release(self) -> Result<()> {
        let allowed =
            sched_getaffinity(None).map_err(Error::io("read the CPUs of", "this process"))?;
        for tid in self.0 {
            let path = format!("/proc/{tid}");
            sched_setaffinity(raw(tid), &allowed).map_err(Error::io("release", &path))?;
        }
        Ok(())
    }
}

/// Pins vCPU i to the i-th CPU that we may use.
fn pin(threads: &[Thread]) -> Result<()> {
    let cpus = our_cpus()?;
    for thread in threads {
        let Some(vcpu) = thread.vcpu else { continue };
        put(thread.tid, cpus[vcpu as usize % cpus.len()])?;
    }
    Ok(())
}

fn our_cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).map_err(Error::io("read the CPUs of", "this process"))?;
    let all = 0..CpuSet::MAX_CPU;
    Ok(all.filter(|&cpu| allowed.is_set(cpu)).collect())
}

fn put(tid: u32, cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    let path = format!("/proc/{tid}");
    sched_setaffinity(raw(tid), &one).map_err(Error::io("pin", &path))?;
    let set = sched_getaffinity(raw(tid)).map_err(Error::io("read the CPUs of", &path))?;
    match set == one {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{path} was pinned and is not"))),
    }
}

fn raw(tid: u32) -> Option<Pid> {
    i32::try_from(tid).ok().and_then(Pid::from_raw)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write to", path))
}
