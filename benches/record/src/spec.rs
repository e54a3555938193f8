//! One cell as a host gets it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bounded::Bounded;
use crate::chosen::Chosen;
use crate::{Error, Result};

/// Guests that are not ready by then never will be.
const READY_TIMEOUT_MS: u64 = 60_000;
/// On top of warm-up and window.
const FINISH_TIMEOUT_MS: u64 = 60_000;
/// At most a day.
type TimeoutMs = Bounded<1, 86_400_000>;

/// Everything that a host needs to know to run one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSpec {
    /// What was chosen of it.
    pub chosen: Chosen,
    /// How long guests may take to boot, in ms of the host's monotonic clock.
    pub ready_timeout_ms: u64,
    /// How long they may take from GO to their end.
    pub finish_timeout_ms: u64,
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
    /// The cell for a host that has programs and images at `paths`. The host is not told how
    /// the variant is called: a name changes no figure.
    pub fn new(chosen: &Chosen, paths: Paths) -> Self {
        Self {
            ready_timeout_ms: READY_TIMEOUT_MS,
            finish_timeout_ms: chosen.warmup_ms + chosen.window_ms + FINISH_TIMEOUT_MS,
            paths,
            chosen: Chosen {
                variant: String::new(),
                ..chosen.clone()
            },
        }
    }

    /// The workload's initial ram disk.
    pub fn initrd(&self) -> PathBuf {
        let workload = &self.chosen.workload;
        self.paths.initrds.join(format!("{workload}.cpio"))
    }

    /// Checks all numbers and files before anything is started.
    pub fn check(&self) -> Result<()> {
        let chosen = &self.chosen;
        chosen.check()?;
        TimeoutMs::check("ready_timeout_ms", self.ready_timeout_ms)?;
        TimeoutMs::check("finish_timeout_ms", self.finish_timeout_ms)?;
        if self.finish_timeout_ms < chosen.warmup_ms + chosen.window_ms {
            return Err(Error::Invalid(format!(
                "finish_timeout_ms = {}: it is at least warm-up and window",
                self.finish_timeout_ms
            )));
        }
        let paths = [&self.paths.vmm, &self.paths.kernel, &self.paths.mke2fs];
        let initrd = self.initrd();
        let all = paths.into_iter().chain([&initrd]);
        for path in all.chain(chosen.sysfs.keys()) {
            let found = path.metadata().map_err(Error::io("find", path))?;
            if !found.is_file() {
                let path = path.display();
                return Err(Error::Invalid(format!("{path} is not a file")));
            }
        }
        Ok(())
    }
}
