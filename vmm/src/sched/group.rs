//! A control group of a machine's own: made with it, divided, and removed after it.
//!
//! A group that vmm makes has a mark. One with the mark and without a process is what
//! a killed vmm left behind: the next machine that wants the place takes it away. Any
//! other group that is there already is somebody's, and the machine is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde::{Deserialize, Serialize};

use vmfirst_host::act::{Cgroup, mount_point};

use super::{CpuMax, CpuWeight, Threads};
use crate::sandbox::Use;
use crate::{Error, Result};

/// The extended attribute that says who made a group.
const MARK: &str = "user.vmfirst.vmm";
/// How often a group is looked at before the processes in it are taken for alive.
const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// How a machine's threads are divided into groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// All threads in one group
    #[default]
    Vm,
    /// In it, a group for each vCPU and one called helpers
    Vcpu,
}

/// A machine's group. When it is dropped this process goes back to where it was, and
/// the group is removed.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    before: PathBuf,
    layout: Layout,
    /// Whether another process removes it.
    left: bool,
}

impl Group {
    /// Makes the group and moves this process into it. `path` is below the mount point
    /// of cgroup v2 or begins with that; its parent must be there.
    pub fn new(path: &Path, layout: Layout) -> Result<Self> {
        Self::make(Self::resolve(path)?, own_group(&mount_point()?)?, layout)
    }

    /// Where the group called `path` is in the file system.
    pub fn resolve(path: &Path) -> Result<PathBuf> {
        Ok(Cgroup::named(path)?.path().into())
    }

    /// Removes what a machine left that has ended; returns whether nothing of it is there.
    pub fn tidy(path: &Path) -> bool {
        take_left_over(path, 1);
        !path.exists()
    }

    /// Removes a group that a machine was about to make when it was killed: it may not
    /// have come to mark it.
    pub fn take_recorded(path: &Path) {
        if Self::resolve(path).is_ok_and(|resolved| resolved == path) {
            take_empty(path, LOOKS);
        }
    }

    /// Leaves it to another process to remove the group when this one has ended.
    pub fn leave(&mut self) {
        self.left = true;
    }

    fn make(path: PathBuf, before: PathBuf, layout: Layout) -> Result<Self> {
        if path.parent().is_none_or(|parent| !parent.is_dir()) {
            return Err(Error::Refused(format!(
                "control group {} cannot be made: the group above is not there; mkdir it first",
                path.display()
            )));
        }
        take_left_over(&path, LOOKS);
        fs::create_dir(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Busy(format!(
                "control group {} is there already and is not this machine's: choose \
                 another, or rmdir it",
                path.display()
            )),
            _ => Error::file("make", "control group", &path)(error),
        })?;
        let group = Self {
            path,
            before,
            layout,
            left: false,
        };
        // Without the mark (a file system without attributes) only cleaning up is lost.
        let _ = setxattr(&group.path, MARK, b"1", XattrFlags::empty());
        group.enable_cpu();
        let own = std::process::id().to_string();
        group.cgroup().write("cgroup.procs", &own)?;
        Ok(group)
    }

    /// Lets the CPU controller work in the group, where there is one.
    fn enable_cpu(&self) {
        let Some(parent) = self.path.parent() else {
            return;
        };
        let has = |file: &str| {
            let text = fs::read_to_string(parent.join(file)).unwrap_or_default();
            text.split_whitespace().any(|c| c == "cpu")
        };
        let enabled = has("cgroup.subtree_control")
            || has("cgroup.controllers")
                && fs::write(parent.join("cgroup.subtree_control"), "+cpu").is_ok();
        if !enabled {
            log::warn!(
                "control group {} has no CPU controller: it groups, and shares out nothing",
                self.path.display()
            );
        }
    }

    /// Moves threads to where the layout has them.
    pub fn divide(&self, threads: &Threads) -> Result<()> {
        if self.layout == Layout::Vm {
            let cgroup = self.cgroup();
            return Ok(threads.all().try_for_each(|tid| cgroup.check(tid))?);
        }
        let vcpus = (0..).zip(&threads.vcpus);
        let mut places: Vec<_> = vcpus.map(|(n, &tid)| (format!("vcpu{n}"), tid)).collect();
        places.extend(threads.helpers().map(|tid| ("helpers".into(), tid)));
        for (name, _) in &places {
            let folder = self.path.join(name);
            if !folder.exists() {
                fs::create_dir(&folder).map_err(Error::file("make", "control group", &folder))?;
                Cgroup::at(&folder).write("cgroup.type", "threaded")?;
            }
        }
        // Only now: beside processes it may be enabled only where groups are threaded.
        if self.controlled() {
            self.cgroup().write("cgroup.subtree_control", "+cpu")?;
        }
        for (name, tid) in places {
            Cgroup::at(self.path.join(name)).add_thread(tid)?;
        }
        Ok(())
    }

    fn controlled(&self) -> bool {
        let controllers = fs::read_to_string(self.path.join("cgroup.controllers"));
        controllers.is_ok_and(|c| c.split_whitespace().any(|c| c == "cpu"))
    }

    /// Sets the group's share and reads it back.
    pub fn set_weight(&self, weight: CpuWeight) -> Result<()> {
        Ok(self.cgroup().set_weight(weight)?)
    }

    /// Sets the group's limit and reads it back.
    pub fn set_max(&self, max: CpuMax) -> Result<()> {
        Ok(self.cgroup().set_max(max)?)
    }

    fn cgroup(&self) -> Cgroup {
        Cgroup::at(&self.path)
    }

    /// What is written and removed when it is left, by path.
    pub fn left_by(&self) -> [(PathBuf, Use); 3] {
        let above = self.path.parent().unwrap_or(&self.path);
        [
            (self.before.join("cgroup.procs"), Use::WriteFile),
            (self.path.clone(), Use::Change),
            (above.into(), Use::RemoveFolders),
        ]
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is divided.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let left = Cgroup::at(&self.before).write("cgroup.procs", &std::process::id().to_string());
        let left = left.map_err(Error::from).and_then(|()| {
            remove_soon(&self.path).map_err(Error::file("remove", "control group", &self.path))
        });
        if let Err(error) = left {
            log::warn!(
                "control group {} stays: {error}; the next machine that is to use it removes it",
                self.path.display()
            );
        }
    }
}

/// Removes what a killed vmm left at `path`.
fn take_left_over(path: &Path, looks: u32) {
    let mut mark = [0; 8];
    if getxattr(path, MARK, &mut mark).is_ok() {
        take_empty(path, looks);
    }
}

/// Removes a group in which no process is. One that was just killed is looked for again:
/// its threads end one after the other.
fn take_empty(path: &Path, looks: u32) {
    for look in 0..looks {
        let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        if !events.lines().any(|line| line == "populated 1") {
            // If it fails, making the group says why.
            let _ = remove(path);
            return;
        }
        if look + 1 < looks {
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}

/// Removes a group of threads that have ended. The last ones may still be on their way
/// out, though they were waited for: the kernel says that they did before they left.
fn remove_soon(path: &Path) -> io::Result<()> {
    for _ in 1..LOOKS {
        match remove(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(BETWEEN_LOOKS);
            }
            removed => return removed,
        }
    }
    remove(path)
}

/// Removes a group and those in it. One with a process in it stays.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The group that this process is in.
fn own_group(root: &Path) -> Result<PathBuf> {
    let path = Path::new("/proc/self/cgroup");
    let text = fs::read_to_string(path).map_err(Error::file("read", "file", path))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(root.join(own.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_somebody_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let theirs = root.path().join("web");
        fs::create_dir(&theirs).unwrap();
        let made = Group::make(theirs.clone(), root.path().into(), Layout::Vm);
        assert!(made.unwrap_err().to_string().contains("there already"));
        assert!(theirs.exists());
        let made = Group::make(root.path().join("no/web"), root.path().into(), Layout::Vm);
        assert!(made.unwrap_err().to_string().contains("mkdir"));
    }
}
