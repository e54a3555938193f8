//! The agent at work.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::config::Config;
use super::keeper::{Keeper, save};
use super::plan::{Disk, GroupStatus, Plan};
use super::reclaim::Reclaimer;
use super::requirements::{Requirement, missed};
use super::ring::Ring;
use super::tree::Tree;
use crate::read::Root;
use crate::{Error, Result};

const JOURNAL: &str = "run/vmfirst/agent.json";
const LOCK: &str = "run/vmfirst/agent.lock";
/// What `vmfirst agent --status` reads.
const STATUS: &str = "run/vmfirst/agent-status.json";
const AUDIT: &str = "var/log/vmfirst/audit.jsonl";

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
    /// What was not believed or not looked at.
    pub notes: &'a [String],
}

/// The agent of a host.
#[derive(Debug)]
pub struct Service {
    root: Root,
    base: PathBuf,
    config: Config,
    keeper: Keeper,
    reclaimer: Reclaimer,
}

impl Service {
    /// For a host with cgroup v2; takes up what a killed agent left.
    pub fn new(root: Root, config: Config) -> Result<Self> {
        let base = base(&root)?;
        let audit = Ring::new(root.path(AUDIT), config.agent.audit_kib << 10);
        let keeper = Keeper::open(&base, root.path(JOURNAL), audit)?;
        Ok(Self {
            root,
            base,
            config,
            keeper,
            reclaimer: Reclaimer::default(),
        })
    }

    /// Has another configuration hold from the next look on.
    pub fn reload(&mut self, config: Config) {
        self.keeper.forgive();
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
    pub fn step(&mut self, interval: Duration) -> Result<()> {
        let (tree, mut plan) = self.scan()?;
        let done = self.keeper.keep_to(&plan.wishes)?;
        plan.done(done);
        let interval_us = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        let (root, config) = (&self.root, &self.config);
        for wish in self.reclaimer.step(root, &tree, config, interval_us) {
            // Less than was asked for is what there was: the kernel calls that an error.
            let _ = self.keeper.command(&wish);
        }
        self.tell(&tree, &plan)
    }

    fn tell(&self, tree: &Tree, plan: &Plan) -> Result<()> {
        let status = Status {
            pid: std::process::id(),
            interval_ms: self.config.agent.interval_ms,
            missed: &missed(&self.root, &self.base),
            groups: &plan.groups,
            changed: self.keeper.changed(),
            audit_lost: self.keeper.audit_lost(),
            notes: &tree.notes,
        };
        let refused = |source| Error::refused("write", format!("/{STATUS}"), source, "");
        save(&self.root.path(STATUS), &status).map_err(refused)
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
        let _ = std::fs::remove_file(self.root.path(STATUS));
        self.keeper.restore(why)
    }
}

/// Where cgroup v2 is.
fn base(root: &Root) -> Result<PathBuf> {
    let hierarchy = root.hierarchy();
    let hierarchy =
        hierarchy.map_err(|source| Error::refused("read", "/proc/self/mountinfo", source, ""))?;
    match hierarchy.v2 {
        Some(mount) => Ok(root.path(&mount)),
        None => Err(Error::Unavailable(
            "vmfirst agent needs cgroup v2, which is not mounted: boot with \
             systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup"
                .into(),
        )),
    }
}

/// The configuration's disks, by number.
fn disks(root: &Root, config: &Config) -> Vec<Disk> {
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

/// The only agent of a host: another one finds the lock held, and this one is the last to
/// forget it.
fn lock(root: &Root) -> Result<File> {
    let path = root.path(LOCK);
    let refused = |source: io::Error| Error::refused("write", format!("/{LOCK}"), source, RIGHT);
    std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(refused)?;
    let file = File::create(&path).map_err(refused)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Unavailable(
            "vmfirst agent runs already: systemctl reload vmfirst-agent has it read its \
             configuration anew"
                .into(),
        )),
        Err(error) => Err(refused(error.into())),
    }
}

const RIGHT: &str = "; it takes root";

/// Signals: which came, and a file that can be read when one has.
struct Signals {
    wake: UnixStream,
    reload: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let signals = Self {
            wake,
            reload: Arc::default(),
            end: Arc::default(),
        };
        for (signal, flag) in [
            (SIGHUP, &signals.reload),
            (SIGINT, &signals.end),
            (SIGTERM, &signals.end),
        ] {
            // The flag first: who is woken finds it.
            signal_hook::flag::register(signal, flag.clone())?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Waits until a signal comes or the time is over.
    fn wait(&mut self, most: Duration) {
        let mut files = [PollFd::new(&self.wake, PollFlags::IN)];
        let most = Timespec::try_from(most).ok();
        // Interrupted by a signal, it has come.
        let _ = poll(&mut files, most.as_ref());
        let mut bytes = [0; 64];
        while self.wake.read(&mut bytes).is_ok_and(|count| count > 0) {}
    }
}

/// Runs until SIGTERM or SIGINT; SIGHUP has the configuration read again. `warn` has a line
/// for the operator.
pub fn run(root: &Root, folder: &Path, warn: impl Fn(&str)) -> Result<()> {
    let config = Config::read(folder)?;
    let _lock = lock(root)?;
    let refused = |source| Error::refused("watch for", "signals", source, "");
    let mut signals = Signals::new().map_err(refused)?;
    let mut service = Service::new(root.clone(), config)?;
    let mut last = Instant::now();
    let mut failed = String::new();
    while !signals.end.load(Ordering::Relaxed) {
        if signals.reload.swap(false, Ordering::Relaxed) {
            match Config::read(folder) {
                Ok(config) => service.reload(config),
                Err(error) => warn(&format!("{error}; the configuration from before holds")),
            }
        }
        let passed = last.elapsed();
        last = Instant::now();
        let said = match service.step(passed) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        // The same trouble each second is told once.
        if said != failed && !said.is_empty() {
            warn(&said);
        }
        failed = said;
        let interval = Duration::from_millis(service.config.agent.interval_ms);
        signals.wait(interval.saturating_sub(last.elapsed()));
    }
    service.restore("the agent ends").map(drop)
}

/// Puts back what a killed agent left; returns how much that was.
pub fn restore(root: &Root) -> Result<usize> {
    let _lock = lock(root)?;
    Service::new(root.clone(), Config::default())?.restore("asked for by --restore")
}

/// What the agent that runs has told, as it wrote it.
///
/// # Errors
/// [`Error::Unavailable`] when none runs.
pub fn status(root: &Root) -> Result<serde_json::Value> {
    let none =
        || Error::Unavailable("vmfirst agent doesn't run: systemctl start vmfirst-agent".into());
    let text = root.text(STATUS).map_err(|_| none())?;
    let status: serde_json::Value = serde_json::from_str(&text).map_err(|_| none())?;
    // A killed one leaves its file and no process that has the lock.
    let held = File::open(root.path(LOCK)).map_err(|_| none())?;
    match flock(&held, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Err(none()),
        Err(_) => Ok(status),
    }
}
