//! /etc/vmfirst/*.toml: what the operator declares.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use checked_toml::Source;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::priority::{Priority, Row, Table, default_table};
use super::squeeze::Marks;
use crate::{Error, Result};

/// Where the files are unless another folder is given.
pub const FOLDER: &str = "/etc/vmfirst";

/// All that is declared, with what holds where nothing is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// How the agent itself works.
    pub agent: Agent,
    /// Priorities of groups by their own name, wherever they are.
    pub slices: BTreeMap<String, Priority>,
    /// Priorities of groups by their path below cgroup v2's mount point, as "/a/b".
    pub groups: BTreeMap<String, Priority>,
    /// What each priority means.
    pub table: Table,
    /// Disks.
    pub io: Io,
    /// Reclaim by priority.
    pub reclaim: Reclaim,
    /// The CPU loop, where it is declared.
    pub cpu_loop: Option<CpuLoop>,
    /// The Quality Monitor, where it is declared.
    pub monitor: Option<Monitor>,
}

/// How the agent itself works.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// How often it looks, in ms.
    pub interval_ms: u64,
    /// Groups of other managers at or below these paths are written to, too.
    pub manage: Vec<String>,
    /// The most that the audit log has on disk, in KiB.
    pub audit_kib: u64,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            interval_ms: 1000,
            manage: Vec::new(),
            audit_kib: 4096,
        }
    }
}

/// Disks whose time is shared by priority.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Io {
    /// As "8:0" or "sda".
    pub disks: Vec<String>,
    /// Whether io.cost is enabled on them.
    pub cost: bool,
}

/// When memory is reclaimed by priority.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reclaim {
    /// When a group of higher priority waited for memory for this share of an interval, in per
    /// cent.
    pub pressure_percent: u64,
    /// When less of the host's memory is available, in per cent.
    pub available_percent: u64,
    /// What is reclaimed from one group in one interval, at most, in MiB.
    pub step_mib: u64,
}

impl Default for Reclaim {
    fn default() -> Self {
        Self {
            pressure_percent: 10,
            available_percent: 5,
            step_mib: 64,
        }
    }
}

/// When offline work is held back for online work.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuLoop {
    /// Groups of this priority and above are online.
    pub online: Priority,
    /// When one of them waited for CPUs for more of an interval, in per cent, the share shrinks.
    pub high_percent: u32,
    /// When all waited for less, it grows.
    pub low_percent: u32,
    /// Of all CPUs offline groups keep this together, in per cent.
    pub floor_percent: u32,
    /// What the share grows by at a look, in per cent.
    pub step_percent: u32,
    /// Looks below `low_percent` before it grows.
    pub calm_looks: u32,
    /// Looks above `high_percent` at the floor before the hook is run.
    pub patience_looks: u32,
    /// The last resort: a command and its arguments.
    pub hook: Vec<String>,
}

impl Default for CpuLoop {
    fn default() -> Self {
        Self {
            online: Priority::ONLINE,
            high_percent: 10,
            low_percent: 5,
            floor_percent: 10,
            step_percent: 5,
            calm_looks: 5,
            patience_looks: 30,
            hook: Vec::new(),
        }
    }
}

impl CpuLoop {
    /// As the decision has them.
    pub fn marks(&self) -> Marks {
        Marks {
            high: self.high_percent * 10,
            low: self.low_percent * 10,
            floor: self.floor_percent * 10,
            step: self.step_percent * 10,
            calm: self.calm_looks,
            patience: self.patience_looks,
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let percents = [self.high_percent, self.floor_percent, self.step_percent];
        if percents.iter().any(|percent| !(1..=100).contains(percent)) {
            return Err("high_percent, floor_percent and step_percent are 1 to 100".into());
        }
        if self.low_percent > self.high_percent {
            return Err("low_percent is high_percent at most".into());
        }
        match self.hook.first().is_some_and(String::is_empty) {
            true => Err("hook is a command and its arguments".into()),
            false => Ok(()),
        }
    }
}

/// The window of the kernel's triggers, in us. A multiple of 2 s takes no capability.
pub const TRIGGER_WINDOW_US: u64 = 2_000_000;

/// How groups are scored, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitor {
    /// What a score is of, in ms.
    pub window_ms: u64,
    /// A score below it is a breach, and has a record.
    pub mark: u64,
    /// Groups of this priority and above have records; all have scores.
    pub records: Priority,
    /// The most that the ring of records has on disk, in KiB.
    pub ring_kib: u64,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            mark: 80,
            records: Priority::ONLINE,
            ring_kib: 4096,
        }
    }
}

impl Monitor {
    /// Whether breaches of such a group have records.
    pub fn watches(&self, priority: Priority) -> bool {
        priority <= self.records
    }

    /// The stall in [`TRIGGER_WINDOW_US`] that is a breach, in us.
    pub fn threshold_us(&self) -> u64 {
        TRIGGER_WINDOW_US * 100u64.saturating_sub(self.mark).max(1) / 100
    }

    fn check(&self) -> std::result::Result<(), String> {
        if !(1000..=3_600_000).contains(&self.window_ms) {
            return Err("window_ms is 1000 to 3600000".into());
        }
        if !(1..=99).contains(&self.mark) {
            return Err("mark is 1 to 99".into());
        }
        match (16..=1 << 20).contains(&self.ring_kib) {
            true => Ok(()),
            false => Err("ring_kib is 16 to 1048576".into()),
        }
    }
}

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    agent: Option<Spanned<Agent>>,
    slices: BTreeMap<Spanned<String>, Priority>,
    groups: BTreeMap<Spanned<String>, Priority>,
    priority: BTreeMap<Spanned<String>, Row>,
    io: Option<Spanned<Io>>,
    reclaim: Option<Spanned<Reclaim>>,
    cpu_loop: Option<Spanned<CpuLoop>>,
    monitor: Option<Spanned<Monitor>>,
}

impl Default for Config {
    /// What holds without any file: priorities by the names of slices.
    fn default() -> Self {
        let slices = [
            ("vmfirst-high.slice", 0),
            ("vmfirst.slice", 3),
            ("vmfirst-low.slice", 7),
        ];
        let slices = slices.iter().filter_map(|(name, number)| {
            Some((name.to_string(), Priority::try_from(*number).ok()?))
        });
        Self {
            agent: Agent::default(),
            slices: slices.collect(),
            groups: BTreeMap::new(),
            table: default_table(),
            io: Io::default(),
            reclaim: Reclaim::default(),
            cpu_loop: None,
            monitor: None,
        }
    }
}

impl Config {
    /// Reads all files of a folder that end in ".toml", in the order of their names. No folder,
    /// or none with files, is what holds by default.
    ///
    /// # Errors
    /// [`Error::Usage`] with file, line and column of the first mistake.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut reader = Reader::default();
        for path in files(folder)? {
            let name = path.display().to_string();
            let text = fs::read_to_string(&path)
                .map_err(|source| Error::refused("read", name.clone(), source, ""))?;
            reader.add(&name, &text).map_err(Error::Usage)?;
        }
        Ok(reader.config)
    }
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let refused = |source| Error::refused("read", folder.display().to_string(), source, "");
    let entries = match fs::read_dir(folder) {
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && folder == Path::new(FOLDER) =>
        {
            return Ok(Vec::new());
        }
        entries => entries.map_err(refused)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(refused)?.path();
        if path.extension().is_some_and(|end| end == "toml") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Puts files together: what one of them has declared, another may not declare again.
#[derive(Default)]
struct Reader {
    config: Config,
    /// Table and key, and the file that has it.
    seen: BTreeMap<(&'static str, String), String>,
}

impl Reader {
    fn add(&mut self, name: &str, text: &str) -> std::result::Result<(), String> {
        let source = Source { name, text };
        let file: File = source.read()?;
        if let Some(agent) = file.agent {
            self.first(&source, "agent", "", &agent)?;
            check_agent(agent.get_ref()).map_err(|what| source.wrong(agent.span(), &what))?;
            self.config.agent = agent.into_inner();
        }
        if let Some(io) = file.io {
            self.first(&source, "io", "", &io)?;
            if io.get_ref().cost && io.get_ref().disks.is_empty() {
                return Err(source.wrong(io.span(), "cost needs disks, as disks = [\"sda\"]"));
            }
            self.config.io = io.into_inner();
        }
        if let Some(reclaim) = file.reclaim {
            self.first(&source, "reclaim", "", &reclaim)?;
            let bounds = reclaim.get_ref();
            if bounds.pressure_percent > 100 || bounds.available_percent > 100 {
                return Err(source.wrong(reclaim.span(), "a share is 0 to 100 per cent"));
            }
            self.config.reclaim = reclaim.into_inner();
        }
        if let Some(cpu_loop) = file.cpu_loop {
            self.first(&source, "cpu_loop", "", &cpu_loop)?;
            let checked = cpu_loop.get_ref().check();
            checked.map_err(|what| source.wrong(cpu_loop.span(), &what))?;
            self.config.cpu_loop = Some(cpu_loop.into_inner());
        }
        if let Some(monitor) = file.monitor {
            self.first(&source, "monitor", "", &monitor)?;
            let checked = monitor.get_ref().check();
            checked.map_err(|what| source.wrong(monitor.span(), &what))?;
            self.config.monitor = Some(monitor.into_inner());
        }
        for (slice, priority) in file.slices {
            self.first(&source, "slices", slice.get_ref(), &slice)?;
            if slice.get_ref().contains('/') || slice.get_ref().is_empty() {
                let what = "a slice is named without its path; paths are for [groups]";
                return Err(source.wrong(slice.span(), what));
            }
            self.config.slices.insert(slice.into_inner(), priority);
        }
        for (group, priority) in file.groups {
            let path = path(group.get_ref()).map_err(|what| source.wrong(group.span(), &what))?;
            self.first(&source, "groups", &path, &group)?;
            self.config.groups.insert(path, priority);
        }
        for (number, row) in file.priority {
            self.first(&source, "priority", number.get_ref(), &number)?;
            let priority = number.get_ref().parse::<Priority>();
            let priority = priority.map_err(|what| source.wrong(number.span(), &what))?;
            check_row(&row).map_err(|what| source.wrong(number.span(), &what))?;
            let below = self.config.table.remove(&priority).unwrap_or_default();
            self.config.table.insert(priority, below.with(&row));
        }
        Ok(())
    }

    /// Sees that no other file has declared it.
    fn first<T>(
        &mut self,
        source: &Source,
        table: &'static str,
        key: &str,
        at: &Spanned<T>,
    ) -> std::result::Result<(), String> {
        let place = (table, key.to_string());
        match self.seen.insert(place, source.name.into()) {
            None => Ok(()),
            Some(other) => {
                Err(source.wrong(at.span(), &format!("{other} has declared this already")))
            }
        }
    }
}

fn check_agent(agent: &Agent) -> std::result::Result<(), String> {
    if !(100..=60_000).contains(&agent.interval_ms) {
        return Err("interval_ms is 100 to 60000".into());
    }
    if !(16..=1 << 20).contains(&agent.audit_kib) {
        return Err("audit_kib is 16 to 1048576".into());
    }
    agent
        .manage
        .iter()
        .try_for_each(|group| path(group).map(drop))
}

fn check_row(row: &Row) -> std::result::Result<(), String> {
    let Some(limits) = &row.io_max else {
        return Ok(());
    };
    let known = |word: &str| {
        let (key, value) = word.split_once('=')?;
        let is_key = ["rbps", "wbps", "riops", "wiops"].contains(&key);
        (is_key && (value == "max" || value.parse::<u64>().is_ok())).then_some(())
    };
    match !limits.is_empty() && limits.split(' ').all(|word| known(word).is_some()) {
        true => Ok(()),
        false => Err("io_max is words of rbps=, wbps=, riops=, wiops= with a number or max".into()),
    }
}

/// A group's path with a slash in front and none behind.
pub fn path(text: &str) -> std::result::Result<String, String> {
    let words: Vec<&str> = text.trim_matches('/').split('/').collect();
    if words.iter().any(|word| ["", ".", ".."].contains(word)) {
        return Err(format!(
            "{text:?} is no group below cgroup v2's mount point, such as machines/web"
        ));
    }
    Ok(format!("/{}", words.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[&str]) -> std::result::Result<Config, String> {
        let mut reader = Reader::default();
        for (name, text) in ["a", "b"].iter().zip(files) {
            reader.add(name, text)?;
        }
        Ok(reader.config)
    }

    #[test]
    fn files_are_put_together() {
        let config = read(&[
            "[slices]\n\"batch.slice\" = 7\n[priority.7]\ncpu_weight = 2\n",
            "[groups]\n\"a/b/\" = 0\n[agent]\ninterval_ms = 500\n",
        ]);
        let config = config.unwrap();
        assert_eq!(config.slices["batch.slice"], Priority::OFFLINE);
        assert_eq!(config.slices["vmfirst-low.slice"], Priority::OFFLINE);
        assert_eq!(config.groups["/a/b"].number(), 0);
        assert_eq!(config.agent.interval_ms, 500);
        let offline = &config.table[&Priority::OFFLINE];
        assert_eq!(offline.cpu_weight.unwrap().to_string(), "2");
        assert_eq!(offline.cpu_idle, Some(true));
    }

    #[test]
    fn a_mistake_has_file_line_and_column() {
        for (text, place) in [
            ("[slices]\n\"a.slice\" = 8\n", "a:2:13: 8 is no priority"),
            ("[slices]\n\"a/b\" = 1\n", "a:2:1: a slice is named without"),
            ("[groups]\n\"../b\" = 1\n", "a:2:1: \"../b\" is no group"),
            ("[priority.9]\n", "a:1:11: 9 is no priority"),
            (
                "[priority.1]\ncpu_weight = 0\n",
                "a:2:14: a weight is 1 to 10000",
            ),
            ("[priority.1]\ncpu_wait = 3\n", "a:2:1: unknown field"),
            (
                "[priority.1]\nmemory_low = \"2g\"\n",
                "a:2:14: \"2g\" is no amount",
            ),
            (
                "[priority.1]\nio_max = \"bps=1\"\n",
                "a:1:11: io_max is words",
            ),
            ("\n[agent]\ninterval_ms = 1\n", "a:2:1: interval_ms is 100"),
            ("[io]\ncost = true\n", "a:1:1: cost needs disks"),
            ("[reclaim]\npressure_percent = 101\n", "a:1:1: a share is"),
            (
                "[cpu_loop]\nfloor_percent = 0\n",
                "a:1:1: high_percent, floor",
            ),
            (
                "[cpu_loop]\nlow_percent = 50\n",
                "a:1:1: low_percent is high",
            ),
            ("[cpu_loop]\nonline = 8\n", "a:2:10: 8 is no priority"),
            ("[monitor]\nmark = 100\n", "a:1:1: mark is 1 to 99"),
            ("[monitor]\nwindow_ms = 10\n", "a:1:1: window_ms is"),
        ] {
            let error = read(&[text]).unwrap_err();
            assert!(error.starts_with(place), "{error}");
        }
    }

    #[test]
    fn what_two_files_declare_is_a_mistake() {
        for text in ["[agent]\n", "[priority.1]\n", "[groups]\n\"/a\" = 1\n"] {
            let error = read(&[text, text]).unwrap_err();
            assert!(error.contains("a has declared this already"), "{error}");
            assert!(error.starts_with("b:"), "{error}");
        }
    }
}
