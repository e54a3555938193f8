//! Control groups' files: Documentation/admin-guide/cgroup-v2.rst.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use procfs_core::process::{MountInfo, MountInfos};
use procfs_core::{CpuPressure, FromRead};

use super::{Kept, Root};

/// Which hierarchies a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where cgroup v2 is mounted.
    pub v2: Option<String>,
    /// Whether nothing may be written there.
    pub read_only: bool,
    /// Whether v2 has the CPU controller.
    pub cpu: bool,
    /// Whether controllers are on cgroup v1.
    pub v1: bool,
}

/// What cpu.stat tells of the limit cpu.max.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Time that the group's threads ran, in us.
    pub usage_usec: u64,
    /// Periods in which the group could run.
    pub nr_periods: u64,
    /// Periods in which it ran out of its quota.
    pub nr_throttled: u64,
    /// Time that its runqueues were held off, in us, all CPUs together.
    pub throttled_usec: u64,
}

/// Pressure stall information since the host's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Time that some task waited, in us.
    pub some_usec: u64,
}

impl Throttling {
    /// Adds another group's.
    fn add(&mut self, other: Self) {
        self.usage_usec += other.usage_usec;
        self.nr_periods += other.nr_periods;
        self.nr_throttled += other.nr_throttled;
        self.throttled_usec += other.throttled_usec;
    }
}

/// Reads what the limits of a VM's groups did to it, again and again.
#[derive(Debug, Default)]
pub struct Limits(Vec<Kept>);

impl Limits {
    /// For the groups at these paths, of which those count that have a limit, or had one:
    /// for the others there is nothing to read. libvirt's limits of vCPUs are in groups below
    /// the VM's.
    pub fn new(root: &Root, groups: impl IntoIterator<Item = String>) -> Self {
        let limited = |path: &String| {
            let now = root.text(&format!("{path}/cpu.max"));
            now.is_ok_and(|max| !max.starts_with("max"))
        };
        let open = |path: String| {
            let file = File::open(root.path(&format!("{path}/cpu.stat"))).ok()?;
            let file = Kept::new(file);
            let before = read(&file).ok()?;
            (before.nr_periods > 0 || limited(&path)).then_some(file)
        };
        Self(groups.into_iter().filter_map(open).collect())
    }

    /// How many groups have one.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What they did since the groups' start; none without a limit.
    pub fn read(&self) -> Option<Throttling> {
        let each = self.0.iter().filter_map(|file| read(file).ok());
        each.reduce(|mut sum, more| {
            sum.add(more);
            sum
        })
    }
}

/// cpu.stat: what there is of the CPU controller comes first.
fn read(file: &Kept) -> io::Result<Throttling> {
    file.read::<_, 1024>(throttling)
}

fn throttling(text: &str) -> Throttling {
    let mut found = Throttling::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let field = match key {
            "usage_usec" => &mut found.usage_usec,
            "nr_periods" => &mut found.nr_periods,
            "nr_throttled" => &mut found.nr_throttled,
            "throttled_usec" => &mut found.throttled_usec,
            _ => continue,
        };
        *field = value.trim().parse().unwrap_or_default();
    }
    found
}

impl Root {
    /// The control groups' hierarchies.
    pub fn hierarchy(&self) -> io::Result<Hierarchy> {
        let mounts = File::open(self.path("proc/self/mountinfo"))?;
        let mounts = MountInfos::from_read(mounts).map_err(super::proc_error)?;
        let mount = mounts.0.iter().find(|mount| mount.fs_type == "cgroup2");
        let v2 = mount.map(|mount| mount.mount_point.to_string_lossy().into_owned());
        let controllers = v2
            .as_ref()
            .map(|at| self.text(&format!("{at}/cgroup.controllers")));
        let controllers = controllers.and_then(Result::ok).unwrap_or_default();
        // systemd's own hierarchy has a name, and no controller.
        let has_controller = |mount: &&MountInfo| !mount.super_options.contains_key("name");
        let mut v1 = mounts.0.iter().filter(|mount| mount.fs_type == "cgroup");
        Ok(Hierarchy {
            read_only: mount.is_some_and(|mount| mount.mount_options.contains_key("ro")),
            cpu: controllers.split(' ').any(|controller| controller == "cpu"),
            v1: v1.any(|mount| has_controller(&mount)),
            v2,
        })
    }

    /// The pressure on CPUs: of a group, or of the host.
    pub fn cpu_pressure(&self, group: Option<&str>) -> io::Result<Pressure> {
        let path = match group {
            Some(group) => format!("{group}/cpu.pressure"),
            None => "proc/pressure/cpu".into(),
        };
        let text = self.text(&path)?;
        let read = CpuPressure::from_read(text.as_bytes()).map_err(super::proc_error)?;
        Ok(Pressure {
            some_usec: read.some.total,
        })
    }

    /// The processes of the group in the file system at `path`, and of those in it.
    pub fn processes_below(&self, path: &Path) -> io::Result<Vec<i32>> {
        let mut folders: Vec<PathBuf> = vec![path.into()];
        let mut pids = Vec::new();
        while let Some(folder) = folders.pop() {
            // A threaded group has no list of processes: the one above lists them.
            let text = super::text(&folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let below = std::fs::read_dir(&folder)?.flatten();
            folders.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        Ok(pids)
    }
}
