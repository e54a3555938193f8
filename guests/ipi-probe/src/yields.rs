//! vCPUs that yield to each other, and who else shares their CPUs: what each thread
//! gets, how many yields a hand-over takes, how often a neighbour is preempted, and how
//! long a thread that wakes up waits.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;

use crate::counters::{self, Counters};
use crate::error::Error;
use crate::guest::{self, Program};
use crate::vm::{Config, Place, Via, Vm, pin};

/// What the two do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Yield to each other by hypercall, as fast as they can.
    Race,
    /// Hand a turn over and yield until it is back.
    Turns,
    /// Spin until KVM yields for them.
    Spin,
}

/// Where they do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Where {
    /// Both on the first CPU.
    Shared,
    /// Each on the CPU of its number.
    Apart,
    /// All but the last on the first CPU, that one on the second.
    Crowd,
    /// Wherever the host puts them.
    Free,
}

/// The options of `ipi-probe yields`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the vCPUs do.
    #[arg(long)]
    what: What,
    /// How many there are; but for spin it is two that do something.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=32))]
    vcpus: u8,
    /// Where they run.
    #[arg(long, default_value = "shared")]
    place: Where,
    /// Processes of the host that never sleep, pinned to the first CPUs in turn; with
    /// `--place crowd` all to the second one.
    #[arg(long, default_value_t = 0)]
    hogs: u8,
    /// A thread on the first CPU that sleeps for a millisecond or two over and over: how
    /// long after its time it has the CPU.
    #[arg(long)]
    sleeper: bool,
    /// A group for the vCPUs.
    #[arg(long, conflicts_with = "groups")]
    own_group: bool,
    /// One group for the first vCPU and the hogs, another one for the second vCPU.
    #[arg(long)]
    groups: bool,
    /// Beside them a VM whose two vCPUs compute and never yield.
    #[arg(long)]
    rival: bool,
    /// How long it is watched, in ms of the host's time.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// Say whom the first CPU has switched to in that time: p and q are the two, h is
    /// a hog, r the rival.
    #[arg(long)]
    picks: bool,
}

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(100);
const CGROUPS: &str = "/sys/fs/cgroup";
const TRACING: &str = "/sys/kernel/tracing";

/// Runs it, and says in ns of CPU time what everybody got.
pub fn run(kvm: &Kvm, args: &Args) -> Result<serde_json::Value, Error> {
    let place = match args.place {
        Where::Shared => Place::Shared,
        Where::Apart => Place::Apart,
        Where::Crowd => Place::Crowd,
        Where::Free => Place::Free,
    };
    let program = match args.what {
        What::Race => Program::Race,
        What::Turns => Program::Turns,
        What::Spin => Program::Spin,
    };
    let pair = Vm::start(kvm, config(program, place, args.vcpus))?;
    let rival = match args.rival {
        true => Some(Vm::start(kvm, config(Program::Compute, place, 2))?),
        false => None,
    };
    let hogs: Vec<Hog> = (0..usize::from(args.hogs))
        .map(|n| Hog::start(hog_cpu(place, n)))
        .collect::<Result<_, _>>()?;
    let _groups = groups(args, &pair, &hogs)?;
    let sleeper = args.sleeper.then(|| Sleeper::start(0));

    thread::sleep(WARM_UP);
    let before = Sample::take(&pair, rival.as_ref(), &hogs)?;
    let trace = args.picks.then(Trace::start).transpose()?;
    thread::sleep(Duration::from_millis(args.ms));
    let switches = trace.map(Trace::switches).transpose()?;
    let after = Sample::take(&pair, rival.as_ref(), &hogs)?;
    let names = names(&pair, rival.as_ref(), &hogs);
    let delays = sleeper.map(Sleeper::end).transpose()?;
    drop(hogs);
    pair.end()?;
    rival.map_or(Ok(()), Vm::end)?;
    let mut result = after.since(&before);
    if let Some(delays) = delays {
        result["delays_ns"] = delays.into();
    }
    if let Some(tids) = switches {
        let picks: String = tids.iter().filter_map(|tid| names.get(tid)).collect();
        result["picks"] = picks.into();
    }
    Ok(result)
}

/// The CPU of the hog of that number.
fn hog_cpu(place: Place, number: usize) -> usize {
    match place {
        Place::Shared => 0,
        Place::Apart | Place::Free => number % 2,
        Place::Crowd => 1,
    }
}

/// The control groups that are wanted, by the threads in them.
fn groups(args: &Args, pair: &Vm, hogs: &[Hog]) -> Result<Option<Groups>, Error> {
    let mut vcpus = pair.thread_ids();
    if args.own_group {
        return Groups::make(&[vcpus]).map(Some);
    }
    if !args.groups {
        return Ok(None);
    }
    let second = vcpus.split_off(1);
    vcpus.extend(hogs.iter().map(|hog| hog.tid));
    Groups::make(&[vcpus, second]).map(Some)
}

/// A letter for each thread that is watched.
fn names(pair: &Vm, rival: Option<&Vm>, hogs: &[Hog]) -> HashMap<i32, char> {
    let pair = pair.thread_ids().into_iter().zip(['p', 'q']);
    let rival = rival.map(Vm::thread_ids).unwrap_or_default();
    let rival = rival.into_iter().map(|tid| (tid, 'r'));
    let hogs = hogs.iter().map(|hog| (hog.tid, 'h'));
    pair.chain(rival).chain(hogs).collect()
}

/// Records whom the first CPU switches to.
struct Trace;

impl Trace {
    fn start() -> Result<Self, Error> {
        let write = |file: &str, text: &str| {
            fs::write(Path::new(TRACING).join(file), text).map_err(|e| Error::setup("trace", e))
        };
        write("tracing_cpumask", "1")?;
        write("buffer_size_kb", "4096")?;
        write("trace", "")?;
        write("events/sched/sched_switch/enable", "1")?;
        write("tracing_on", "1")?;
        Ok(Self)
    }

    fn switches(self) -> Result<Vec<i32>, Error> {
        let tracing = Path::new(TRACING);
        let failed = |e| Error::setup("read the trace", e);
        fs::write(tracing.join("events/sched/sched_switch/enable"), "0").map_err(failed)?;
        let text = fs::read_to_string(tracing.join("trace")).map_err(failed)?;
        let next = |line: &str| {
            line.split("next_pid=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        };
        Ok(text.lines().filter_map(next).collect())
    }
}

fn config(program: Program, place: Place, vcpus: u8) -> Config {
    Config {
        via: Via::Mmio,
        program,
        vcpus,
        icr: 0,
        place,
        running: vcpus,
        burst: 0,
    }
}

/// What there is to read at one time.
struct Sample {
    pair_ns: Vec<u64>,
    rival_ns: Vec<u64>,
    hogs_ns: Vec<u64>,
    /// How often each hog has been preempted.
    hogs_preempted: Vec<u64>,
    yields: u32,
    rounds: u32,
    /// By KVM and the scheduler.
    counted: [Counters; 2],
}

impl Sample {
    fn take(pair: &Vm, rival: Option<&Vm>, hogs: &[Hog]) -> Result<Self, Error> {
        let times = |tids: Vec<i32>| tids.into_iter().map(cpu_ns).collect::<Result<_, _>>();
        Ok(Self {
            pair_ns: times(pair.thread_ids())?,
            rival_ns: times(rival.map(Vm::thread_ids).unwrap_or_default())?,
            hogs_ns: times(hogs.iter().map(|hog| hog.tid).collect())?,
            hogs_preempted: hogs
                .iter()
                .map(|hog| preempted(hog.tid))
                .collect::<Result<_, _>>()?,
            yields: pair
                .word(guest::YIELDS)
                .wrapping_add(pair.word(guest::YIELDS + 4)),
            rounds: pair.word(guest::ROUNDS),
            counted: [counters::kvm(), counters::scheduler()],
        })
    }

    fn since(&self, before: &Self) -> serde_json::Value {
        let spent = |after: &[u64], before: &[u64]| -> Vec<u64> {
            after.iter().zip(before).map(|(a, b)| a - b).collect()
        };
        serde_json::json!({
            "pair_ns": spent(&self.pair_ns, &before.pair_ns),
            "rival_ns": spent(&self.rival_ns, &before.rival_ns),
            "hogs_ns": spent(&self.hogs_ns, &before.hogs_ns),
            "hogs_preempted": spent(&self.hogs_preempted, &before.hogs_preempted),
            "yields": self.yields.wrapping_sub(before.yields),
            "rounds": self.rounds.wrapping_sub(before.rounds),
            "kvm": counters::since(&self.counted[0], &before.counted[0]),
            "scheduler": counters::since(&self.counted[1], &before.counted[1]),
        })
    }
}

/// CPU time of a thread, in ns.
fn cpu_ns(tid: i32) -> Result<u64, Error> {
    let text = fs::read_to_string(format!("/proc/{tid}/schedstat"))
        .map_err(|e| Error::setup("read schedstat", e))?;
    let first = text.split(' ').next().and_then(|ns| ns.parse().ok());
    first.ok_or_else(|| Error::setup("read schedstat", "it has no number"))
}

/// How often a thread has been switched out while it could run.
fn preempted(tid: i32) -> Result<u64, Error> {
    let text = fs::read_to_string(format!("/proc/{tid}/status"))
        .map_err(|e| Error::setup("read status", e))?;
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    let count = count.and_then(|count| count.trim().parse().ok());
    count.ok_or_else(|| Error::setup("read status", "it has no number of switches"))
}

/// Never sleeps, on the CPU of that number, until it is killed.
pub fn hog(cpu: usize) -> Result<serde_json::Value, Error> {
    pin(cpu)?;
    loop {
        std::hint::black_box(cpu);
    }
}

/// A process that never sleeps: to the vCPUs it is somebody else's.
struct Hog {
    tid: i32,
    process: Child,
}

impl Hog {
    fn start(cpu: usize) -> Result<Self, Error> {
        let process = std::process::Command::new("/proc/self/exe")
            .args(["hog", &cpu.to_string()])
            .spawn()
            .map_err(|e| Error::setup("start a hog", e))?;
        let tid = process.id().cast_signed();
        Ok(Self { tid, process })
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A thread that sleeps over and over, as one that waits for a device does.
struct Sleeper {
    leave: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<u64>, Error>>,
}

impl Sleeper {
    fn start(cpu: usize) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let seen = leave.clone();
        let thread = thread::spawn(move || {
            pin(cpu)?;
            // Alarms are as exact as they can be.
            // SAFETY: it takes a number and changes this thread only.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
            // After what is not counted.
            thread::sleep(WARM_UP);
            let mut delays = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                // Any beat of the ticks is met.
                let sleep = Duration::from_micros(500 + delays.len() as u64 * 37 % 1000);
                let begin = Instant::now();
                thread::sleep(sleep);
                delays.push((begin.elapsed() - sleep).as_nanos() as u64);
            }
            Ok(delays)
        });
        Self { leave, thread }
    }

    /// How long after its time it had the CPU, in ns, each time.
    fn end(self) -> Result<Vec<u64>, Error> {
        self.leave.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(Err(Error::Panic))
    }
}

/// Groups of threads, removed when they are empty again.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn make(threads: &[Vec<i32>]) -> Result<Self, Error> {
        let failed = |e| Error::setup("make control groups", e);
        let root = Path::new(CGROUPS);
        fs::write(root.join("cgroup.subtree_control"), "+cpu").map_err(failed)?;
        let numbers = 0..threads.len();
        let groups = Self(numbers.map(|n| root.join(format!("probe{n}"))).collect());
        for group in &groups.0 {
            fs::create_dir(group).map_err(failed)?;
            fs::write(group.join("cgroup.type"), "threaded").map_err(failed)?;
        }
        for (group, tids) in groups.0.iter().zip(threads) {
            for tid in tids {
                fs::write(group.join("cgroup.threads"), tid.to_string()).map_err(failed)?;
            }
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let _ = fs::remove_dir(group);
        }
    }
}
