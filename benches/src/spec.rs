//! One cell as the host gets it, and what the host gives back.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::timeline::Timeline;
use crate::{Error, Result};

/// Everything that a host needs to know to run one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSpec {
    /// The workload's name; its guest image is `<initrds>/<workload>.cpio`.
    pub workload: String,
    /// Number of VMs, started together.
    pub guests: u32,
    /// vCPUs of each VM.
    pub vcpus: u32,
    /// Memory of each VM in MiB.
    pub mem_mib: u32,
    /// Disk of each VM in MiB, ext4 on the host's tmpfs.
    pub disk_mib: u32,
    /// Seeds the workloads, and says on which CPU each vCPU begins; on a real host it shifts
    /// the guests' starts, too.
    pub seed: u64,
    /// From GO to the window's begin in ms.
    pub warmup_ms: u64,
    /// The window's length in ms.
    pub window_ms: u64,
    /// How long guests may take to boot, in ms of the host's monotonic clock.
    pub ready_timeout_ms: u64,
    /// How long they may take from GO to their end.
    pub finish_timeout_ms: u64,
    /// The guests' kernel command line.
    pub guest_cmdline: String,
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
    /// Who else computes on the host.
    #[serde(default)]
    pub third_party: ThirdParty,
    /// How much of the window's begin is traced for a picture, in ms.
    #[serde(default)]
    pub timeline_ms: u64,
    /// Values written to files of /sys or /proc/sys when the guests have booted,
    /// restored after.
    pub sysfs: Vec<(PathBuf, String)>,
    /// Where programs and images are on the host.
    pub paths: Paths,
}

/// The cgroups v2 of a cell.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// All.
    #[default]
    #[serde(alias = "free")]
    None,
    /// vCPU i on the i-th CPU, from the first again when there are no more.
    OneToOne,
}

/// KVM's paravirtual features that guests see, as the VMM's `--pv` takes them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// Who computes on the host beside the VMs, to see what it loses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThirdParty {
    /// Nobody.
    #[default]
    None,
    /// A task that never sleeps, in a group of its own where VMs are.
    Task,
}

impl ThirdParty {
    /// Its name in plans and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Task => "task",
        }
    }
}

impl Layout {
    /// Its name in plans and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Vm => "vm",
            Self::Vcpu => "vcpu",
        }
    }
}

impl Pinning {
    /// Its name in plans and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OneToOne => "one-to-one",
        }
    }
}

impl Pv {
    /// Its name in plans, and for the VMM.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Qemu => "qemu",
            Self::All => "all",
        }
    }
}

/// The class of every thread that nothing else is said of.
pub fn fair() -> String {
    "fair".into()
}

/// Where programs and images are on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The VMM.
    pub vmm: PathBuf,
    /// The guests' kernel.
    pub kernel: PathBuf,
    /// The folder with the guests' initial ram disks.
    pub initrds: PathBuf,
    /// The program that makes ext4.
    pub mke2fs: PathBuf,
}

impl Default for Paths {
    /// As in the emulated host's image.
    fn default() -> Self {
        Self {
            vmm: "/vmfirst/vmm".into(),
            kernel: "/vmfirst/guest/bzImage".into(),
            initrds: "/vmfirst/guest".into(),
            mke2fs: "/sbin/mke2fs".into(),
        }
    }
}

impl CellSpec {
    /// The workload's initial ram disk.
    pub fn initrd(&self) -> PathBuf {
        self.paths.initrds.join(format!("{}.cpio", self.workload))
    }

    /// Checks all numbers and files before anything is started.
    pub fn check(&self) -> Result<()> {
        self.check_values()?;
        let knobs = self.sysfs.iter().map(|(path, _)| path);
        let paths = [&self.paths.vmm, &self.paths.kernel, &self.paths.mke2fs];
        let initrd = self.initrd();
        for path in paths.into_iter().chain([&initrd]).chain(knobs) {
            let found = path.metadata().map_err(Error::io("find", path))?;
            if !found.is_file() {
                let path = path.display();
                return Err(Error::Invalid(format!("{path} is not a file")));
            }
        }
        Ok(())
    }

    /// Checks what needs no look at the host.
    pub(crate) fn check_values(&self) -> Result<()> {
        check_name("workload", &self.workload)?;
        check_name("class", &self.class)?;
        for (name, value) in [
            ("guests", self.guests.into()),
            ("vcpus", self.vcpus.into()),
            ("mem_mib", self.mem_mib.into()),
            ("disk_mib", self.disk_mib.into()),
            ("warmup_ms", self.warmup_ms),
            ("window_ms", self.window_ms),
            ("timeline_ms", self.timeline_ms),
            ("ready_timeout_ms", self.ready_timeout_ms),
            ("finish_timeout_ms", self.finish_timeout_ms),
        ] {
            check_range(name, value)?;
        }
        if self.timeline_ms > self.window_ms {
            return Err(Error::Invalid(format!(
                "timeline_ms = {}: it is a part of the window",
                self.timeline_ms
            )));
        }
        if self.finish_timeout_ms < self.warmup_ms + self.window_ms {
            return Err(Error::Invalid(format!(
                "finish_timeout_ms = {}: it is at least warm-up and window",
                self.finish_timeout_ms
            )));
        }
        Ok(())
    }
}

/// What numbers of a cell may be, lowest and highest.
const RANGES: &[(&str, u64, u64)] = &[
    ("guests", 1, 1024),
    ("vcpus", 1, 255),
    ("pcpus", 1, 255),
    ("mem_mib", 32, 1 << 20),
    ("disk_mib", 8, 1 << 20),
    ("warmup_ms", 0, 3_600_000),
    ("window_ms", 1, 3_600_000),
    ("timeline_ms", 0, 1000),
    ("ready_timeout_ms", 1, 86_400_000),
    ("finish_timeout_ms", 1, 86_400_000),
    ("round_ns", 100, 1_000_000),
    ("seeds", 1, 1000),
];

/// Checks a number of a cell or a plan by its name.
pub fn check_range(name: &str, value: u64) -> Result<()> {
    let range = RANGES.iter().find(|(of, _, _)| *of == name);
    match range {
        Some((_, low, high)) if !(low..=high).contains(&&value) => Err(Error::Invalid(format!(
            "{name} = {value}: it is from {low} to {high}"
        ))),
        _ => Ok(()),
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

/// What running a cell gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase", deny_unknown_fields)]
pub enum CellOutput {
    /// Every guest gave a result.
    Ok(Measured),
    /// At least one did not.
    Failed {
        /// Why, in one line.
        error: String,
    },
}

/// The figures of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Work per second of all guests together.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Work per second of each guest.
    pub per_guest: Vec<f64>,
    /// What each guest's kernel and workload counted in the window.
    pub guest_extras: Vec<BTreeMap<String, f64>>,
    /// What the host's kernel counted in the window, summed over guests.
    pub counters: BTreeMap<String, u64>,
    /// The window's length on the host in ns.
    pub window_ns: u64,
    /// From the first guest's start until all were ready, on the host's clock in ns.
    pub ready_ns: u64,
    /// The host's clock at the end, in ns since its boot.
    pub host_ns: u64,
    /// Release and version of the host's kernel.
    pub kernel: String,
    /// What else is worth knowing of the host.
    pub machine: Facts,
    /// What ran where at the window's begin, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
}
