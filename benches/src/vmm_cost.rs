//! What a VMM costs by itself, on the host where this runs: the time and CPU from
//! exec to the guest's first instruction, the time to its first process, memory,
//! and what an idle machine wakes up for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::host_init::read_json;
use crate::{Error, Result};

mod idle;
mod memory;
mod start;

use idle::Idle;
use start::{Start, Trace};

/// Gives nothing before the kernel's random numbers are good.
const RANDOM: &str = "/dev/random";
/// What guests say when their first process runs.
const READY: &str = "VMFIRST READY";

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

/// Launches all, in turn; the costs of each VMM in order.
pub fn run(spec: &CostSpec) -> Result<BTreeMap<String, Vec<Cost>>> {
    // Who asks a fresh host for random numbers first, waits until it has gathered
    // some, for a second or more: that is nobody's cost.
    let mut byte = [0];
    File::open(RANDOM)
        .and_then(|mut random| random.read_exact(&mut byte))
        .map_err(Error::io("read", RANDOM))?;
    let mut costs: BTreeMap<String, Vec<Cost>> = BTreeMap::new();
    for _ in 0..spec.runs {
        for (name, command) in &spec.vmms {
            let cost = launch(spec, command).map_err(|error| Error::Program {
                program: name.clone(),
                reason: error.to_string(),
            })?;
            println!("cost of {name}: {cost:?}");
            costs.entry(name.clone()).or_default().push(cost);
        }
    }
    Ok(costs)
}

/// A VMM that is killed when it is no longer needed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn launch(spec: &CostSpec, command: &[String]) -> Result<Cost> {
    let Some((program, args)) = command.split_first() else {
        return Err(Error::Invalid("a VMM without a command".into()));
    };
    let trace = Trace::begin()?;
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", program))?;
    let mut vmm = Running(child);
    let pid = vmm.0.id();
    wait_until_ready(&mut vmm)?;
    let ready_us = now_us();
    let Start {
        exec_us,
        entry_us,
        cpu_us,
    } = trace.end(pid)?;
    sleep(Duration::from_millis(spec.settle_ms));
    let before = Idle::read(pid)?;
    sleep(Duration::from_millis(spec.idle_ms));
    let after = Idle::read(pid)?;
    let memory = memory::of(pid, spec.mem_mib)?;
    let per_second = |count: u64| count as f64 * 1000.0 / spec.idle_ms as f64;
    Ok(Cost {
        first_instruction_us: entry_us - exec_us,
        first_instruction_cpu_us: cpu_us,
        init_us: ready_us.saturating_sub(exec_us),
        rss_kib: memory.rss_kib,
        anonymous_kib: memory.anonymous_kib,
        threads: after.threads,
        idle_vmm_wakeups: per_second(after.vmm_wakeups.saturating_sub(before.vmm_wakeups)),
        idle_vcpu_wakeups: per_second(after.vcpu_wakeups.saturating_sub(before.vcpu_wakeups)),
        idle_cpu_us: per_second(after.cpu_ns.saturating_sub(before.cpu_ns)) / 1000.0,
    })
}

/// Reads the console up to READY; nobody reads the rest, which is short.
fn wait_until_ready(vmm: &mut Running) -> Result<()> {
    let console = vmm.0.stdout.as_mut().map(BufReader::new);
    let mut last = String::new();
    for line in console.into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(Error::io("read from", "the console"))?;
        if line.contains(READY) {
            return Ok(());
        }
        println!("cost| {line}");
        last = line;
    }
    Err(Error::Invalid(format!(
        "ended before its guest was ready; its last line: {last:?}"
    )))
}

fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// The folder of a process in /proc.
fn proc_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}
