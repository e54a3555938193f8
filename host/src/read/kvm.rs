//! KVM's folder in debugfs: one for each VM, named PID-FD.
//!
//! A file that is open keeps its VM alive, so each is closed at once.

use std::collections::BTreeMap;
use std::io;

use super::Root;

/// Counters of vCPUs that are read. A kernel that is locked down (Secure Boot) refuses them,
/// for their files may be written, too. KVM sums a VM's vCPUs; a vCPU's own are only for the
/// process that has it. Those after `halt_exits` are in kernels with vmfirst's series.
pub const VCPU_COUNTERS: &[&str] = &[
    "directed_yield_attempted",
    "directed_yield_successful",
    "exits",
    "halt_exits",
    "spin_exits",
    "yield_attempts",
    "yield_hits_answer",
    "yield_hits_ipi",
    "yield_hits_irq",
    "yield_hits_irqs_off",
    "yield_hits_kernel",
    "yield_hits_relaxed",
    "yield_same_cpu",
    "yield_other_cpu",
];

/// A VM's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KvmVm {
    /// The process that made it, by its id in the first PID namespace.
    pub pid: i32,
    /// The process's descriptor.
    pub fd: i32,
}

impl Root {
    /// The VMs.
    ///
    /// # Errors
    /// Where debugfs isn't mounted or the caller may not look.
    pub fn kvm_vms(&self) -> io::Result<Vec<KvmVm>> {
        let entries = std::fs::read_dir(self.path("sys/kernel/debug/kvm"))?.flatten();
        let mut vms: Vec<KvmVm> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let (pid, fd) = name.to_str()?.split_once('-')?;
                let (pid, fd) = (pid.parse().ok()?, fd.parse().ok()?);
                Some(KvmVm { pid, fd })
            })
            .collect();
        vms.sort_unstable();
        Ok(vms)
    }

    /// The threads of a VM's vCPUs, as KVM knows them: by vCPU, in ids of the first PID
    /// namespace. Empty before Linux 6.0.
    pub fn kvm_vcpu_threads(&self, vm: KvmVm) -> BTreeMap<u32, i32> {
        let folder = format!("sys/kernel/debug/kvm/{}-{}", vm.pid, vm.fd);
        let entries = std::fs::read_dir(self.path(&folder)).into_iter().flatten();
        let threads = entries.flatten().filter_map(|entry| {
            let name = entry.file_name();
            let vcpu = name.to_str()?.strip_prefix("vcpu")?.parse().ok()?;
            let tid = self.text(&format!("{folder}/vcpu{vcpu}/pid")).ok()?;
            Some((vcpu, tid.parse().ok().filter(|&tid: &i32| tid > 0)?))
        });
        threads.collect()
    }

    /// Some of a VM's counters. What the kernel lacks is absent.
    pub fn kvm_counters(&self, vm: KvmVm, names: &[&'static str]) -> BTreeMap<&'static str, u64> {
        let counters = names.iter().filter_map(|name| {
            let path = format!("sys/kernel/debug/kvm/{}-{}/{name}", vm.pid, vm.fd);
            Some((*name, self.text(&path).ok()?.parse().ok()?))
        });
        counters.collect()
    }
}
