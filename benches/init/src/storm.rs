//! Changes everything around running VMs, as fast as a host's administrator never
//! would: vCPUs' affinity, cgroups and bandwidth limits, CPUs going down and up,
//! and the tunables of the patches. What follows from it is for lockdep and KASAN
//! in the host's kernel to say.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dense_record::{Error, Result};
use fastrand::Rng;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(2);
/// The groups that VMs are moved between.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup/storm0", "/sys/fs/cgroup/storm1"];
/// The group that VMs start in.
const ROOT_GROUP: &str = "/sys/fs/cgroup";
const CPUS: &str = "/sys/devices/system/cpu";
/// Tunables of the patches, and values for each.
const TUNABLES: &[(&str, &[&str])] = &[
    (
        "/sys/kernel/directed_yield/mode",
        &["lend", "lend", "penalty", "credit", "transfer", "transfer"],
    ),
    (
        "/sys/kernel/debug/sched/features",
        &["DIRECTED_YIELD", "DIRECTED_YIELD", "NO_DIRECTED_YIELD"],
    ),
    (
        "/sys/kernel/directed_yield/rate_window_ns",
        &["0", "6000000"],
    ),
    (
        "/sys/kernel/directed_yield/pair_window_ns",
        &["0", "600000"],
    ),
    ("/sys/module/kvm/parameters/ipi_tracking", &["N", "Y", "Y"]),
];

/// A thread that makes changes until it is dropped, and then takes back those that
/// outlive the VMs.
#[derive(Debug)]
pub struct Storm {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Storm {
    /// Starts it; the same seed makes the same choices.
    pub fn start(seed: u64) -> Result<Self> {
        let control = Path::new(ROOT_GROUP).join("cgroup.subtree_control");
        fs::write(&control, "+cpu").map_err(Error::io("write", &control))?;
        for group in GROUPS {
            fs::create_dir(group).map_err(Error::io("make", Path::new(group)))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || blow(seed, &seen));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let changes = self.thread.take().map(JoinHandle::join);
        if let Some(Ok(changes)) = changes {
            println!("storm: {changes} changes made");
        }
        for cpu in cpus() {
            let _ = fs::write(cpu.join("online"), "1");
        }
        for group in GROUPS {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Makes changes until told to stop; how many the kernel took.
fn blow(seed: u64, stop: &AtomicBool) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        // A VM or a CPU may just be gone: the next change finds another one.
        let made = match rng.u8(..16) {
            0..5 => change_affinity(&mut rng),
            5..9 => move_process(&mut rng),
            9..12 => limit_bandwidth(&mut rng),
            12..14 => plug_cpu(&mut rng),
            _ => tune(&mut rng),
        };
        changes += u64::from(made.is_some());
    }
    changes
}

fn change_affinity(rng: &mut Rng) -> Option<()> {
    let tid = rng.choice(vcpus())?;
    let cpus = cpus().len() + 1;
    let mut set = CpuSet::new();
    set.set(rng.usize(..cpus));
    for cpu in 0..cpus {
        if rng.bool() {
            set.set(cpu);
        }
    }
    sched_setaffinity(Pid::from_raw(tid), &set).ok()
}

fn move_process(rng: &mut Rng) -> Option<()> {
    let pid = rng.choice(vmms())?;
    let group = rng.choice([ROOT_GROUP, GROUPS[0], GROUPS[1]])?;
    fs::write(Path::new(group).join("cgroup.procs"), pid.to_string()).ok()
}

fn limit_bandwidth(rng: &mut Rng) -> Option<()> {
    let group = Path::new(rng.choice(GROUPS)?);
    let limit = match rng.u8(..3) {
        0 => "max 100000".to_string(),
        // From a quarter of a CPU to two and a half.
        _ => format!("{} 20000", rng.u32(5_000..50_000)),
    };
    fs::write(group.join("cpu.max"), limit).ok()
}

fn plug_cpu(rng: &mut Rng) -> Option<()> {
    let online = rng.choice(cpus())?.join("online");
    fs::write(online, if rng.u8(..3) == 0 { "0" } else { "1" }).ok()
}

fn tune(rng: &mut Rng) -> Option<()> {
    let (file, values) = rng.choice(TUNABLES)?;
    fs::write(file, rng.choice(values.iter())?).ok()
}

/// The CPUs that can be taken down: all but the first.
fn cpus() -> Vec<PathBuf> {
    (1..)
        .map(|n| Path::new(CPUS).join(format!("cpu{n}")))
        .take_while(|cpu| cpu.exists())
        .collect()
}

fn vmms() -> Vec<i32> {
    let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    numbers(Path::new("/proc"))
        .into_iter()
        .filter(|pid| comm(pid).trim_end() == "vmm")
        .collect()
}

fn vcpus() -> Vec<i32> {
    let threads = |pid| {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        numbers(&tasks)
            .into_iter()
            .filter(move |tid| {
                let comm = tasks.join(tid.to_string()).join("comm");
                fs::read_to_string(comm).is_ok_and(|name| name.starts_with("vcpu"))
            })
            .collect::<Vec<_>>()
    };
    vmms().into_iter().flat_map(threads).collect()
}

/// The folders of `dir` that are numbers, in order.
fn numbers(dir: &Path) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut numbers: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}
