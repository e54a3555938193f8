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

use dense_record::cost::{Cost, CostSpec};
use dense_record::{Error, Result};
use rustix::time::{ClockId, clock_gettime};

mod idle;
mod memory;
mod start;

use idle::Idle;
use start::{Start, Trace};

/// Gives nothing before the kernel's random numbers are good.
const RANDOM: &str = "/dev/random";
/// What guests say when their first process runs.
const READY: &str = "VMFIRST READY";

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
