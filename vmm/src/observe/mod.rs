//! A machine that runs: what it can say of itself, and what is seen from outside.
//!
//! The machine's process says what only it knows. Where its threads run, how long and as
//! what is the kernel's word, to whoever asks: a process that its guest has taken over says
//! what it likes.

pub mod outside;
pub mod prometheus;
pub mod types;

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::time::Instant;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::{_IOC_NONE, ioctl, ioctl_expr};

use crate::config::{Pv, VmName};
use crate::cpuid;
use crate::devices::counters::Counted;
use crate::run::live::Live;

use types::{CgroupInfo, Info, OwnStat, State};

/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = ioctl_expr(_IOC_NONE, KVMIO, 0xce, 0);

/// What a machine says of itself.
pub struct Observer {
    live: Arc<Live>,
    name: VmName,
    pv: Pv,
    mem: u64,
    /// Whether the guest can have steal time.
    steal: bool,
    /// The vCPUs' statistics files: KVM gives them to this process only, and whoever may trace
    /// it duplicates them.
    _files: Vec<File>,
    devices: Vec<Counted>,
    start: Instant,
}

impl Observer {
    /// For a machine called `name` with these vCPUs.
    pub fn new(live: Arc<Live>, name: VmName, pv: Pv, mem: u64, vcpus: &[VcpuFd]) -> Self {
        Self {
            live,
            name,
            pv,
            mem,
            steal: cpuid::has_steal_time(vcpus),
            _files: vcpus.iter().filter_map(statistics).collect(),
            devices: Vec::new(),
            start: Instant::now(),
        }
    }

    /// The same, with what these devices count.
    pub fn counting(self, devices: Vec<Counted>) -> Self {
        Self { devices, ..self }
    }

    /// The machine that is looked at.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// What it is.
    pub fn info(&self) -> Info {
        let placement = self.live.placement();
        Info {
            name: self.name.to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: match (self.live.stopping(), self.live.control.paused()) {
                (true, _) => State::Stopping,
                (_, true) => State::Paused,
                _ => State::Running,
            },
            launching: placement.launching(),
            uptime_ms: self.start.elapsed().as_millis() as u64,
            mem_bytes: self.mem,
            pv: self.pv,
            cgroup: placement.group().map(|group| CgroupInfo {
                path: group.path().display().to_string(),
                layout: group.layout(),
            }),
        }
    }

    /// What only it can count.
    pub fn stat(&self) -> OwnStat {
        OwnStat {
            steal_time: self.steal,
            devices: self.devices.iter().map(Counted::look).collect(),
        }
    }
}

/// The statistics file of a vCPU; none where KVM has none.
fn statistics(vcpu: &VcpuFd) -> Option<File> {
    // SAFETY: the request takes no argument and returns a new descriptor or -1.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD) };
    // SAFETY: the descriptor is new and nobody else's.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

/// `part` of `part` and `rest`; 0 where there is nothing.
pub fn share(part: u64, rest: u64) -> f64 {
    match part.saturating_add(rest) {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}
