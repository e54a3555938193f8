//! Readers of a group's files: limits of it and of the groups that it is in, memory, disks.

use std::collections::BTreeMap;
use std::io;

use super::boundary::innermost_first;
use super::ledger::Totals;
use crate::act::CpuList;
use crate::read::Root;

/// Whether a limit of CPU time hides CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Count {
    /// As many CPUs as the quota fills, at most those of the cpuset
    #[default]
    Quota,
    /// All CPUs of the cpuset
    Cpuset,
}

/// Where a group is: a root of files, cgroup v2's mount point and the group's path.
#[derive(Debug, Clone)]
pub struct Place {
    /// The root of all files.
    pub root: Root,
    /// Where cgroup v2 is mounted.
    pub mount: String,
    /// The group, below the mount point.
    pub group: String,
}

impl Place {
    /// The group's folder in the file system.
    pub fn folder(&self) -> std::path::PathBuf {
        self.root.path(&format!("{}{}", self.mount, self.group))
    }

    /// A file of a group.
    fn text(&self, group: &str, name: &str) -> Option<String> {
        let text = self.root.text(&format!("{}{group}/{name}", self.mount));
        text.ok()
    }

    /// A file of the group itself; it is an error when it has ended.
    pub fn own(&self, name: &str) -> io::Result<String> {
        self.root
            .text(&format!("{}{}/{name}", self.mount, self.group))
    }

    /// A file of this name in the group and in each that it is in, from inside outwards.
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        innermost_first(&self.group).filter_map(move |group| self.text(group, name))
    }

    /// The CPUs that the group may use and sees: as many of the cpuset's first as `count` says.
    pub fn cpus(&self, count: Count) -> io::Result<CpuList> {
        let file = "cpuset.cpus.effective";
        let here = self.all(file).chain(self.text("", file));
        let online = self.root.text("sys/devices/system/cpu/online");
        let list = here.chain(online).find_map(|text| text.parse().ok());
        let list: CpuList = list.ok_or(io::ErrorKind::InvalidData)?;
        let quota = match count {
            Count::Quota => self.all("cpu.max").filter_map(|text| filled(&text)).min(),
            Count::Cpuset => None,
        };
        Ok(list.first(quota.unwrap_or(usize::MAX)))
    }

    /// cpu.stat.
    pub fn times(&self) -> io::Result<Totals> {
        let keys = flat(&self.own("cpu.stat")?);
        let value = |key: &str| keys.get(key).copied().unwrap_or_default();
        Ok(Totals {
            user_usec: value("user_usec"),
            nice_usec: value("nice_usec"),
            system_usec: value("system_usec"),
            throttled_usec: value("throttled_usec"),
            age_usec: 0,
        })
    }

    /// What the group has of memory and swap.
    pub fn memory(&self) -> Memory {
        let own = |name: &str| flat(&self.text(&self.group, name).unwrap_or_default());
        let mut memory = Memory {
            used: limit(&self.text(&self.group, "memory.current").unwrap_or_default())
                .unwrap_or_default(),
            stat: own("memory.stat"),
            oom_kills: own("memory.events")
                .get("oom_kill")
                .copied()
                .unwrap_or_default(),
            ..Memory::default()
        };
        for group in innermost_first(&self.group) {
            let value = |name: &str| limit(&self.text(group, name).unwrap_or_default());
            let (most, high) = (value("memory.max"), value("memory.high"));
            let used = value("memory.current").unwrap_or_default();
            memory.room.take(most, most, used);
            memory.soft_room.take(most, most, used);
            memory.soft_room.take(most, high, used);
            let (swap, used) = (value("memory.swap.max"), value("memory.swap.current"));
            memory.swap.take(swap, swap, used.unwrap_or_default());
        }
        memory
    }

    /// io.stat, with the names of the disks.
    pub fn disks(&self) -> Vec<Disk> {
        let text = self.text(&self.group, "io.stat").unwrap_or_default();
        let disks = text.lines().filter_map(|line| {
            let mut disk = disk(line)?;
            let (major, minor) = disk.number;
            let uevent = self
                .root
                .text(&format!("sys/dev/block/{major}:{minor}/uevent"))
                .ok()?;
            let name = uevent
                .lines()
                .find_map(|line| line.strip_prefix("DEVNAME="))?;
            disk.name = name.to_string();
            Some(disk)
        });
        disks.collect()
    }
}

/// A limit, and what is left below it, the lowest of all groups, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The limit; the largest number without one.
    pub limit: u64,
    /// What is left.
    pub left: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            limit: u64::MAX,
            left: u64::MAX,
        }
    }
}

impl Room {
    /// Takes note of a group: its limit, up to where it may use, and what it uses.
    fn take(&mut self, limit: Option<u64>, until: Option<u64>, used: u64) {
        self.limit = self.limit.min(limit.unwrap_or(u64::MAX));
        if let Some(until) = until {
            self.left = self.left.min(until.saturating_sub(used));
        }
    }
}

/// What a group has of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// memory.current.
    pub used: u64,
    /// memory.max.
    pub room: Room,
    /// What is left before memory.high or memory.max.
    pub soft_room: Room,
    /// memory.swap.max.
    pub swap: Room,
    /// memory.stat, in bytes or events.
    pub stat: BTreeMap<String, u64>,
    /// Tasks that were killed for want of memory.
    pub oom_kills: u64,
}

/// What a group did to a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its major and minor number.
    pub number: (u32, u32),
    /// Its name below /dev.
    pub name: String,
    /// Requests and bytes: read, written, discarded.
    pub parts: [(u64, u64); 3],
}

/// The CPUs that a cpu.max fills, at least one; none without a limit.
fn filled(text: &str) -> Option<usize> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.trim().parse().ok()?);
    let cpus = quota
        .checked_add(period)?
        .checked_sub(1)?
        .checked_div(period)?;
    usize::try_from(cpus.max(1)).ok()
}

/// A limit in bytes; none for "max", or what is no number.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// "key value" in lines; others are left out.
fn flat(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let pairs =
        lines.filter_map(|(key, value)| Some((key.to_string(), value.trim().parse().ok()?)));
    pairs.collect()
}

/// A line of io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
fn disk(line: &str) -> Option<Disk> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut disk = Disk {
        number: (major.parse().ok()?, minor.parse().ok()?),
        ..Disk::default()
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let [read, written, discarded] = &mut disk.parts;
        let field = match key {
            "rios" => &mut read.0,
            "rbytes" => &mut read.1,
            "wios" => &mut written.0,
            "wbytes" => &mut written.1,
            "dios" => &mut discarded.0,
            "dbytes" => &mut discarded.1,
            _ => continue,
        };
        *field = value.parse().unwrap_or_default();
    }
    Some(disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quota_fills_whole_cpus() {
        for (text, cpus) in [
            ("150000 100000", Some(2)),
            ("100000 100000", Some(1)),
            ("1000 100000", Some(1)),
            ("max 100000", None),
            ("0 0", None),
            ("18446744073709551615 1", None),
            ("", None),
        ] {
            assert_eq!(filled(text), cpus, "{text}");
        }
    }

    #[test]
    fn a_line_of_io_stat_is_a_disk() {
        let found =
            disk("253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=7 new=x").unwrap();
        assert_eq!(found.number, (253, 0));
        assert_eq!(found.parts, [(1, 4096), (2, 8192), (7, 0)]);
        assert_eq!(disk("8:x rbytes=1"), None);
    }

    /// A tree of a group in a group, with these files of both.
    fn place(outer: &[(&str, &str)], inner: &[(&str, &str)]) -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("cg/a/b")).unwrap();
        for (group, files) in [("a", outer), ("a/b", inner)] {
            for (name, text) in files {
                std::fs::write(folder.path().join("cg").join(group).join(name), text).unwrap();
            }
        }
        let place = Place {
            root: Root::at(folder.path()),
            mount: "/cg".into(),
            group: "/a/b".into(),
        };
        (folder, place)
    }

    #[test]
    fn the_lowest_limit_of_all_groups_around_counts() {
        let (_folder, place) = place(
            &[
                ("cpu.max", "150000 100000"),
                ("memory.max", "1000"),
                ("memory.current", "900"),
                ("cpuset.cpus.effective", "0-7"),
            ],
            &[
                ("cpu.max", "max 100000"),
                ("memory.max", "5000"),
                ("memory.current", "100"),
                ("memory.high", "150"),
                ("memory.swap.max", "max"),
            ],
        );
        assert_eq!(place.cpus(Count::Quota).unwrap().to_string(), "0-1");
        assert_eq!(place.cpus(Count::Cpuset).unwrap().to_string(), "0-7");
        let memory = place.memory();
        assert_eq!(
            memory.room,
            Room {
                limit: 1000,
                left: 100
            }
        );
        assert_eq!(
            memory.soft_room,
            Room {
                limit: 1000,
                left: 50
            }
        );
        assert_eq!(memory.swap, Room::default());
    }

    proptest! {
        /// Files that lie, or are missing: no panic.
        #[test]
        fn no_text_of_a_file_is_a_panic(text in "\\PC{0,64}|[0-9 :=max\\-,\n]{0,64}", missing in any::<[bool; 6]>()) {
            let names = ["cpu.max", "memory.max", "memory.current", "io.stat", "cpuset.cpus.effective", "cpu.stat"];
            let files = names.into_iter().zip(missing).filter(|(_, missing)| !missing);
            let files: Vec<_> = files.map(|(name, _)| (name, text.as_str())).collect();
            let (_folder, place) = place(&files, &files);
            let _ = (place.cpus(Count::Quota), place.times(), place.memory(), place.disks());
        }
    }
}
