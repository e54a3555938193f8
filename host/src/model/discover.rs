//! Finds VMs: processes with `anon_inode:kvm-vm` or `anon_inode:kvm-vcpu:N` open, and the
//! threads that run their vCPUs.
//!
//! KVM's debugfs tells which thread runs which vCPU. Without it a vCPU's thread is known
//! by its name, or by the file of the KVM_RUN that it is in. Without the right to look at
//! other users' files, only names are left.

use std::collections::{BTreeMap, BTreeSet};

use super::names;
use super::{Role, Task, Vm, Vmm};
use crate::read::{KvmVm, Root};

/// x86's number of ioctl(2), and KVM's request to run a vCPU.
const SYS_IOCTL: u64 = 16;
const KVM_RUN: u64 = 0xae80;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The VMs, by name.
    pub vms: Vec<Vm>,
    /// What could not be seen, and why: a line each.
    pub notes: Vec<String>,
}

/// Finds the VMs of a host.
pub fn find(root: &Root) -> Found {
    Scanner::new(root).scan()
}

/// How many looks of a [`Finder`] rely on what was found before.
const LOOKS: u32 = 6;

/// Finds VMs again and again. Between whole looks, of which one in six is one, VMs that are
/// as they were are not looked at anew: KVM's folders and each process's number of threads
/// tell. Without KVM's debugfs each look is a whole one.
#[derive(Debug)]
pub struct Finder {
    root: Root,
    looks: u32,
    folders: Option<Vec<KvmVm>>,
    vms: Vec<Vm>,
    /// How many threads each had.
    threads: BTreeMap<i32, u64>,
}

impl Finder {
    /// Takes the first look; returns what could not be seen, too.
    pub fn new(root: Root) -> (Self, Vec<String>) {
        let mut finder = Self {
            root,
            looks: 0,
            folders: None,
            vms: Vec::new(),
            threads: BTreeMap::new(),
        };
        let notes = finder.whole();
        (finder, notes)
    }

    /// The VMs, as they were found last.
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// Looks again; returns the VMs that are others than before, or have ended.
    pub fn again(&mut self) -> Vec<(i32, u64)> {
        self.looks += 1;
        let before = std::mem::take(&mut self.vms);
        let folders = self.root.kvm_vms().ok();
        if folders.is_none() || folders != self.folders || self.looks.is_multiple_of(LOOKS) {
            self.whole();
            let now: BTreeMap<i32, &Vm> = self.vms.iter().map(|vm| (vm.pid, vm)).collect();
            let changed = before.iter().filter(|vm| now.get(&vm.pid) != Some(vm));
            return changed.map(|vm| (vm.pid, vm.start)).collect();
        }
        self.known(before)
    }

    fn whole(&mut self) -> Vec<String> {
        // Before the look: a VM that is made meanwhile makes the next one a whole one.
        self.folders = self.root.kvm_vms().ok();
        let Found { vms, notes } = find(&self.root);
        self.vms = vms;
        let count = |vm: &Vm| Some((vm.pid, self.root.thread_count(vm.pid).ok()?));
        self.threads = self.vms.iter().filter_map(count).collect();
        notes
    }

    /// Looks at those whose threads are more or fewer.
    fn known(&mut self, before: Vec<Vm>) -> Vec<(i32, u64)> {
        let mut scanner = None;
        let mut changed = Vec::new();
        for vm in before {
            let count = self.root.thread_count(vm.pid).ok();
            if count.is_some() && count.as_ref() == self.threads.get(&vm.pid) {
                self.vms.push(vm);
                continue;
            }
            changed.push((vm.pid, vm.start));
            let scanner = scanner.get_or_insert_with(|| Scanner::new(&self.root));
            let Some(mut new) = scanner.process(vm.pid) else {
                continue;
            };
            // The kernel's threads for it are others' processes: whole looks find them.
            new.tasks
                .extend(vm.tasks.into_iter().filter(|task| task.pid != vm.pid));
            self.vms.push(new);
            self.threads.extend(count.map(|count| (vm.pid, count)));
        }
        changed
    }
}

/// What is the same for all processes of one look.
#[derive(Debug)]
pub struct Scanner<'a> {
    root: &'a Root,
    /// KVM's folders by process; none when they can't be read.
    kvm: Option<BTreeMap<i32, Vec<KvmVm>>>,
    /// Whether /proc has the process ids that debugfs has: only where pid 2 is kthreadd.
    first_namespace: bool,
    machines: BTreeMap<String, String>,
    notes: BTreeSet<String>,
}

impl<'a> Scanner<'a> {
    /// Reads what is the same for all.
    pub fn new(root: &'a Root) -> Self {
        let mut notes = BTreeSet::new();
        let kvm = root.kvm_vms().ok().map(|vms| {
            if vms.first().is_some_and(|vm| root.kvm_is_locked_down(*vm)) {
                notes.insert(
                    "the kernel is locked down (Secure Boot) and refuses KVM's counters: exits, \
                     halts, spins and yields are told only where a VMM keeps its statistics files \
                     open (vmm, QEMU 8.1); ready time, list and set work"
                        .into(),
                );
            }
            let mut by_pid = BTreeMap::<i32, Vec<KvmVm>>::new();
            for vm in vms {
                by_pid.entry(vm.pid).or_default().push(vm);
            }
            by_pid
        });
        if kvm.is_none() {
            notes.insert(
                "KVM's debugfs can't be read (root? mount -t debugfs none /sys/kernel/debug): exits, \
                 halts, spins and yields are told only where a VMM keeps its statistics files open \
                 (vmm, QEMU 8.1); vCPUs are known by their threads' names"
                    .into(),
            );
        }
        Self {
            root,
            kvm,
            first_namespace: root
                .text("proc/2/task/2/comm")
                .is_ok_and(|name| name == "kthreadd"),
            machines: names::machines(root),
            notes,
        }
    }

    /// Looks at all processes.
    pub fn scan(mut self) -> Found {
        let pids = self.root.pids().unwrap_or_default();
        let mut vms: Vec<Vm> = pids.iter().filter_map(|&pid| self.process(pid)).collect();
        self.kernel_threads(&pids, &mut vms);
        vms.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
        Found {
            vms,
            notes: self.notes.into_iter().collect(),
        }
    }

    /// The VM that a process runs. A process that ends meanwhile runs none.
    pub fn process(&mut self, pid: i32) -> Option<Vm> {
        let arguments = self.root.cmdline(pid).ok().filter(|a| !a.is_empty())?;
        let fds = self.kvm_fds(pid);
        if let Ok(fds) = &fds
            && fds.vm.is_none()
            && fds.vcpus.is_empty()
        {
            return None;
        }
        let main = self.root.stat(pid, pid).ok()?;
        let program = self.root.exe(pid).ok();
        let program = program.as_deref().unwrap_or(&arguments[0]);
        let program = program.trim_end_matches(" (deleted)").rsplit('/').next()?;
        let fds = match fds {
            Ok(fds) => fds,
            Err(_) if known(program) == Vmm::Other => return None,
            Err(_) => {
                self.notes.insert(
                    "open files of other users' processes can't be seen (root?): their VMs are \
                     known by their threads' names"
                        .into(),
                );
                KvmFds::default()
            }
        };
        let kvm = self.folder(pid, &fds);
        let mut tasks = self.tasks(pid, kvm, &fds);
        let count = tasks.iter().filter(|t| matches!(t.role, Role::Vcpu(_)));
        let vcpus = count.count().max(fds.vcpus.len());
        if vcpus == 0 {
            return None;
        }
        tasks.sort_by_key(|task| (task.role, task.tid));
        let groups = self.root.groups(pid, pid).unwrap_or_default();
        let path = groups.v2.clone().filter(|path| path != "/");
        let path = path.or_else(|| groups.v1.into_values().find(|path| path != "/"));
        let path = path.unwrap_or_default();
        let machine = names::machine(&path, &self.machines);
        let mut vmm = known(program);
        if vmm == Vmm::Other && tasks.iter().any(|task| task.name.starts_with("db_vcpu")) {
            vmm = Vmm::Dragonball;
        }
        if vmm == Vmm::Qemu && machine.is_some() {
            vmm = Vmm::Libvirt;
        }
        let given = names::in_arguments(vmm, &arguments);
        // The host gave the machine's name; arguments are what the process says of itself.
        let name = match (machine, given) {
            (Some(machine), Some(given)) if names::is_made_of(&machine, &given) => given,
            (Some(machine), _) => machine,
            (None, Some(given)) => given,
            (None, None) => format!("{}-{pid}", vmm.name()),
        };
        Some(Vm {
            name,
            vmm,
            pid,
            start: main.starttime,
            cgroup: groups.v2.map(|_| self.group_of(&tasks)).and_then(|g| g),
            pod: names::pod(&path),
            vcpus,
            tasks,
            kvm,
        })
    }

    /// The VM's descriptors. An error when they may not be seen.
    fn kvm_fds(&self, pid: i32) -> std::io::Result<KvmFds> {
        // Looking through all files of all processes is what costs; KVM knows who has VMs.
        if let Some(kvm) = &self.kvm
            && !kvm.contains_key(&pid)
            && self.first_namespace
        {
            return Ok(KvmFds::default());
        }
        let mut fds = KvmFds::default();
        for (fd, link) in self.root.fds(pid)? {
            match link.strip_prefix("anon_inode:kvm-") {
                Some("vm") => fds.vm = fds.vm.or(Some(fd)),
                Some(rest) => {
                    if let Some(vcpu) = rest.strip_prefix("vcpu:").and_then(|n| n.parse().ok()) {
                        fds.vcpus.insert(fd, vcpu);
                    }
                }
                None => {}
            }
        }
        Ok(fds)
    }

    /// KVM's folder of this process's VM.
    fn folder(&self, pid: i32, fds: &KvmFds) -> Option<KvmVm> {
        let folders = self.kvm.as_ref()?.get(&pid)?;
        // A VMM may close the VM when it has its vCPUs; the folder has the number still.
        let own = folders.iter().find(|vm| Some(vm.fd) == fds.vm);
        let folder = own.or_else(|| folders.first().filter(|_| fds.vm.is_none()));
        // In a PID namespace the folder may be of another process with that id.
        folder.filter(|_| self.first_namespace).copied()
    }

    fn tasks(&self, pid: i32, kvm: Option<KvmVm>, fds: &KvmFds) -> Vec<Task> {
        let told = kvm
            .map(|vm| self.root.kvm_vcpu_threads(vm))
            .unwrap_or_default();
        let told: BTreeMap<i32, u32> = told.into_iter().map(|(vcpu, tid)| (tid, vcpu)).collect();
        let threads = self.root.threads(pid).unwrap_or_default();
        let mut tasks: Vec<Task> = threads
            .into_iter()
            .filter_map(|tid| {
                let stat = self.root.stat(pid, tid).ok()?;
                let vcpu = match told.is_empty() {
                    true => vcpu_by_name(&stat.comm),
                    false => told.get(&tid).copied(),
                };
                let role = match vcpu {
                    Some(vcpu) => Role::Vcpu(vcpu),
                    None => role_by_name(&stat.comm, tid == pid),
                };
                Some(Task {
                    pid,
                    tid,
                    name: stat.comm,
                    role,
                    start: stat.starttime,
                })
            })
            .collect();
        if !tasks.iter().any(|task| matches!(task.role, Role::Vcpu(_))) {
            self.by_system_call(pid, fds, &mut tasks);
        }
        tasks
    }

    /// A thread that waits in KVM_RUN says in which vCPU's file.
    fn by_system_call(&self, pid: i32, fds: &KvmFds, tasks: &mut [Task]) {
        for task in tasks {
            // KVM's own threads were cloned from a vCPU's and have its registers still.
            if matches!(task.role, Role::Kvm | Role::Vhost) {
                continue;
            }
            let Ok(Some([SYS_IOCTL, fd, KVM_RUN])) = self.root.syscall(pid, task.tid) else {
                continue;
            };
            let fd = i32::try_from(fd).ok();
            if let Some(&vcpu) = fd.and_then(|fd| fds.vcpus.get(&fd)) {
                task.role = Role::Vcpu(vcpu);
            }
        }
    }

    /// The lowest group that all of a VM's threads are in; all of a machine's scope.
    fn group_of(&self, tasks: &[Task]) -> Option<String> {
        let groups = tasks.iter().filter_map(|task| {
            let groups = self.root.groups(task.pid, task.tid).ok()?;
            groups.v2
        });
        let common = groups.reduce(|a, b| common(&a, &b).to_string())?;
        let scope = common.split_inclusive('/').scan(0, |end, part| {
            *end += part.len();
            Some((*end, part.trim_end_matches('/')))
        });
        let scope = scope
            .filter(|(_, part)| part.starts_with("machine-") && part.ends_with(".scope"))
            .map(|(end, _)| common[..end].trim_end_matches('/').to_string())
            .next();
        Some(scope.unwrap_or(common))
    }

    /// Threads of the kernel that work for a VM have its process's id in their name.
    fn kernel_threads(&self, pids: &[i32], vms: &mut [Vm]) {
        let at: BTreeMap<i32, usize> = (0..).zip(vms.iter()).map(|(n, vm)| (vm.pid, n)).collect();
        for &pid in pids {
            // Without arguments: of the kernel, or a process that has ended.
            if at.is_empty() || self.root.cmdline(pid).is_ok_and(|a| !a.is_empty()) {
                continue;
            }
            let Ok(name) = self.root.text(&format!("proc/{pid}/task/{pid}/comm")) else {
                continue;
            };
            let owner = name.rsplit(['-', '/']).next().and_then(|n| n.parse().ok());
            let vm = owner.and_then(|owner: i32| at.get(&owner));
            let role = role_by_name(&name, false);
            if let (Some(&vm), Role::Vhost | Role::Kvm) = (vm, role)
                && let Ok(stat) = self.root.stat(pid, pid)
            {
                vms[vm].tasks.push(Task {
                    pid,
                    tid: pid,
                    name,
                    role,
                    start: stat.starttime,
                });
            }
        }
    }
}

/// A process's descriptors of KVM.
#[derive(Debug, Default)]
struct KvmFds {
    vm: Option<i32>,
    /// vCPUs' numbers by descriptor.
    vcpus: BTreeMap<i32, u32>,
}

/// The VMM that a program is.
fn known(program: &str) -> Vmm {
    match program {
        "firecracker" => Vmm::Firecracker,
        "cloud-hypervisor" => Vmm::CloudHypervisor,
        "crosvm" => Vmm::Crosvm,
        "lkvm" | "lkvm-static" | "kvmtool" | "vm" => Vmm::Kvmtool,
        "vmm" => Vmm::Vmm,
        "kvm" | "qemu-kvm" => Vmm::Qemu,
        other if other.starts_with("qemu-system-") => Vmm::Qemu,
        _ => Vmm::Other,
    }
}

/// The vCPU that a thread's name is of.
fn vcpu_by_name(name: &str) -> Option<u32> {
    if let Some(number) = name
        .strip_prefix("CPU ")
        .and_then(|n| n.strip_suffix("/KVM"))
    {
        return number.parse().ok();
    }
    let prefixes = ["fc_vcpu ", "db_vcpu", "crosvm_vcpu", "kvm-vcpu-", "vcpu"];
    let number = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    number.and_then(|number| number.parse().ok())
}

fn role_by_name(name: &str, main: bool) -> Role {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if begins(&["vhost-"]) {
        Role::Vhost
    } else if begins(&["kvm-pit", "kvm-nx-lpage-re"]) {
        Role::Kvm
    } else if begins(&[
        "IO ", "vmm-io", "iou-", "virtio-", "v_", "_disk", "_net", "_fs", "_vsock", "_pmem",
        "_console", "_rng", "_balloon", "_vdpa",
    ]) {
        Role::Io
    } else if main {
        Role::Main
    } else {
        Role::Other
    }
}

/// The path that both begin with, in whole parts.
pub fn common<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.split_inclusive('/').zip(b.split_inclusive('/'));
    let same = same.take_while(|(a, b)| a.trim_end_matches('/') == b.trim_end_matches('/'));
    let length: usize = same.map(|(a, _)| a.len()).sum();
    match a[..length].trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_by_name() {
        for (name, vcpu) in [
            ("CPU 3/KVM", Some(3)),
            ("fc_vcpu 0", Some(0)),
            ("vcpu12", Some(12)),
            ("db_vcpu1", Some(1)),
            ("crosvm_vcpu10", Some(10)),
            ("kvm-vcpu-2", Some(2)),
            ("CPU 0/TCG", None),
            ("vcpu", None),
            ("vcpu-1", None),
            ("qemu-system-x86", None),
        ] {
            assert_eq!(vcpu_by_name(name), vcpu, "{name}");
        }
        assert_eq!(role_by_name("kvm-nx-lpage-re", false), Role::Kvm);
        assert_eq!(role_by_name("kvm-pit/77", false), Role::Kvm);
        assert_eq!(role_by_name("vhost-77", false), Role::Vhost);
        assert_eq!(role_by_name("IO iothread1", false), Role::Io);
        assert_eq!(role_by_name("anything", true), Role::Main);
    }

    #[test]
    fn groups_are_shared_in_whole_parts() {
        for (a, b, shared) in [
            ("/m/web/vcpu0", "/m/web/vcpu1", "/m/web"),
            ("/m/web", "/m/web/vcpu1", "/m/web"),
            ("/m/web", "/m/we", "/m"),
            ("/a", "/b", "/"),
            ("/", "/", "/"),
        ] {
            assert_eq!(common(a, b), shared, "{a} {b}");
        }
    }
}
