//! What KVM counts, and its folder in debugfs: one for each VM, named PID-FD.
//!
//! A file that is open keeps its VM alive: [`KvmMeter`]s are for who looks often, and lets go
//! of those that have ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Root, StatsFile};

/// Counters of vCPUs that are read, by the kernel's names. A kernel that is locked down (Secure
/// Boot) refuses debugfs, for its files may be written, too. Those after `halt_exits` are in
/// kernels with vmfirst's series: Documentation/virt/kvm/directed-yield.rst.
pub const KVM_COUNTERS: [&str; 18] = [
    "directed_yield_attempted",
    "directed_yield_successful",
    "exits",
    "halt_exits",
    "spin_exits",
    "spin_ns",
    "spin_served",
    "yield_attempts",
    "yield_hits_answer",
    "yield_hits_ipi",
    "yield_hits_irq",
    "yield_hits_irqs_off",
    "yield_hits_kernel",
    "yield_hits_relaxed",
    "yield_same_cpu",
    "yield_other_cpu",
    "yield_to_run_count",
    "yield_to_run_ns",
];

/// Counters of yields that found their target begin so; the reason follows.
pub const HITS: &str = "yield_hits_";

/// A counter's place in [`KVM_COUNTERS`].
pub(super) fn place(name: &str) -> Option<usize> {
    KVM_COUNTERS.iter().position(|known| *known == name)
}

/// A value for each of [`KVM_COUNTERS`] that the kernel has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counted<T>([Option<T>; KVM_COUNTERS.len()]);

/// Counts since the VM's start.
pub type Counts = Counted<u64>;

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self([const { None }; KVM_COUNTERS.len()])
    }
}

impl<T: Copy> Counted<T> {
    /// The value of a counter; none where the kernel lacks it.
    pub fn get(&self, name: &str) -> Option<T> {
        self.0[place(name)?]
    }

    /// What is there, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, T)> {
        let values = KVM_COUNTERS.iter().zip(&self.0);
        values.filter_map(|(name, value)| Some((*name, (*value)?)))
    }

    /// Whether the kernel told nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    pub(super) fn put(&mut self, place: usize, value: Option<T>) {
        self.0[place] = value;
    }

    /// What `make` makes of the values that both have.
    pub fn with<U>(&self, other: &Self, make: impl Fn(T, T) -> U) -> Counted<U> {
        let both = |at: usize| Some(make(self.0[at]?, other.0[at]?));
        Counted(std::array::from_fn(both))
    }
}

impl Counts {
    /// Adds those of another vCPU.
    fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or_default().wrapping_add(*more));
            }
        }
    }
}

impl<T: Copy> FromIterator<(&'static str, T)> for Counted<T> {
    fn from_iter<I: IntoIterator<Item = (&'static str, T)>>(values: I) -> Self {
        let mut counted = Self::default();
        for (name, value) in values {
            if let Some(place) = place(name) {
                counted.0[place] = Some(value);
            }
        }
        counted
    }
}

impl<T: Copy + Serialize> Serialize for Counted<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

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

    /// Whether a VM's counters can't be read because the kernel is locked down.
    pub fn kvm_is_locked_down(&self, vm: KvmVm) -> bool {
        let exits = format!("sys/kernel/debug/kvm/{}-{}/exits", vm.pid, vm.fd);
        self.is_locked_down() && self.text(&exits).is_err()
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
}

/// Reads a VM's counters again and again: each vCPU's where its process has their statistics
/// files open, else KVM's sums in debugfs.
#[derive(Debug, Default)]
pub struct KvmMeter {
    vcpus: Vec<(u32, StatsFile)>,
    sums: Option<Sums>,
}

/// KVM's folder of a VM in debugfs. Open, it spares the way to it, and does not keep the VM
/// alive as an open file in it would.
#[derive(Debug)]
struct Sums {
    folder: OwnedFd,
    /// Places in [`KVM_COUNTERS`].
    counters: Vec<usize>,
}

impl KvmMeter {
    /// For the VM of `pid` with this many vCPUs. `known` has the counters that this kernel's
    /// folders have, once one was looked at: on a stock kernel most are not there.
    pub fn new(
        root: &Root,
        pid: i32,
        vcpus: usize,
        folder: Option<KvmVm>,
        known: &mut Option<Vec<usize>>,
    ) -> Self {
        let files = root.kvm_stats_files(pid);
        if vcpus > 0 && files.len() == vcpus {
            return Self {
                vcpus: files,
                sums: None,
            };
        }
        Self {
            vcpus: Vec::new(),
            sums: folder.and_then(|vm| Sums::open(root, vm, known)),
        }
    }

    /// How many files a reading opens. A statistics file stays open, and is not among them.
    pub fn opens(&self) -> usize {
        self.sums.as_ref().map_or(0, |sums| sums.counters.len())
    }

    /// The VM's counters, and each vCPU's where they are told.
    pub fn read(&self) -> (Counts, Vec<(u32, Counts)>) {
        let mut sum = Counts::default();
        let vcpus = self.vcpus.iter();
        let vcpus: Vec<_> = vcpus
            .filter_map(|(vcpu, file)| Some((*vcpu, file.read().ok()?)))
            .collect();
        vcpus.iter().for_each(|(_, counts)| sum.add(counts));
        if let Some(sums) = &self.sums {
            sums.read(&mut sum);
        }
        (sum, vcpus)
    }
}

impl Sums {
    fn open(root: &Root, vm: KvmVm, known: &mut Option<Vec<usize>>) -> Option<Self> {
        let path = root.path(&format!("sys/kernel/debug/kvm/{}-{}", vm.pid, vm.fd));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        if known.is_none() {
            let there = |place: &usize| {
                rustix::fs::statat(&folder, KVM_COUNTERS[*place], AtFlags::empty()).is_ok()
            };
            let found: Vec<_> = (0..KVM_COUNTERS.len()).filter(there).collect();
            *known = Some(found).filter(|found| !found.is_empty());
        }
        let counters = known.clone()?;
        Some(Self { folder, counters })
    }

    fn read(&self, sum: &mut Counts) {
        for &place in &self.counters {
            sum.put(place, self.counter(KVM_COUNTERS[place]).ok());
        }
    }

    /// KVM's files in debugfs are read from their begin only once each time that they are open
    /// (simple_attr_open in fs/libfs.c).
    fn counter(&self, name: &str) -> io::Result<u64> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.folder,
            name,
            flags,
            Mode::empty(),
        )?);
        let mut bytes = [0; 32];
        let length = rustix::io::read(&file, &mut bytes)?;
        let text = std::str::from_utf8(&bytes[..length]).ok();
        let number = text.and_then(|text| text.trim_end().parse().ok());
        number.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: KvmVm = KvmVm { pid: 7, fd: 11 };

    fn tree(counters: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let at = tempfile::tempdir().unwrap();
        let folder = at.path().join("sys/kernel/debug/kvm/7-11");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in counters {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let root = Root::at(at.path());
        (at, root)
    }

    /// A file that stays open would have the old text: in debugfs it would have none.
    #[test]
    fn a_counter_is_opened_anew_for_each_reading() {
        let (at, root) = tree(&[("exits", "5\n"), ("halt_exits", "no number\n")]);
        let meter = KvmMeter::new(&root, 7, 1, Some(VM), &mut None);
        assert_eq!(meter.opens(), 2);
        assert_eq!(meter.read().0, Counts::from_iter([("exits", 5)]));
        let path = at.path().join("sys/kernel/debug/kvm/7-11/exits");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "6\n").unwrap();
        assert_eq!(meter.read().0.get("exits"), Some(6));
    }

    #[test]
    fn what_a_kernel_counts_is_looked_for_once() {
        let (_at, root) = tree(&[("exits", "5\n")]);
        let mut known = None;
        KvmMeter::new(&root, 7, 1, Some(VM), &mut known);
        let exits = place("exits").unwrap();
        assert_eq!(known, Some(vec![exits]));
        let mut known = Some(vec![exits, exits]);
        let meter = KvmMeter::new(&root, 7, 1, Some(VM), &mut known);
        assert_eq!(meter.opens(), 2);
        // A folder that tells nothing says nothing of the kernel.
        let (_at, empty) = tree(&[]);
        let mut known = None;
        assert_eq!(KvmMeter::new(&empty, 7, 1, Some(VM), &mut known).opens(), 0);
        assert_eq!(known, None);
    }
}
