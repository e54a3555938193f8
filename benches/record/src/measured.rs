//! What a host measured of a cell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is worth knowing of a host, by name. What it does not tell is absent.
pub type Facts = BTreeMap<String, String>;

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
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
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

/// What ran where, in us from the first event.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeline {
    /// Time on a CPU, idle tasks left out.
    pub spans: Vec<Span>,
    /// Directed yields.
    pub yields: Vec<Yield>,
}

/// A task's time on a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The CPU.
    pub cpu: u32,
    /// From when.
    pub from_us: u64,
    /// To when.
    pub to_us: u64,
    /// `vm.vcpu`, as `0.3`; another task's name.
    pub who: String,
}

/// A vCPU that was thrown out of a spin loop, and the vCPU that KVM chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yield {
    /// The CPU of the one that spun.
    pub cpu: u32,
    /// When.
    pub at_us: u64,
    /// Who spun, as `vm.vcpu`.
    pub from: String,
    /// For whom.
    pub to: String,
    /// What spoke for that: ipi, irq, kernel, relaxed.
    pub reason: String,
    /// Whether the scheduler took it.
    pub hit: bool,
}
