//! The Quality Monitor: how much of a window each group's tasks did not wait, and who ran
//! meanwhile when that was too little.

use std::collections::BTreeMap;

use serde::Serialize;

use super::config;
use super::priority::Priority;
use super::ring::Ring;
use super::stalls::Stall;
use super::tree::Tree;
use crate::read::Root;

/// How many others a record names.
const NEIGHBOURS: usize = 10;
/// What is less isn't named, in per cent of a CPU.
const LEAST_PERCENT: u64 = 1;

/// What a score is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// CPUs.
    Cpu,
    /// Memory.
    Memory,
    /// Disks.
    Io,
}

impl Of {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    fn stall(self, stall: &Stall) -> u64 {
        match self {
            Self::Cpu => stall.cpu,
            Self::Memory => stall.memory,
            Self::Io => stall.io,
        }
    }

    /// The group's file with its pressure.
    pub fn file(self) -> &'static str {
        match self {
            Self::Cpu => "cpu.pressure",
            Self::Memory => "memory.pressure",
            Self::Io => "io.pressure",
        }
    }
}

/// 100 * (1 - stall / window), to a tenth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(u64);

impl Score {
    /// Of a stall in a window, both in us.
    pub fn new(stall: u64, window: u64) -> Self {
        let lost = u128::from(stall) * 1000 / u128::from(window.max(1));
        Self(1000u64.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX)))
    }
}

impl Serialize for Score {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.0 as f64 / 10.0)
    }
}

/// The scores of a group in the last window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupScore {
    /// Its path.
    pub group: String,
    /// Its priority.
    pub priority: Priority,
    /// Of CPUs.
    pub cpu: Score,
    /// Of memory.
    pub memory: Score,
    /// Of disks.
    pub io: Score,
    /// The worst of the three.
    pub worst: Score,
    #[serde(skip)]
    ran: u64,
}

/// The scores of all groups of a priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PriorityScore {
    /// Which priority.
    pub priority: Priority,
    /// The worst group's.
    pub worst: Score,
    /// The mean of the groups' worst ones, weighted by the time that they ran.
    pub mean: Score,
}

/// Another group that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Neighbour {
    group: String,
    /// Its own priority, or that of the group that it is in.
    priority: Option<Priority>,
    /// CPU time, in per cent of one CPU.
    cpu_percent: u64,
}

/// What there was when a score fell below the mark: a line of the ring.
#[derive(Debug, Serialize)]
struct Breach<'a> {
    group: &'a str,
    priority: Priority,
    resource: Of,
    /// Whether the kernel told (a trigger) or a window ended.
    by: &'static str,
    score: Score,
    mark: u64,
    /// The pressure files' text of the group and of the host.
    pressure: BTreeMap<&'static str, String>,
    host_pressure: BTreeMap<&'static str, String>,
    /// The CPUs that the group may use.
    cpus: Option<String>,
    /// Who ran in the time after the breach, most first.
    neighbours: Vec<Neighbour>,
    /// How long that was, in ms.
    neighbours_over_ms: u64,
    /// What this host lacks.
    missed: Vec<&'static str>,
}

/// A breach whose neighbours are not known yet.
#[derive(Debug)]
struct Open {
    group: String,
    resource: Of,
    by: &'static str,
    score: Score,
}

/// Scores groups, and keeps records.
#[derive(Debug)]
pub struct Monitor {
    marks: config::Monitor,
    ring: Ring,
    /// Of the window that runs: its length, and each group's stalls in it.
    window: u64,
    sums: BTreeMap<String, Stall>,
    scores: Vec<GroupScore>,
    open: Vec<Open>,
    /// CPU time by group, when the first of the open breaches was seen.
    ran: BTreeMap<String, u64>,
}

impl Monitor {
    /// With these marks, and records in this ring.
    pub fn new(marks: config::Monitor, ring: Ring) -> Self {
        Self {
            marks,
            ring,
            window: 0,
            sums: BTreeMap::new(),
            scores: Vec::new(),
            open: Vec::new(),
            ran: BTreeMap::new(),
        }
    }

    /// Has other marks from now on.
    pub fn set(&mut self, marks: config::Monitor) {
        self.marks = marks;
    }

    /// The scores of the last window.
    pub fn scores(&self) -> &[GroupScore] {
        &self.scores
    }

    /// How many records were lost.
    pub fn lost(&self) -> u64 {
        self.ring.lost()
    }

    /// The kernel's trigger of a group fired: who runs is looked at from now to the next look.
    pub fn alarm(&mut self, tree: &Tree, group: &str, resource: Of) {
        let score = Score::new(self.marks.threshold_us(), config::TRIGGER_WINDOW_US);
        self.begin(tree, group.into(), resource, "trigger", score);
    }

    /// An interval of so many us has passed, in which the groups waited for so long.
    pub fn look(
        &mut self,
        root: &Root,
        tree: &Tree,
        stalls: &BTreeMap<usize, Stall>,
        interval: u64,
        missed: &[&'static str],
    ) {
        self.finish(root, tree, interval, missed);
        self.window += interval;
        for (node, stall) in stalls {
            let sum = self.sums.entry(tree.nodes[*node].path.clone()).or_default();
            sum.cpu += stall.cpu;
            sum.memory += stall.memory;
            sum.io += stall.io;
            sum.ran += stall.ran;
        }
        if self.window >= self.marks.window_ms.saturating_mul(1000) {
            self.end(tree);
        }
    }

    /// The window is over.
    fn end(&mut self, tree: &Tree) {
        let window = std::mem::take(&mut self.window);
        let sums = std::mem::take(&mut self.sums);
        self.scores.clear();
        for (node, priority, _) in tree.targets() {
            let group = &tree.nodes[node].path;
            let Some(sum) = sums.get(group) else {
                continue;
            };
            let [cpu, memory, io] = Of::ALL.map(|of| Score::new(of.stall(sum), window));
            self.scores.push(GroupScore {
                group: group.clone(),
                priority,
                cpu,
                memory,
                io,
                worst: cpu.min(memory).min(io),
                ran: sum.ran,
            });
            for (of, score) in Of::ALL.into_iter().zip([cpu, memory, io]) {
                if score.0 < self.marks.mark.saturating_mul(10) && self.marks.watches(priority) {
                    self.begin(tree, group.clone(), of, "window", score);
                }
            }
        }
    }

    fn begin(&mut self, tree: &Tree, group: String, resource: Of, by: &'static str, score: Score) {
        if self.open.is_empty() {
            self.ran = ran(tree);
        }
        if !self
            .open
            .iter()
            .any(|o| o.group == group && o.resource == resource)
        {
            self.open.push(Open {
                group,
                resource,
                by,
                score,
            });
        }
    }

    /// Writes the records of breaches that were seen before this look.
    fn finish(&mut self, root: &Root, tree: &Tree, interval: u64, missed: &[&'static str]) {
        if self.open.is_empty() {
            return;
        }
        let (before, now) = (std::mem::take(&mut self.ran), ran(tree));
        let used = |(path, us): (&String, &u64)| {
            let us = us.saturating_sub(*before.get(path)?);
            Some((path.clone(), us * 100 / interval.max(1)))
        };
        let mut used: Vec<_> = now.iter().filter_map(used).collect();
        used.retain(|(_, percent)| *percent >= LEAST_PERCENT);
        used.sort_by_key(|(_, percent)| std::cmp::Reverse(*percent));
        for open in std::mem::take(&mut self.open) {
            let found = tree.nodes.iter().position(|node| node.path == open.group);
            let Some((node, (priority, _))) = found.and_then(|n| Some((n, tree.nodes[n].own?)))
            else {
                continue; // It has ended, or has no priority any more.
            };
            let inside = format!("{}/", open.group);
            let others = used
                .iter()
                .filter(|(path, _)| *path != open.group && !path.starts_with(&inside));
            let neighbours = others.take(NEIGHBOURS).map(|(path, percent)| Neighbour {
                group: path.clone(),
                priority: priority_of(tree, path),
                cpu_percent: *percent,
            });
            let folder = tree.folder(node);
            let text = |of: Of| std::fs::read_to_string(folder.join(of.file())).ok();
            let host = |of: Of| {
                let name = of.file().trim_end_matches(".pressure");
                root.text(&format!("proc/pressure/{name}")).ok()
            };
            self.ring.add(&Breach {
                group: &open.group,
                priority,
                resource: open.resource,
                by: open.by,
                score: open.score,
                mark: self.marks.mark,
                pressure: texts(text),
                host_pressure: texts(host),
                cpus: tree.group(node).get("cpuset.cpus.effective").ok(),
                neighbours: neighbours.collect(),
                neighbours_over_ms: interval / 1000,
                missed: missed.to_vec(),
            });
        }
    }

    /// The scores of each priority that has groups.
    pub fn by_priority(&self) -> Vec<PriorityScore> {
        let of = |priority| {
            let of_it = self
                .scores
                .iter()
                .filter(|score| score.priority == priority);
            let scores: Vec<&GroupScore> = of_it.collect();
            let worst = scores.iter().map(|score| score.worst).min()?;
            // Who didn't run at all counts a little, so that there is a mean.
            let weights = scores.iter().map(|score| u128::from(score.ran) + 1);
            let all: u128 = weights.clone().sum();
            let each = scores.iter().zip(weights);
            let sum: u128 = each
                .map(|(score, weight)| u128::from(score.worst.0) * weight)
                .sum();
            Some(PriorityScore {
                priority,
                worst,
                mean: Score(u64::try_from(sum / all).unwrap_or_default()),
            })
        };
        Priority::all().filter_map(of).collect()
    }
}

fn priority_of(tree: &Tree, path: &str) -> Option<Priority> {
    let node = tree.nodes.iter().position(|node| node.path == path)?;
    tree.priority_of(node)
}

fn texts(text: impl Fn(Of) -> Option<String>) -> BTreeMap<&'static str, String> {
    let each = Of::ALL.into_iter();
    each.filter_map(|of| Some((of.file(), text(of)?.trim().to_string())))
        .collect()
}

/// How long the groups without groups in them ran, in us.
fn ran(tree: &Tree) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for (at, node) in tree.nodes.iter().enumerate() {
        if !node.within.is_empty() {
            continue;
        }
        let text = tree.group(at).get("cpu.stat").unwrap_or_default();
        let used = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        if let Some(us) = used.and_then(|us| us.parse().ok()) {
            found.insert(node.path.clone(), us);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::stalls::{self, Stalls, tests::Groups};
    use super::*;
    use serde_json::Value;

    const SECOND: u64 = 1_000_000;

    struct Host {
        groups: Groups,
        stalls: Stalls,
        monitor: Monitor,
    }

    impl Host {
        fn new(groups: &[(&str, i64)]) -> Self {
            let groups = Groups::new(groups);
            let marks = config::Monitor {
                window_ms: 2000,
                ..config::Monitor::default()
            };
            let ring = Ring::new(groups.folder.path().join("ring"), 1 << 20);
            Self {
                groups,
                stalls: Stalls::default(),
                monitor: Monitor::new(marks, ring),
            }
        }

        fn look(&mut self) {
            let tree = self.groups.tree();
            let stalls = self.stalls.look(&tree, stalls::Of::All);
            let root = Root::at(self.groups.folder.path());
            self.monitor
                .look(&root, &tree, &stalls, SECOND, &["io.cost"]);
        }

        fn records(&self) -> Vec<Value> {
            let text = std::fs::read_to_string(self.groups.folder.path().join("ring"));
            let text = text.unwrap_or_default();
            text.lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect()
        }
    }

    #[test]
    fn a_score_is_what_is_left_of_the_window() {
        for (stall, window, score) in [
            (0, 10, 1000),
            (10, 10, 0),
            (25, 100, 750),
            (11, 10, 0),
            (1, 0, 0),
            (u64::MAX, u64::MAX, 0),
        ] {
            assert_eq!(
                Score::new(stall, window),
                Score(score),
                "{stall} of {window}"
            );
        }
        assert_eq!(serde_json::to_string(&Score(995)).unwrap(), "99.5");
    }

    #[test]
    fn a_neighbours_interference_lowers_the_score_and_is_named() {
        let mut host = Host::new(&[("on", 0), ("off", 7)]);
        host.groups.ran("off/job", 0, 0);
        host.groups.ran("on", 0, 0);
        host.groups.write("on/cpuset.cpus.effective", "0-3\n");
        for second in 0..5 {
            host.groups.waited("on", "cpu", second * 400_000);
            host.groups.ran("off/job", second * 900_000, 0);
            host.groups.ran("on", second * 100_000, 0);
            host.look();
        }
        let scores = host.monitor.scores();
        assert_eq!(scores.len(), 2);
        let on = scores.iter().find(|score| score.group == "/on").unwrap();
        // The first look of a window of two has nothing to compare with.
        assert_eq!((on.worst, on.memory), (Score(600), Score(1000)));
        let records = host.records();
        assert_eq!(records.len(), 1, "{records:?}");
        let record = &records[0];
        assert_eq!(
            (&record["group"], &record["resource"]),
            (&"/on".into(), &"cpu".into())
        );
        assert_eq!(
            record["neighbours"].as_array().unwrap().len(),
            1,
            "{record}"
        );
        let neighbour = &record["neighbours"][0];
        assert_eq!(
            (&neighbour["group"], &neighbour["cpu_percent"]),
            (&"/off/job".into(), &90.into())
        );
        assert_eq!(neighbour["priority"], 7);
        assert_eq!(
            (&record["cpus"], &record["missed"][0]),
            (&"0-3".into(), &"io.cost".into())
        );
        assert!(
            record["pressure"]["cpu.pressure"]
                .as_str()
                .unwrap()
                .starts_with("some avg10")
        );
    }

    #[test]
    fn a_groups_own_quota_does_not_lower_it() {
        let mut host = Host::new(&[("on", 0)]);
        host.groups.write("on/cpu.max", "10000 100000\n");
        for second in 0..4 {
            host.groups.waited("on", "cpu", second * 900_000);
            host.groups.ran("on", second * 100_000, second * 900_000);
            host.look();
        }
        assert_eq!(host.monitor.scores()[0].worst, Score(1000));
        assert_eq!(host.records(), [Value::Null; 0]);
    }

    #[test]
    fn a_trigger_has_a_record_before_the_window_ends() {
        let mut host = Host::new(&[("on", 0)]);
        host.groups.ran("other", 0, 0);
        host.look();
        host.monitor.alarm(&host.groups.tree(), "/on", Of::Memory);
        host.monitor.alarm(&host.groups.tree(), "/on", Of::Memory);
        host.monitor.alarm(&host.groups.tree(), "/gone", Of::Memory);
        host.groups.ran("other", 500_000, 0);
        host.look();
        let records = host.records();
        assert_eq!(records.len(), 1);
        assert_eq!(
            (&records[0]["by"], &records[0]["resource"]),
            (&"trigger".into(), &"memory".into())
        );
        assert_eq!(records[0]["neighbours"][0]["group"], "/other");
    }

    #[test]
    fn a_priority_has_its_worst_and_a_mean_by_time_run() {
        let mut host = Host::new(&[("a", 0), ("b", 0), ("c", 7)]);
        for second in 0..3 {
            host.groups.waited("a", "cpu", second * 500_000);
            host.groups.ran("a", second * 250_000, 0);
            host.groups.ran("b", second * 750_000, 0);
            host.look();
        }
        host.look();
        let scores = host.monitor.by_priority();
        assert_eq!(scores.len(), 2);
        let of = |priority: usize| (scores[priority].worst.0, scores[priority].mean.0);
        assert_eq!(of(1), (1000, 1000));
        // One look of the window of two had a stall: 75; run one to three: 93.7.
        assert_eq!(of(0), (750, 937));
    }
}
