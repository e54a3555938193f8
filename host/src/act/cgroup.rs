//! A control group (cgroup v2) that is there: Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::{CpuMax, CpuWeight, Tid};
use crate::{Error, Result};

const RIGHT: &str = "; it takes root, or a group that was delegated to this user";

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// The group in the file system at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The group called `path`: below the mount point of cgroup v2, or with that in front.
    ///
    /// # Errors
    /// [`Error::Usage`] when that leads out of there, [`Error::Unavailable`] when cgroup v2
    /// isn't mounted.
    pub fn named(path: &Path) -> Result<Self> {
        let root = mount_point()?;
        let below = path.strip_prefix(&root).unwrap_or(path);
        let below = below.strip_prefix("/").unwrap_or(below);
        let ordinary = |c: Component| matches!(c, Component::Normal(_));
        if below.as_os_str().is_empty() || !below.components().all(ordinary) {
            return Err(Error::Usage(format!(
                "control group {}: give a path below {}, such as machines/web",
                path.display(),
                root.display()
            )));
        }
        Ok(Self(root.join(below)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file's content without the line's end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the group has no such file, [`Error::Gone`] when there is no group.
    pub fn get(&self, file: &str) -> Result<String> {
        let text = fs::read_to_string(self.0.join(file));
        let text = text.map_err(|source| self.failed("read", file, source))?;
        Ok(text.trim_end().to_string())
    }

    /// Writes to a file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let write = || -> io::Result<()> {
            // One that is there: a confined thread makes none.
            let mut file = OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(self.0.join(file))?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|source| self.failed("write", file, source))
    }

    /// Sets a weight or limit, and reads it back.
    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        self.get(file)?;
        self.write(file, value)?;
        let found = self.get(file)?;
        if !same(file, value, &found) {
            return Err(Error::Differs {
                what: self.0.join(file).display().to_string(),
                asked: value.into(),
                found,
            });
        }
        Ok(())
    }

    /// Sets the group's share and reads it back.
    pub fn set_weight(&self, weight: CpuWeight) -> Result<()> {
        self.set("cpu.weight", &weight.to_string())
    }

    /// Sets the group's limit and reads it back.
    pub fn set_max(&self, max: CpuMax) -> Result<()> {
        self.set("cpu.max", &max.kernel())
    }

    /// Moves a thread here, from another group of the same domain, and sees that it is here.
    pub fn add_thread(&self, tid: Tid) -> Result<()> {
        self.write("cgroup.threads", &tid.to_string())?;
        self.check(tid)
    }

    /// Moves a process with all its threads here, and sees that it is here.
    pub fn add_process(&self, pid: Tid) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())?;
        self.check(pid)
    }

    /// Sees that a thread is in the group.
    pub fn check(&self, tid: Tid) -> Result<()> {
        let threads = self.get("cgroup.threads")?;
        if threads.lines().any(|line| line == tid.to_string()) {
            return Ok(());
        }
        Err(Error::Differs {
            what: format!("the control group of thread {tid}"),
            asked: self.0.display().to_string(),
            found: "another".into(),
        })
    }

    fn failed(&self, action: &str, file: &str, source: io::Error) -> Error {
        let path = self.0.join(file);
        let gone = || Error::Gone(format!("control group {}", self.0.display()));
        match source.raw_os_error() {
            Some(libc::ENODEV) => gone(),
            Some(libc::ENOENT) if !self.0.exists() => gone(),
            Some(libc::ENOENT) => Error::Unavailable(format!(
                "control group {} has no {file}: its controller is not enabled there (is it in \
                 cgroup.controllers of the group above? cgroup v1 may have it)",
                self.0.display()
            )),
            Some(libc::ESRCH) => Error::Gone("a thread that was to be moved".into()),
            Some(libc::EROFS) => Error::Refused {
                what: format!("{action} {}", path.display()),
                source,
                hint: "; control groups are mounted read-only here: run it on the host, not in \
                       a container",
            },
            _ => Error::refused(action, path.display().to_string(), source, RIGHT),
        }
    }
}

/// What the kernel rounds memory down to, in bytes.
const PAGE: u64 = 4096;

/// Whether the kernel has what it was given: it rounds memory down to pages, and puts a
/// period behind a quota.
pub(crate) fn same(file: &str, asked: &str, found: &str) -> bool {
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(Into::into).collect() };
    let (asked, found) = (words(asked), words(found));
    let number = |words: &[String]| words.first().and_then(|w| w.parse::<u64>().ok());
    match file.split_once('.') {
        Some(("memory", what)) if what != "oom.group" => match (number(&asked), number(&found)) {
            (Some(asked), Some(found)) => asked - asked % PAGE == found,
            _ => asked == found,
        },
        Some(("cpu", "max")) if asked.len() == 1 => asked.first() == found.first(),
        Some(("cpu", "uclamp.min" | "uclamp.max")) => {
            let percent = |words: &[String]| words.first().and_then(|w| w.parse::<f64>().ok());
            match (percent(&asked), percent(&found)) {
                (Some(asked), Some(found)) => (asked - found).abs() < 0.01,
                _ => asked == found,
            }
        }
        Some(("io", "weight")) if asked.len() == 1 => {
            found == [vec!["default".into()], asked].concat()
        }
        _ => asked == found,
    }
}

/// Where cgroup v2 is mounted.
///
/// # Errors
/// [`Error::Unavailable`] when it is not.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|source| Error::refused("read", "/proc/self/mountinfo", source, ""))?;
    let found = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4))?
    });
    found.map(PathBuf::from).ok_or_else(|| {
        Error::Unavailable(
            "control groups need cgroup v2, which is not mounted: mount -t cgroup2 none \
             /sys/fs/cgroup"
                .into(),
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder with these files, as a group.
    pub(crate) fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(root.path().join(file), text).unwrap();
        }
        let group = Cgroup::at(root.path());
        (root, group)
    }

    /// The files are there before, as the kernel makes them with the group.
    #[test]
    fn what_is_set_is_read_back() {
        let (root, cgroup) = group(&[]);
        let weight = "250".parse().unwrap();
        let none = cgroup.set_weight(weight).unwrap_err().to_string();
        assert!(none.contains("no cpu.weight"), "{none}");
        let (_root, cgroup) = group(&[("cpu.weight", "")]);
        cgroup.set_weight(weight).unwrap();
        assert_eq!(cgroup.get("cpu.weight").unwrap(), "250");
        // A file that forgets what is written to it.
        std::os::unix::fs::symlink("/dev/null", root.path().join("cpu.max")).unwrap();
        let forgets = Cgroup::at(root.path());
        let wrong = forgets.set_max("50%".parse().unwrap()).unwrap_err();
        let wrong = wrong.to_string();
        assert!(wrong.contains("was set to 50000 100000 and has"), "{wrong}");
    }

    #[test]
    fn a_group_that_is_gone_is_told_from_a_file_that_never_was() {
        let (root, cgroup) = group(&[]);
        assert!(matches!(cgroup.get("cpu.max"), Err(Error::Unavailable(_))));
        drop(root);
        assert!(cgroup.get("cpu.max").unwrap_err().is_gone());
    }

    #[test]
    fn the_kernels_forms_of_a_value_are_the_same() {
        for (file, asked, found, equal) in [
            ("cpu.max", "max", "max 100000", true),
            ("cpu.max", "50000 100000", "50000 100000", true),
            ("cpu.max", "50000", "60000 100000", false),
            ("memory.max", "10000", "8192", true),
            ("memory.max", "max", "max", true),
            ("memory.max", "10000", "max", false),
            ("memory.low", "10000", "4096", false),
            ("memory.oom.group", "1", "0", false),
            ("cpu.uclamp.max", "50", "50.00", true),
            ("io.weight", "50", "default 50", true),
            ("cpu.weight", "50", "100", false),
        ] {
            assert_eq!(same(file, asked, found), equal, "{file} {asked} {found}");
        }
    }
}
