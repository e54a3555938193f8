//! The agent at work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::alone::Alone;
use super::config::Config;
use super::cpu_loop::{self, CpuLoop};
use super::keeper::{Keeper, save};
use super::monitor::{GroupScore, Monitor, Of, PriorityScore};
use super::plan::{Disk, GroupStatus, Plan};
use super::reclaim;
use super::requirements::{Requirement, missed};
use super::ring::Ring;
use super::signals::Signals;
use super::stalls::{self, Stalls};
use super::tree::Tree;
use super::triggers::Triggers;
use crate::read::Root;
use crate::{Error, Result};

const JOURNAL: &str = "run/vmfirst/agent.json";
const AGENT: Alone = Alone {
    command: "vmfirst agent",
    unit: "vmfirst-agent",
    lock: "run/vmfirst/agent.lock",
    status: "run/vmfirst/agent-status.json",
};
const AUDIT: &str = "var/log/vmfirst/audit.jsonl";
const BREACHES: &str = "var/log/vmfirst/breaches.jsonl";

/// What the agent tells of itself.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    /// Its process.
    pub pid: u32,
    /// How often it looks, in ms.
    pub interval_ms: u64,
    /// What this host lacks.
    pub missed: &'a [Requirement],
    /// The groups with a priority.
    pub groups: &'a [GroupStatus],
    /// How many values are other than before the agent began.
    pub changed: usize,
    /// Lines of the audit log that could not be written.
    pub audit_lost: u64,
    /// Of all CPUs offline groups may have this together, in per mille; with the CPU loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline_per_mille: Option<u32>,
    /// The scores; with the Quality Monitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores<'a>>,
    /// What was not believed or not looked at.
    pub notes: &'a [String],
}

/// What the Quality Monitor tells.
#[derive(Debug, Serialize)]
pub struct Scores<'a> {
    /// Of each group, in the last window.
    pub groups: &'a [GroupScore],
    /// Of each priority.
    pub priorities: Vec<PriorityScore>,
    /// Records of breaches that could not be written.
    pub breaches_lost: u64,
}

/// The agent of a host.
#[derive(Debug)]
pub struct Service {
    root: Root,
    base: PathBuf,
    config: Config,
    keeper: Keeper,
    stalls: Stalls,
    cpu_loop: CpuLoop,
    monitor: Option<Monitor>,
}

impl Service {
    /// For a host with cgroup v2; takes up what a killed agent left.
    pub fn new(root: Root, config: Config) -> Result<Self> {
        let base = base(&root)?;
        let audit = Ring::new(root.path(AUDIT), config.agent.audit_kib << 10);
        let keeper = Keeper::open(&base, root.path(JOURNAL), audit)?;
        let monitor = monitor(&root, &config);
        Ok(Self {
            root,
            base,
            config,
            keeper,
            stalls: Stalls::default(),
            cpu_loop: CpuLoop::default(),
            monitor,
        })
    }

    /// Has another configuration hold from the next look on.
    pub fn reload(&mut self, config: Config) {
        self.keeper.forgive();
        match (&mut self.monitor, &config.monitor) {
            (Some(monitor), Some(marks)) => monitor.set(marks.clone()),
            _ => self.monitor = monitor(&self.root, &config),
        }
        if config.cpu_loop.is_none() {
            self.cpu_loop = CpuLoop::default();
        }
        self.config = config;
    }

    fn scan(&self) -> Result<(Tree, Plan)> {
        let refused =
            |source| Error::refused("look at", self.base.display().to_string(), source, "");
        let tree = Tree::scan(&self.base, &self.config).map_err(refused)?;
        let plan = Plan::new(&tree, &self.config, &disks(&self.root, &self.config));
        Ok((tree, plan))
    }

    /// Looks once, so long after the look before, and has all groups as they are declared.
    pub fn step(&mut self, interval: Duration) -> Result<Tree> {
        let (tree, mut plan) = self.scan()?;
        let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        let of = match (&self.config.cpu_loop, &self.monitor) {
            (None, None) => stalls::Of::Memory,
            _ => stalls::Of::All,
        };
        let stalls = self.stalls.look(&tree, of);
        let hook = self.hold_back(&tree, &mut plan, &stalls, interval);
        let done = self.keeper.keep_to(&plan.wishes)?;
        plan.done(done);
        for wish in reclaim::wishes(&self.root, &tree, &self.config, &stalls, interval) {
            // Less than was asked for is what there was: the kernel calls that an error.
            let _ = self.keeper.command(&wish);
        }
        let missed = missed(&self.root, &self.base);
        if let Some(monitor) = &mut self.monitor {
            let names: Vec<_> = missed.iter().map(|missed| missed.name).collect();
            monitor.look(&self.root, &tree, &stalls, interval, &names);
        }
        self.tell(&tree, &plan, &missed)?;
        hook.map(|()| tree)
    }

    /// The CPU loop's look; its quotas are wishes as all others.
    fn hold_back(
        &mut self,
        tree: &Tree,
        plan: &mut Plan,
        stalls: &BTreeMap<usize, stalls::Stall>,
        interval: u64,
    ) -> Result<()> {
        let Some(marks) = &self.config.cpu_loop else {
            return Ok(());
        };
        let pressure = cpu_loop::worst(tree, marks, stalls, interval);
        let due = self.cpu_loop.look(marks, &pressure);
        let cpus = self.root.topology().map_or(1, |topology| topology.cpus);
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        for wish in self.cpu_loop.wishes(tree, cpus, &self.keeper) {
            plan.add(wish);
        }
        let failed = |what: String| Err(Error::Unavailable(what));
        if let Some(said) = self.cpu_loop.reap() {
            return failed(said);
        }
        if due && let Err(error) = self.cpu_loop.call(&marks.hook, &pressure) {
            return failed(format!("the hook could not be run: {error}"));
        }
        Ok(())
    }

    /// The kernel's trigger of a group fired.
    fn alarm(&mut self, tree: &Tree, group: &str, of: Of) {
        if let Some(monitor) = &mut self.monitor {
            monitor.alarm(tree, group, of);
        }
    }

    fn tell(&self, tree: &Tree, plan: &Plan, missed: &[Requirement]) -> Result<()> {
        let scores = self.monitor.as_ref().map(|monitor| Scores {
            groups: monitor.scores(),
            priorities: monitor.by_priority(),
            breaches_lost: monitor.lost(),
        });
        let has_loop = self.config.cpu_loop.is_some();
        let status = Status {
            pid: std::process::id(),
            interval_ms: self.config.agent.interval_ms,
            missed,
            groups: &plan.groups,
            changed: self.keeper.changed(),
            audit_lost: self.keeper.audit_lost(),
            offline_per_mille: has_loop.then(|| self.cpu_loop.share()),
            scores,
            notes: &tree.notes,
        };
        let refused = |source| Error::refused("write", format!("/{}", AGENT.status), source, "");
        save(&self.root.path(AGENT.status), &status).map_err(refused)
    }

    /// What would be written now, a line each.
    pub fn would_write(&self) -> Result<Vec<String>> {
        let (_, plan) = self.scan()?;
        let differing = self.keeper.differing(&plan.wishes);
        let lines = differing.into_iter().map(|(wish, now)| {
            let now = now.unwrap_or_else(|error| format!("({error})"));
            format!(
                "{} {}: {now} -> {} ({})",
                wish.group, wish.knob, wish.value, wish.why
            )
        });
        Ok(lines.collect())
    }

    /// Puts all back, and tells nothing any more.
    pub fn restore(&mut self, why: &str) -> Result<usize> {
        let _ = std::fs::remove_file(self.root.path(AGENT.status));
        self.keeper.restore(why)
    }
}

fn monitor(root: &Root, config: &Config) -> Option<Monitor> {
    let marks = config.monitor.clone()?;
    let ring = Ring::new(root.path(BREACHES), marks.ring_kib << 10);
    Some(Monitor::new(marks, ring))
}

/// Where cgroup v2 is.
pub fn base(root: &Root) -> Result<PathBuf> {
    let hierarchy = root.hierarchy();
    let hierarchy =
        hierarchy.map_err(|source| Error::refused("read", "/proc/self/mountinfo", source, ""))?;
    match hierarchy.v2 {
        Some(mount) => Ok(root.path(&mount)),
        None => Err(Error::Unavailable(
            "priorities need cgroup v2, which is not mounted: boot with \
             systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup"
                .into(),
        )),
    }
}

/// The configuration's disks, by number.
pub fn disks(root: &Root, config: &Config) -> Vec<Disk> {
    let is_number = |name: &str| {
        let numbers = name.split_once(':');
        numbers.is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok())
    };
    let disk = |name: &String| Disk {
        name: name.clone(),
        number: match is_number(name) {
            true => Some(name.clone()),
            false => root.text(&format!("sys/class/block/{name}/dev")).ok(),
        },
    };
    config.io.disks.iter().map(disk).collect()
}

/// Waits until a signal comes, a trigger fires or the time is over; which triggers did.
fn wait(signals: &mut Signals, most: Duration, triggers: &Triggers) -> Vec<(String, Of)> {
    let mut files = vec![PollFd::new(&*signals, PollFlags::IN)];
    files.extend(triggers.files());
    let most = Timespec::try_from(most).ok();
    // Interrupted by a signal, it has come.
    let _ = poll(&mut files, most.as_ref());
    let events: Vec<_> = files[1..].iter().map(PollFd::revents).collect();
    signals.heard();
    triggers.fired(&events)
}

/// Runs until SIGTERM or SIGINT; SIGHUP has the configuration read again. `warn` has a line
/// for the operator.
pub fn run(root: &Root, folder: &Path, warn: impl Fn(&str)) -> Result<()> {
    let config = Config::read(folder)?;
    let _lock = AGENT.lock(root)?;
    let refused = |source| Error::refused("watch for", "signals", source, "");
    let mut signals = Signals::new().map_err(refused)?;
    let mut service = Service::new(root.clone(), config)?;
    let mut triggers = Triggers::default();
    let mut last = Instant::now();
    let mut failed = String::new();
    while !signals.is_end() {
        if signals.take_reload() {
            match Config::read(folder) {
                Ok(config) => service.reload(config),
                Err(error) => warn(&format!("{error}; the configuration from before holds")),
            }
        }
        let passed = last.elapsed();
        last = Instant::now();
        let (said, tree) = match service.step(passed) {
            Ok(tree) => (String::new(), Some(tree)),
            Err(error) => (error.to_string(), None),
        };
        // The same trouble each second is told once.
        if said != failed && !said.is_empty() {
            warn(&said);
        }
        failed = said;
        let interval = Duration::from_millis(service.config.agent.interval_ms);
        if let Some(tree) = &tree {
            triggers.set(tree, service.config.monitor.as_ref());
        }
        loop {
            let left = interval.saturating_sub(last.elapsed());
            let fired = wait(&mut signals, left, &triggers);
            if fired.is_empty() {
                break;
            }
            if let Some(tree) = &tree {
                fired
                    .iter()
                    .for_each(|(group, of)| service.alarm(tree, group, *of));
            }
            triggers.heard(&fired);
        }
    }
    service.restore("the agent ends").map(drop)
}

/// Puts back what a killed agent left; returns how much that was.
pub fn restore(root: &Root) -> Result<usize> {
    let _lock = AGENT.lock(root)?;
    Service::new(root.clone(), Config::default())?.restore("asked for by --restore")
}

/// What the agent that runs has told, as it wrote it.
///
/// # Errors
/// [`Error::Unavailable`] when none runs.
pub fn status(root: &Root) -> Result<serde_json::Value> {
    AGENT.status(root)
}
