//! What a VMM costs by itself: what to launch, and what came out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::json::read_json;
use crate::{Error, Result};

/// What to launch, and for how long to look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostSpec {
    /// VMMs by name, each with the program and its arguments.
    pub vmms: Vec<(String, Vec<String>)>,
    /// Launches of each, one of every VMM in turn.
    pub runs: u32,
    /// Memory of each machine in MiB, to be left out of the VMM's.
    pub mem_mib: u64,
    /// From the guest's READY to the idle window's begin in ms.
    pub settle_ms: u64,
    /// The idle window's length in ms.
    pub idle_ms: u64,
}

/// What one launch cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// From exec to the guest's first instruction, firmware's included, in us.
    pub first_instruction_us: u64,
    /// CPU time of all the VMM's threads between the two in us.
    pub first_instruction_cpu_us: u64,
    /// From exec until the guest's first process has said that it is there, in us.
    pub init_us: u64,
    /// Resident memory without the guest's, in KiB: private and shared pages.
    pub rss_kib: u64,
    /// Of it, anonymous memory: what each further machine costs.
    pub anonymous_kib: u64,
    /// Threads of the VMM when the guest is idle.
    pub threads: u64,
    /// Wake-ups a second of threads that are no vCPU, guest idle.
    pub idle_vmm_wakeups: f64,
    /// Wake-ups a second of vCPU threads: the guest's own timers.
    pub idle_vcpu_wakeups: f64,
    /// CPU time of all threads in us a second, guest idle.
    pub idle_cpu_us: f64,
}

/// What was measured, with all that shaped it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// `vmm-cost`, as other results name their plan.
    pub plan: String,
    /// What it was measured on, in words.
    pub host: String,
    /// Versions and keys of everything that shapes a figure.
    pub versions: BTreeMap<String, String>,
    /// What was launched.
    pub spec: CostSpec,
    /// Every launch of every VMM.
    pub costs: BTreeMap<String, Vec<Cost>>,
}

impl Results {
    /// Reads a file that [`save`](Self::save) wrote.
    pub fn load(path: &Path) -> Result<Self> {
        read_json(path)
    }

    /// Writes it as JSON.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(e.to_string()))?;
        fs::write(path, json + "\n").map_err(Error::io("write", path))
    }
}
