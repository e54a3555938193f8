//! One cell as the host gets it, and what the host gives back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// Shifts the guests' starts and seeds the workloads.
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
    /// Values written to files of /sys before the guests start, restored after.
    pub sysfs: Vec<(PathBuf, String)>,
    /// Where programs and images are on the host.
    pub paths: Paths,
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
        let in_range = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::Invalid(format!(
                "{name} = {value}: it is from {low} to {high}"
            )))
        };
        if self.workload.is_empty() || self.workload.contains('/') {
            return Err(Error::Invalid(format!(
                "workload = {:?}: it is a name, such as dbench",
                self.workload
            )));
        }
        in_range("guests", self.guests.into(), 1, 1024)?;
        in_range("vcpus", self.vcpus.into(), 1, 255)?;
        in_range("mem_mib", self.mem_mib.into(), 32, 1 << 20)?;
        in_range("disk_mib", self.disk_mib.into(), 8, 1 << 20)?;
        in_range("warmup_ms", self.warmup_ms, 0, 3_600_000)?;
        in_range("window_ms", self.window_ms, 1, 3_600_000)?;
        in_range("ready_timeout_ms", self.ready_timeout_ms, 1, 86_400_000)?;
        let shortest = self.warmup_ms + self.window_ms;
        in_range(
            "finish_timeout_ms",
            self.finish_timeout_ms,
            shortest,
            86_400_000,
        )?;
        Ok(())
    }
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
}
