//! What is said of a machine: what it says itself is in docs/vmm-api.json, the rest is seen
//! from outside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Pv;
use crate::devices::counters::DeviceStat;
use crate::sched::{Layout, Tid};

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its guest runs.
    Running,
    /// Its vCPUs are kept out of the guest.
    Paused,
    /// Its guest has been asked to power off.
    Stopping,
}

/// A machine, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    /// The version of vmm.
    pub version: String,
    /// What it does.
    pub state: State,
    /// Whether the guest starts still, in the launch class.
    pub launching: bool,
    /// Time since its start in ms.
    pub uptime_ms: u64,
    /// The guest's memory in bytes.
    pub mem_bytes: u64,
    /// The paravirtual features that the guest sees.
    pub pv: Pv,
    /// Its control group, if it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupInfo>,
}

/// What only the machine itself can count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnStat {
    /// Whether the guest can know of the time that is taken from it.
    pub steal_time: bool,
    /// The devices, the console first.
    pub devices: Vec<DeviceStat>,
}

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupInfo {
    /// Where it is.
    pub path: String,
    /// How it is divided.
    pub layout: Layout,
}

/// How a thread is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadInfo {
    /// Its id on the host.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// Its scheduling class.
    pub class: String,
    /// The CPUs that it may use.
    pub cpus: String,
}

/// A machine's statistics since its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// The machine's name.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    /// Time since its start in ns.
    pub uptime_ns: u64,
    /// The vCPUs, in order.
    pub vcpus: Vec<VcpuStat>,
    /// All other threads.
    pub helpers: Vec<ThreadStat>,
    /// The devices, the console first.
    pub devices: Vec<DeviceStat>,
}

/// A thread's statistics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadStat {
    /// Its id on the host.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// The CPU that it runs on, or ran on last.
    pub cpu: u32,
    /// Its scheduling class.
    pub class: String,
    /// Time that it ran, in ns.
    pub run_ns: u64,
    /// Time that it waited for a CPU while it could have run, in ns.
    pub delay_ns: u64,
    /// That as a share of run time and delay, 0 to 1.
    pub delay_share: f64,
}

/// A vCPU's statistics. What the kernel or the guest does not tell is absent, not 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VcpuStat {
    /// Its thread's.
    #[serde(flatten)]
    pub thread: ThreadStat,
    /// Time that was taken from the vCPU, in ns, as a guest reads it that has KVM's
    /// paravirtual steal time on: the run delay. Absent where the guest can't have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal_ns: Option<u64>,
    /// How often it left the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<u64>,
    /// How often it halted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halts: Option<u64>,
    /// How often it left the guest for spinning (pause-loop exits).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spin_exits: Option<u64>,
    /// Its directed yields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yields: Option<Yields>,
}

/// Directed yields of a vCPU that spun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yields {
    /// How often KVM tried a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// How often the target was made to run, by the reason why it was chosen.
    pub hits: BTreeMap<String, u64>,
    /// Hits whose target waited on the yielder's CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_cpu: Option<u64>,
    /// Hits whose target waited on another CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_cpu: Option<u64>,
}
