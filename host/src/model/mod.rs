//! The model: VMs, their threads, and what happened to them in an interval.

mod discover;
mod histogram;
mod names;
mod sample;

pub use discover::{Finder, Found, Scanner, common, find};
pub use histogram::{BOUNDS_US, Histogram};
pub use names::{is_machine, shown};
pub use sample::{CountRates, FILES_A_LOOK, HostRates, Sample, Sampler, TaskRates, VmRates, rates};

use serde::Serialize;

use crate::act::Cgroup;
use crate::read::{KvmVm, Root};

/// The program that runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// This project's.
    Vmm,
    /// QEMU, launched by anything but libvirt.
    Qemu,
    /// QEMU, launched by libvirt.
    Libvirt,
    /// Firecracker.
    Firecracker,
    /// cloud-hypervisor.
    CloudHypervisor,
    /// crosvm.
    Crosvm,
    /// kvmtool's lkvm.
    Kvmtool,
    /// Kata's Dragonball, in containerd's shim.
    Dragonball,
    /// One that is not known.
    Other,
}

impl Vmm {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Qemu => "qemu",
            Self::Libvirt => "libvirt",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Crosvm => "crosvm",
            Self::Kvmtool => "kvmtool",
            Self::Dragonball => "dragonball",
            Self::Other => "other",
        }
    }
}

/// What a thread does for its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs a vCPU of this number.
    Vcpu(u32),
    /// Serves devices in the VMM.
    Io,
    /// Serves a virtio device in the kernel.
    Vhost,
    /// Of KVM in the kernel: the interval timer, the recovery of large pages.
    Kvm,
    /// The VMM's first thread.
    Main,
    /// Another of the VMM.
    Other,
}

/// A thread of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// The process that it is of: the VM's, or its own when it is the kernel's.
    pub pid: i32,
    /// Its id.
    pub tid: i32,
    /// Its name, as it is; [`shown`] makes it printable.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// When it started, in ticks since the host's start: with the id it names one thread.
    pub start: u64,
}

/// A VM that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Its name, as it is; [`shown`] makes it printable.
    pub name: String,
    /// What runs it.
    pub vmm: Vmm,
    /// The process.
    pub pid: i32,
    /// When the process started, in ticks since the host's start.
    pub start: u64,
    /// The control group that all its threads are in, below cgroup v2's mount point.
    pub cgroup: Option<String>,
    /// The pod that it is of.
    pub pod: Option<String>,
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// The threads, vCPUs first and in order.
    pub tasks: Vec<Task>,
    /// KVM's folder of it.
    #[serde(skip)]
    pub kvm: Option<KvmVm>,
}

impl Vm {
    /// The threads of its vCPUs, in order; fewer than it has where the kernel doesn't tell.
    pub fn vcpu_tasks(&self) -> impl Iterator<Item = (u32, &Task)> {
        self.tasks.iter().filter_map(|task| match task.role {
            Role::Vcpu(number) => Some((number, task)),
            _ => None,
        })
    }

    /// Its control group; none in the root of them, or without cgroup v2.
    pub fn group(&self, root: &Root) -> Option<Cgroup> {
        let path = self.cgroup.as_deref().filter(|path| *path != "/")?;
        let mount = root.hierarchy().ok()?.v2?;
        Some(Cgroup::at(root.path(&format!("{mount}{path}"))))
    }

    /// The threads that serve its devices.
    pub fn io_tasks(&self) -> impl Iterator<Item = &Task> {
        let serves = |task: &&Task| matches!(task.role, Role::Io | Role::Vhost);
        self.tasks.iter().filter(serves)
    }
}
