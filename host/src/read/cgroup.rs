//! Control groups' files: Documentation/admin-guide/cgroup-v2.rst.

use std::io;
use std::path::PathBuf;

use procfs_core::process::{MountInfo, MountInfos};
use procfs_core::{CpuPressure, FromRead};

use super::{Root, flat};

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

impl Root {
    /// The control groups' hierarchies.
    pub fn hierarchy(&self) -> io::Result<Hierarchy> {
        let mounts = std::fs::File::open(self.path("proc/self/mountinfo"))?;
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

    /// What the group at `path` was held off by its limit.
    pub fn throttling(&self, path: &str) -> io::Result<Throttling> {
        let text = self.text(&format!("{path}/cpu.stat"))?;
        let get = |key| flat(&text, key).unwrap_or_default();
        Ok(Throttling {
            usage_usec: get("usage_usec"),
            nr_periods: get("nr_periods"),
            nr_throttled: get("nr_throttled"),
            throttled_usec: get("throttled_usec"),
        })
    }

    /// The processes of the group at `path` and of those in it.
    pub fn processes_below(&self, path: &str) -> io::Result<Vec<i32>> {
        let mut folders: Vec<PathBuf> = vec![self.path(path)];
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
