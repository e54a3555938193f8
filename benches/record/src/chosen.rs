//! What a plan chooses of a cell: the same value in the plan, on the host and in the result.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bounded::Bounded;
use crate::{Error, Result};

/// How many VMs a cell may have.
pub type Guests = Bounded<1, 1024>;
/// How many vCPUs a VM may have.
pub type Vcpus = Bounded<1, 255>;
/// How many CPUs a host may have.
pub type Pcpus = Bounded<1, 255>;
/// Memory of a VM in MiB.
pub type MemMib = Bounded<32, 1_048_576>;
/// Disk of a VM in MiB.
pub type DiskMib = Bounded<8, 1_048_576>;
/// A warm-up in ms.
pub type WarmupMs = Bounded<0, 3_600_000>;
/// A window in ms.
pub type WindowMs = Bounded<1, 3_600_000>;
/// The traced part of a window in ms.
pub type TimelineMs = Bounded<0, 1000>;
/// Mean length of an emulated host's round in ns.
pub type RoundNs = Bounded<100, 1_000_000>;
/// Samples of a cell.
pub type Seeds = Bounded<1, 1000>;

/// Everything that a plan chooses of a cell. It begins with what a key tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// The workload's name; its guest image is `<initrds>/<workload>.cpio`.
    pub workload: String,
    /// Number of VMs, started together.
    pub guests: u32,
    /// vCPUs of each VM.
    pub vcpus: u32,
    /// CPUs of the host.
    pub pcpus: u32,
    /// Mean length of a round of the emulator in ns; 0 on a real host.
    #[serde(default)]
    pub round_ns: u64,
    /// Which groups the VMs are in.
    #[serde(default)]
    pub cgroups: Layout,
    /// Which CPUs vCPUs may run on.
    #[serde(default)]
    pub pinning: Pinning,
    /// KVM's paravirtual features that guests see.
    #[serde(default)]
    pub pv: Pv,
    /// The vCPU threads' scheduling class, as the VMM's `--vcpu-class` takes it.
    #[serde(default = "fair")]
    pub class: String,
    /// What else computes on the host.
    #[serde(default)]
    pub third_party: ThirdParty,
    /// How much of the window's begin is traced for a picture, in ms.
    #[serde(default)]
    pub timeline_ms: u64,
    /// The variant's name: a host kernel and how it is set.
    #[serde(default)]
    pub variant: String,
    /// On an emulated host it varies the rounds' lengths. It says on which CPU each vCPU
    /// begins, when each guest starts, and what random numbers those workloads draw that
    /// draw any.
    pub seed: u64,
    /// The host's kernel.
    #[serde(default)]
    pub host_kernel: HostKernel,
    /// Values written to files of /sys or /proc/sys when the guests have booted, restored
    /// after.
    #[serde(default)]
    pub sysfs: BTreeMap<PathBuf, String>,
    /// Memory of each VM in MiB.
    pub mem_mib: u32,
    /// Disk of each VM in MiB, ext4 on the host's tmpfs.
    pub disk_mib: u32,
    /// From GO to the window's begin in ms.
    pub warmup_ms: u64,
    /// The window's length in ms.
    pub window_ms: u64,
    /// The guests' kernel command line.
    #[serde(default)]
    pub guest_cmdline: String,
}

impl Default for Chosen {
    /// As most plans have it; what every plan says is empty.
    fn default() -> Self {
        Self {
            workload: String::new(),
            guests: 0,
            vcpus: 0,
            pcpus: 0,
            round_ns: 0,
            cgroups: Layout::default(),
            pinning: Pinning::default(),
            pv: Pv::default(),
            class: fair(),
            third_party: ThirdParty::default(),
            timeline_ms: 0,
            variant: String::new(),
            seed: 0,
            host_kernel: HostKernel::default(),
            sysfs: BTreeMap::new(),
            mem_mib: 0,
            disk_mib: 0,
            warmup_ms: 0,
            window_ms: 0,
            guest_cmdline: String::new(),
        }
    }
}

impl Chosen {
    /// What tells a cell from all others of a plan, as `dbench/2x4on4/q3000/stock/s1`.
    /// Between round and variant stands what is unusual, as
    /// `dbench/3x4on4/q3000/cg-vcpu/pin-one-to-one/stock/s1`.
    pub fn key(&self) -> String {
        self.key_of(&self.variant)
    }

    /// The key of the same cell of another variant.
    pub fn key_of(&self, variant: &str) -> String {
        let (guests, vcpus, pcpus) = (self.guests, self.vcpus, self.pcpus);
        let unusual: String = self.unusual().iter().map(|o| format!("/{o}")).collect();
        let (workload, round) = (&self.workload, self.round_ns);
        let seed = self.seed;
        format!("{workload}/{guests}x{vcpus}on{pcpus}/q{round}{unusual}/{variant}/s{seed}")
    }

    /// What is not as most plans have it, as in keys.
    pub fn unusual(&self) -> Vec<String> {
        let usual = Self::default();
        let parts = [
            (self.cgroups != usual.cgroups, "cg-", word(&self.cgroups)),
            (self.pinning != usual.pinning, "pin-", word(&self.pinning)),
            (self.pv != usual.pv, "pv-", word(&self.pv)),
            (self.class != usual.class, "class-", self.class.clone()),
            (
                self.third_party != usual.third_party,
                "third-",
                word(&self.third_party),
            ),
            (
                self.timeline_ms != usual.timeline_ms,
                "timeline-",
                self.timeline_ms.to_string(),
            ),
        ];
        let unusual = parts.into_iter().filter(|(is_so, ..)| *is_so);
        unusual
            .map(|(_, mark, word)| mark.to_string() + &word)
            .collect()
    }

    /// What cells have in common that are compared: all but variant and seed.
    #[must_use]
    pub fn setting(&self) -> Self {
        Self {
            variant: String::new(),
            seed: 0,
            host_kernel: HostKernel::default(),
            sysfs: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// The cell of which an emulated host is saved when its guests have booted: the same for
    /// all of a seed that differ only in what comes later.
    #[must_use]
    pub fn boot(&self) -> Self {
        let usual = Self::default();
        Self {
            variant: format!("boot-{}", word(&self.host_kernel)),
            warmup_ms: 0,
            window_ms: 1,
            cgroups: usual.cgroups,
            pinning: usual.pinning,
            third_party: usual.third_party,
            timeline_ms: usual.timeline_ms,
            sysfs: usual.sysfs,
            ..self.clone()
        }
    }

    /// Whether it is for the emulated host: a real one has no rounds.
    pub fn is_emulated(&self) -> bool {
        self.round_ns > 0
    }

    /// Memory in MiB that the host needs: guests, their disks, and itself.
    pub fn host_mem_mib(&self) -> u32 {
        768 + self.guests * (self.mem_mib + self.disk_mib)
    }

    /// Checks what needs no look at a host.
    pub fn check(&self) -> Result<()> {
        check_name("workload", &self.workload)?;
        check_name("class", &self.class)?;
        Guests::check("guests", self.guests.into())?;
        Vcpus::check("vcpus", self.vcpus.into())?;
        MemMib::check("mem_mib", self.mem_mib.into())?;
        DiskMib::check("disk_mib", self.disk_mib.into())?;
        WarmupMs::check("warmup_ms", self.warmup_ms)?;
        WindowMs::check("window_ms", self.window_ms)?;
        TimelineMs::check("timeline_ms", self.timeline_ms)?;
        if self.timeline_ms > self.window_ms {
            return Err(Error::Invalid(format!(
                "timeline_ms = {}: it is a part of the window",
                self.timeline_ms
            )));
        }
        Ok(())
    }
}

/// The host's kernel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKernel {
    /// Nothing but counters.
    #[default]
    Stock,
    /// The whole series.
    Patched,
    /// The series, and designs of others to compare it with.
    Compare,
    /// Debian's own kernel as it comes, with KVM as a module; it has no counters of ours.
    Debian,
    /// The series on Debian's configuration.
    DebianPatched,
}

impl HostKernel {
    /// Those that are ours to ship.
    pub const OURS: [Self; 2] = [Self::Stock, Self::Patched];

    /// Whether it lacks what is ours: any kernel of others can take its place.
    pub fn is_unpatched(self) -> bool {
        matches!(self, Self::Stock | Self::Debian)
    }

    /// Whether what a host needs of it is in modules.
    pub fn has_modules(self) -> bool {
        matches!(self, Self::Debian | Self::DebianPatched)
    }

    /// Whether a host that runs this kernel can run variants of `wanted`.
    pub fn serves(self, wanted: Self) -> bool {
        self == wanted || (self, wanted) == (Self::Compare, Self::Patched)
    }
}

/// The cgroups v2 of a cell.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// All VMs in the group of the harness.
    #[default]
    Flat,
    /// A group for each VM.
    Vm,
    /// A group for each VM; in it one for each vCPU and one for all other
    /// threads, as libvirt does.
    Vcpu,
}

/// Which CPUs vCPUs may run on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// All.
    #[default]
    None,
    /// vCPU i on the i-th CPU, from the first again when there are no more.
    OneToOne,
}

/// KVM's paravirtual features that guests see, as the VMM's `--pv` takes them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pv {
    /// None, and the guest does not know that it is one: Linux takes the locks of metal.
    /// `nopv` is on its command line, too.
    #[default]
    None,
    /// What QEMU offers by default.
    Qemu,
    /// All.
    All,
}

/// What computes on the host beside the VMs, to see what it loses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThirdParty {
    /// Nobody.
    #[default]
    None,
    /// A task that never sleeps, in a group of its own where VMs are.
    Task,
}

/// The class of every thread that nothing else is said of.
pub fn fair() -> String {
    "fair".into()
}

/// A value's name in plans, keys and results.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

/// Checks a word that becomes a part of keys and paths.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(fits) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{what} = {name:?}: it is of letters, digits and - _ . :"
    )))
}

/// Checks that a knob is a file of the kernel's.
pub fn check_knob(path: &Path) -> Result<()> {
    let plain = path.components().all(|c| c != Component::ParentDir);
    if plain && ["/sys", "/proc/sys"].iter().any(|d| path.starts_with(d)) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{}: a knob is a file under /sys or /proc/sys",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen() -> Chosen {
        Chosen {
            workload: "dbench".into(),
            guests: 2,
            vcpus: 4,
            pcpus: 4,
            round_ns: 3000,
            variant: "stock".into(),
            seed: 1,
            mem_mib: 64,
            disk_mib: 16,
            window_ms: 100,
            ..Chosen::default()
        }
    }

    #[test]
    fn a_key_tells_what_is_unusual() {
        assert_eq!(chosen().key(), "dbench/2x4on4/q3000/stock/s1");
        let unusual = Chosen {
            cgroups: Layout::Vcpu,
            pinning: Pinning::OneToOne,
            pv: Pv::Qemu,
            class: "rr:2".into(),
            third_party: ThirdParty::Task,
            timeline_ms: 3,
            ..chosen()
        };
        let key = "dbench/2x4on4/q3000/cg-vcpu/pin-one-to-one/pv-qemu/class-rr:2/third-task/\
                   timeline-3/v2/s1";
        assert_eq!(unusual.key_of("v2"), key);
    }

    #[test]
    fn cells_of_a_seed_that_differ_after_the_boot_share_it() {
        let mut other = chosen();
        other.variant = "tuned".into();
        other.sysfs = BTreeMap::from([("/sys/x".into(), "1".into())]);
        other.window_ms = 7;
        other.cgroups = Layout::Vm;
        assert_eq!(other.boot(), chosen().boot());
        assert_eq!(other.boot().key(), "dbench/2x4on4/q3000/boot-stock/s1");
        for change in [
            (|c| c.seed = 2) as fn(&mut Chosen),
            |c| c.host_kernel = HostKernel::Patched,
            |c| c.mem_mib = 65,
            |c| c.pv = Pv::All,
        ] {
            let mut other = chosen();
            change(&mut other);
            assert_ne!(other.boot(), chosen().boot());
        }
    }

    #[test]
    fn what_is_compared_differs_in_variant_and_seed_only() {
        let mut other = chosen();
        (other.variant, other.seed) = ("v2".into(), 9);
        other.host_kernel = HostKernel::Compare;
        assert_eq!(other.setting(), chosen().setting());
        other.window_ms = 1;
        assert_ne!(other.setting(), chosen().setting());
    }

    /// A result has these fields beside its own, and a cell of a user's own has no others.
    #[test]
    fn it_is_read_beside_other_fields_and_alone_has_no_unknown_ones() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Beside {
            #[serde(flatten)]
            chosen: Chosen,
            value: f64,
        }
        let beside = Beside {
            chosen: chosen(),
            value: 0.1 + 0.2,
        };
        let json = serde_json::to_string(&beside).unwrap();
        assert_eq!(serde_json::from_str::<Beside>(&json).unwrap(), beside);
        let error = serde_json::from_str::<Chosen>(&json).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `value`"),
            "{error}"
        );
    }

    #[test]
    fn out_of_range_is_told_by_name() {
        for (change, words) in [
            ((|c| c.guests = 0) as fn(&mut Chosen), "guests = 0"),
            (|c| c.vcpus = 256, "vcpus = 256: it is from 1 to 255"),
            (|c| c.mem_mib = 31, "mem_mib = 31"),
            (|c| c.disk_mib = 7, "disk_mib = 7"),
            (|c| c.warmup_ms = u64::MAX, "warmup_ms = "),
            (|c| c.window_ms = 0, "window_ms = 0"),
            (|c| c.timeline_ms = 1001, "timeline_ms = 1001"),
            (|c| c.timeline_ms = 101, "it is a part of the window"),
            (|c| c.workload = "../x".into(), "workload = \"../x\""),
            (|c| c.class = String::new(), "class = \"\""),
        ] {
            let mut wrong = chosen();
            change(&mut wrong);
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        chosen().check().unwrap();
    }
}
