//! What is kept of each group that somebody read of: the last figures, the ledger of its CPUs,
//! its load averages.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use super::boundary::Boundaries;
use super::group::{Count, Disk, Memory, Place};
use super::host::{self, HostMemory};
use super::ledger::Ledger;
use super::load::{self, Load};
use super::render::{self, Cpus};
use super::tree::Made;
use super::triggers::Wish;
use crate::Error;
use crate::read::{Root, uptime};

/// Figures that are younger are told again: a tick, by which no answer is wrong.
const YOUNG: Duration = Duration::from_millis(10);
/// The host's /proc/cpuinfo interrupts each CPU to ask for its clock.
const CPUINFO_YOUNG: Duration = Duration::from_secs(1);
/// While somebody else reads new figures of the same group, these are still told.
const OLD: Duration = Duration::from_secs(1);
/// Groups of which something is kept.
const MOST_GROUPS: usize = 4096;
/// Load averages are kept up for so long after somebody asked for them.
const WATCHED: Duration = Duration::from_secs(600);

/// All groups that somebody read of.
#[derive(Debug)]
pub struct Machines {
    root: Root,
    mount: String,
    boundaries: Boundaries,
    count: Count,
    groups: Mutex<HashMap<String, Arc<Machine>>>,
    memory: Fresh<(), HostMemory>,
    cpuinfo: Fresh<(), Vec<(u16, String)>>,
}

/// A group.
#[derive(Debug)]
pub struct Machine {
    /// Its path below cgroup v2's mount point.
    pub name: Arc<str>,
    place: Place,
    /// Two groups of one name, one after the other, differ in this.
    inode: u64,
    /// When it was made, by the clock since the host's start and in s since 1970.
    born: (Duration, u64),
    used: Mutex<Instant>,
    cpus: Fresh<Ledger, Cpus>,
    memory: Fresh<(), Memory>,
    disks: Fresh<(), Vec<Disk>>,
    load: Mutex<Watched>,
}

/// Load averages of a group.
#[derive(Debug, Default)]
struct Watched {
    load: Option<(Instant, Load)>,
    asked: Option<Instant>,
}

impl Machines {
    /// For the groups in a tree of files. None are kept yet.
    ///
    /// # Errors
    /// When the host has no cgroup v2.
    pub fn new(root: Root, boundaries: Boundaries, count: Count) -> crate::Result<Self> {
        let hierarchy = root.hierarchy();
        let mount = hierarchy.ok().and_then(|hierarchy| hierarchy.v2);
        let mount = mount.ok_or(Error::Lacking {
            what: "control groups of version 2 mounted".into(),
            instead: "boot with systemd.unified_cgroup_hierarchy=1",
        })?;
        Ok(Self {
            root,
            mount,
            boundaries,
            count,
            groups: Mutex::default(),
            memory: Fresh::default(),
            cpuinfo: Fresh::default(),
        })
    }

    /// The machine that a process or thread sees; none when that is the host.
    pub fn of(&self, id: i32) -> io::Result<Option<Arc<Machine>>> {
        let group = self.boundaries.of(&self.root, &self.mount, id)?;
        group.map(|group| self.machine(group)).transpose()
    }

    fn machine(&self, group: String) -> io::Result<Arc<Machine>> {
        let place = Place {
            root: self.root.clone(),
            mount: self.mount.clone(),
            group,
        };
        let folder = fs::metadata(place.folder())?;
        let mut groups = lock(&self.groups);
        if let Some(machine) = groups.get(&place.group)
            && machine.inode == folder.ino()
        {
            *lock(&machine.used) = Instant::now();
            return Ok(machine.clone());
        }
        if groups.len() >= MOST_GROUPS {
            let oldest = groups
                .iter()
                .min_by_key(|(_, machine)| *lock(&machine.used));
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.and_then(|name| groups.remove(&name));
        }
        let machine = Arc::new(Machine::new(place, &folder));
        groups.insert(machine.place.group.clone(), machine.clone());
        Ok(machine)
    }

    /// A file as the machine has it.
    pub fn text(&self, machine: &Machine, made: Made) -> io::Result<String> {
        Ok(match made {
            Made::Cpuinfo => {
                let host = self
                    .cpuinfo
                    .get(CPUINFO_YOUNG, |()| host::cpuinfo(&self.root))?;
                render::cpuinfo(&host, &machine.place.cpus(self.count)?)
            }
            Made::Cpus => format!("{}\n", machine.place.cpus(self.count)?),
            Made::Stat => {
                let (cpus, load) = (self.cpus(machine)?, self.load(machine)?);
                render::stat(&cpus, &load)
            }
            Made::Uptime => {
                let cpus = self.cpus(machine)?;
                render::uptime(&cpus)
            }
            Made::Loadavg => render::loadavg(&self.load(machine)?),
            Made::Meminfo => {
                let (host, memory) = (self.host_memory()?, machine.memory()?);
                render::meminfo(&host, &memory)
            }
            Made::Swaps => {
                let (host, memory) = (self.host_memory()?, machine.memory()?);
                render::swaps(&host, &memory)
            }
            Made::Vmstat => {
                let (host, memory) = (self.host_memory()?, machine.memory()?);
                render::vmstat(&host, &memory, &machine.disks()?)
            }
            Made::Diskstats => render::diskstats(&machine.disks()?),
            Made::Pressure(name) => machine.place.own(name)? + "\n",
        })
    }

    /// The CPUs that a machine has.
    pub fn visible(&self, machine: &Machine) -> io::Result<crate::act::CpuList> {
        machine.place.cpus(self.count)
    }

    /// A file of the host.
    pub fn host_text(&self, path: &str) -> io::Result<String> {
        Ok(self.root.text(path)? + "\n")
    }

    /// Where a file of the host is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path(path)
    }

    /// Whether the kernel lets a process have such a trigger.
    pub fn lets(&self, id: u32, wish: Wish<'_>) -> bool {
        wish.is_for(&self.root, id)
    }

    /// Whether the host has a file that the reader might look for.
    pub fn has(&self, path: &str) -> bool {
        self.root.path(path).exists()
    }

    fn host_memory(&self) -> io::Result<Arc<HostMemory>> {
        self.memory.get(YOUNG, |()| HostMemory::read(&self.root))
    }

    fn cpus(&self, machine: &Machine) -> io::Result<Arc<Cpus>> {
        machine.cpus.get(YOUNG, |ledger| {
            let list = machine.place.cpus(self.count)?;
            let age = uptime().saturating_sub(machine.born.0);
            let mut totals = machine.place.times()?;
            totals.age_usec = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
            ledger.look(&list.cpus().collect::<Vec<_>>(), totals);
            Ok(Cpus {
                each: list.cpus().map(|cpu| (cpu, ledger.cpu(cpu))).collect(),
                all: ledger.all(),
                age,
                born: machine.born.1,
            })
        })
    }

    /// The load averages; the first who asks looks at the tasks, later a thread does.
    fn load(&self, machine: &Machine) -> io::Result<Load> {
        let mut watched = lock(&machine.load);
        watched.asked = Some(Instant::now());
        if let Some((_, load)) = watched.load {
            return Ok(load);
        }
        let now = load::sample(&self.root, &machine.place.folder())?;
        let load = Load::first(now);
        watched.load = Some((Instant::now(), load));
        Ok(load)
    }

    /// What is to be done every [`load::EVERY`]: samples of groups that somebody watches,
    /// forgetting those that have ended, and figures that nobody asked for.
    pub fn tend(&self) {
        let machines: Vec<_> = lock(&self.groups).values().cloned().collect();
        for machine in machines {
            machine.memory.drop_old();
            machine.disks.drop_old();
            let folder = fs::metadata(machine.place.folder());
            if !folder.is_ok_and(|folder| folder.ino() == machine.inode) {
                let mut groups = lock(&self.groups);
                // One of the same name may be there by now.
                groups.retain(|_, kept| !Arc::ptr_eq(kept, &machine));
                continue;
            }
            machine.watch(&self.root);
        }
    }
}

impl Machine {
    fn new(place: Place, folder: &fs::Metadata) -> Self {
        // The kernel keeps no time of birth: the oldest of the folder's times is the nearest.
        let times = [
            (folder.atime(), folder.atime_nsec()),
            (folder.mtime(), folder.mtime_nsec()),
            (folder.ctime(), folder.ctime_nsec()),
        ];
        let (seconds, ns) = times.into_iter().min().unwrap_or_default();
        let born = Duration::new(
            seconds.try_into().unwrap_or_default(),
            ns.try_into().unwrap_or_default(),
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let age = now.unwrap_or_default().saturating_sub(born);
        Self {
            name: place.group.as_str().into(),
            place,
            inode: folder.ino(),
            born: (uptime().saturating_sub(age), born.as_secs()),
            used: Mutex::new(Instant::now()),
            cpus: Fresh::default(),
            memory: Fresh::default(),
            disks: Fresh::default(),
            load: Mutex::default(),
        }
    }

    /// Where a file of the group is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.folder().join(name)
    }

    fn memory(&self) -> io::Result<Arc<Memory>> {
        self.memory.get(YOUNG, |()| Ok(self.place.memory()))
    }

    fn disks(&self) -> io::Result<Arc<Vec<Disk>>> {
        self.disks.get(YOUNG, |()| Ok(self.place.disks()))
    }

    /// Takes a sample of a group that somebody watches. Nobody waits for it: the averages are
    /// locked only to be read and changed.
    fn watch(&self, root: &Root) {
        let mut watched = lock(&self.load);
        let asked = watched.asked.is_some_and(|asked| asked.elapsed() < WATCHED);
        let Some((last, load)) = watched.load.filter(|_| asked) else {
            watched.load = None;
            return;
        };
        drop(watched);
        if let Ok(sample) = load::sample(root, &self.place.folder()) {
            let load = load.after(last.elapsed(), sample);
            lock(&self.load).load = Some((Instant::now(), load));
        }
    }
}

/// The last figures, and what it takes to make new ones.
#[derive(Debug)]
struct Fresh<W, T> {
    work: Mutex<W>,
    last: Mutex<Option<(Instant, Arc<T>)>>,
}

impl<W: Default, T> Default for Fresh<W, T> {
    fn default() -> Self {
        Self {
            work: Mutex::default(),
            last: Mutex::new(None),
        }
    }
}

impl<W, T> Fresh<W, T> {
    /// Figures that are younger than `young`, or new ones. While somebody else makes new ones
    /// nobody waits who can have the last.
    fn get(
        &self,
        young: Duration,
        make: impl FnOnce(&mut W) -> io::Result<T>,
    ) -> io::Result<Arc<T>> {
        if let Some(last) = self.younger(young) {
            return Ok(last);
        }
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => match self.younger(OLD) {
                Some(last) => return Ok(last),
                None => lock(&self.work),
            },
        };
        if let Some(last) = self.younger(young) {
            return Ok(last);
        }
        let made = Arc::new(make(&mut work)?);
        *lock(&self.last) = Some((Instant::now(), made.clone()));
        Ok(made)
    }

    fn younger(&self, than: Duration) -> Option<Arc<T>> {
        let last = lock(&self.last);
        let young = last.as_ref().filter(|(when, _)| when.elapsed() < than);
        young.map(|(_, last)| last.clone())
    }

    fn drop_old(&self) {
        let mut last = lock(&self.last);
        last.take_if(|(when, _)| when.elapsed() > OLD);
    }
}

/// What a thread had locked that panicked is used on: the next look corrects it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
