//! Two vCPUs that yield to each other, and who else shares their CPUs: what each
//! thread gets, and how many yields a hand-over takes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::Kvm;

use crate::counters::{self, Counters};
use crate::error::Error;
use crate::guest::{self, Program};
use crate::vm::{Config, Place, Via, Vm, pin, thread_id};

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
    /// Wherever the host puts them.
    Free,
}

/// The options of `ipi-probe yields`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the two vCPUs do.
    #[arg(long)]
    what: What,
    /// Where they run.
    #[arg(long, default_value = "shared")]
    place: Where,
    /// Threads of the host that never sleep, pinned to the first CPUs in turn.
    #[arg(long, default_value_t = 0)]
    hogs: u8,
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
        Where::Free => Place::Free,
    };
    let program = match args.what {
        What::Race => Program::Race,
        What::Turns => Program::Turns,
        What::Spin => Program::Spin,
    };
    let pair = Vm::start(kvm, config(program, place))?;
    let rival = match args.rival {
        true => Some(Vm::start(kvm, config(Program::Compute, place))?),
        false => None,
    };
    let cpus = if place == Place::Shared { 1 } else { 2 };
    let hogs: Vec<Hog> = (0..usize::from(args.hogs))
        .map(|n| Hog::start(n % cpus))
        .collect::<Result<_, _>>()?;
    let _groups = match args.groups {
        true => Some(Groups::make(&pair, &hogs)?),
        false => None,
    };

    thread::sleep(WARM_UP);
    let before = Sample::take(&pair, rival.as_ref(), &hogs)?;
    let trace = args.picks.then(Trace::start).transpose()?;
    thread::sleep(Duration::from_millis(args.ms));
    let switches = trace.map(Trace::switches).transpose()?;
    let after = Sample::take(&pair, rival.as_ref(), &hogs)?;
    let names = names(&pair, rival.as_ref(), &hogs);
    drop(hogs);
    pair.end()?;
    rival.map_or(Ok(()), Vm::end)?;
    let mut result = after.since(&before);
    if let Some(tids) = switches {
        let picks: String = tids.iter().filter_map(|tid| names.get(tid)).collect();
        result["picks"] = picks.into();
    }
    Ok(result)
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

fn config(program: Program, place: Place) -> Config {
    Config {
        via: Via::Mmio,
        program,
        vcpus: 2,
        icr: 0,
        place,
        running: 2,
    }
}

/// What there is to read at one time.
struct Sample {
    pair_ns: Vec<u64>,
    rival_ns: Vec<u64>,
    hogs_ns: Vec<u64>,
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
            "yields": self.yields.wrapping_sub(before.yields),
            "rounds": self.rounds.wrapping_sub(before.rounds),
            "kvm": counters::since(&self.counted[0], &before.counted[0]),
            "scheduler": counters::since(&self.counted[1], &before.counted[1]),
        })
    }
}

/// CPU time of a thread of this process, in ns.
fn cpu_ns(tid: i32) -> Result<u64, Error> {
    let path = format!("/proc/self/task/{tid}/schedstat");
    let text = fs::read_to_string(path).map_err(|e| Error::setup("read schedstat", e))?;
    let first = text.split(' ').next().and_then(|ns| ns.parse().ok());
    first.ok_or_else(|| Error::setup("read schedstat", "it has no number"))
}

/// A thread that never sleeps.
struct Hog {
    tid: i32,
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hog {
    fn start(cpu: usize) -> Result<Self, Error> {
        let leave = Arc::new(AtomicBool::new(false));
        let seen = leave.clone();
        let (send, receive) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let _ = send.send(pin(cpu).map(|()| thread_id()));
            while !seen.load(Ordering::Relaxed) {}
        });
        let tid = receive.recv().map_err(|_| Error::Panic)??;
        Ok(Self {
            tid,
            leave,
            thread: Some(thread),
        })
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Two groups of threads, removed when they are empty again.
struct Groups([PathBuf; 2]);

impl Groups {
    fn make(pair: &Vm, hogs: &[Hog]) -> Result<Self, Error> {
        let failed = |e| Error::setup("make control groups", e);
        let root = Path::new(CGROUPS);
        fs::write(root.join("cgroup.subtree_control"), "+cpu").map_err(failed)?;
        let groups = Self(["probe0", "probe1"].map(|name| root.join(name)));
        for group in &groups.0 {
            fs::create_dir(group).map_err(failed)?;
            fs::write(group.join("cgroup.type"), "threaded").map_err(failed)?;
        }
        let [first, second] = &groups.0;
        let join = |group: &Path, tid: i32| {
            fs::write(group.join("cgroup.threads"), tid.to_string()).map_err(failed)
        };
        for (group, tid) in [first, second].into_iter().zip(pair.thread_ids()) {
            join(group, tid)?;
        }
        hogs.iter().try_for_each(|hog| join(first, hog.tid))?;
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
