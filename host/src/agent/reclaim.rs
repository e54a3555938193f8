//! Reclaim by priority: when a group of higher priority waits for memory, or the host has
//! little left, it is taken from those of the lowest priority, before the OOM killer ends them.

use std::collections::BTreeMap;

use super::config::{Config, Reclaim};
use super::keeper::Wish;
use super::knob::Knob;
use super::pressure;
use super::priority::Priority;
use super::tree::Tree;
use crate::read::Root;

/// Less is not worth the while, in bytes.
const LEAST: u64 = 1 << 20;

/// Watches who waits for memory.
#[derive(Debug, Default)]
pub struct Reclaimer {
    /// By path: time waited, in us, and how often the group hit its own bounds.
    before: BTreeMap<String, (u64, u64)>,
}

impl Reclaimer {
    /// What to take now, after an interval of so many us: a write to each group's memory.reclaim.
    pub fn step(
        &mut self,
        root: &Root,
        tree: &Tree,
        config: &Config,
        interval_us: u64,
    ) -> Vec<Wish> {
        let waiting = self.waiting(tree, config, interval_us);
        let low = available(root).filter(|left| *left < config.reclaim.available_percent);
        // From all whose row says so when the host has little; else from below who waits.
        let (above, why) = match (low, waiting) {
            (Some(left), _) => (None, format!("{left} % of the host's memory are available")),
            (None, Some((priority, path))) => (
                Some(priority),
                format!("{path} of priority {priority} waits for memory"),
            ),
            (None, None) => return Vec::new(),
        };
        let victims = victims(tree, config, above);
        let wish = |(node, bytes): (usize, u64)| Wish {
            group: tree.nodes[node].path.clone(),
            id: tree.nodes[node].id,
            knob: Knob::file("memory.reclaim"),
            value: bytes.min(config.reclaim.step_mib << 20).to_string(),
            why: why.clone(),
        };
        victims.into_iter().map(wish).collect()
    }

    /// The group of highest priority that waited for memory for longer than the mark, and not
    /// because of its own bounds.
    fn waiting(
        &mut self,
        tree: &Tree,
        config: &Config,
        interval_us: u64,
    ) -> Option<(Priority, String)> {
        let Reclaim {
            pressure_percent, ..
        } = config.reclaim;
        let before = std::mem::take(&mut self.before);
        let mut first: Option<(Priority, String)> = None;
        for (node, priority, _) in tree.targets() {
            let folder = tree.folder(node);
            let Ok(waited) = pressure::some_usec(&folder.join("memory.pressure")) else {
                continue;
            };
            let path = &tree.nodes[node].path;
            let own = own_bounds(&tree.group(node).get("memory.events").unwrap_or_default());
            self.before.insert(path.clone(), (waited, own));
            let Some((waited_before, own_before)) = before.get(path) else {
                continue;
            };
            let waited = waited.saturating_sub(*waited_before);
            let waits = waited.saturating_mul(100) > pressure_percent.saturating_mul(interval_us);
            let higher = first.as_ref().is_none_or(|(other, _)| priority < *other);
            if waits && own == *own_before && higher {
                first = Some((priority, path.clone()));
            }
        }
        first
    }
}

/// How often a group went beyond its own memory.high or memory.max.
fn own_bounds(events: &str) -> u64 {
    let lines = events.lines().filter_map(|line| line.split_once(' '));
    let own = lines.filter(|(key, _)| ["high", "max"].contains(key));
    own.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
}

/// The groups of the lowest priority that have something, and what each has; they are below
/// `above`, if that is given.
fn victims(tree: &Tree, config: &Config, above: Option<Priority>) -> Vec<(usize, u64)> {
    let gives = |priority: &Priority| {
        let row = config.table.get(priority);
        row.is_some_and(|row| row.reclaim == Some(true))
            && above.is_none_or(|above| *priority > above)
    };
    let mut lowest = None;
    let mut found = Vec::new();
    for (node, priority, _) in tree.targets() {
        if !gives(&priority) || tree.nodes[node].foreign.is_some() {
            continue;
        }
        let group = tree.group(node);
        let has = group
            .get("memory.current")
            .ok()
            .and_then(|text| text.parse().ok());
        let Some(bytes) = has.filter(|bytes| *bytes >= LEAST) else {
            continue;
        };
        if lowest < Some(priority) {
            lowest = Some(priority);
            found.clear();
        }
        if lowest == Some(priority) {
            found.push((node, bytes));
        }
    }
    found
}

/// How much of the host's memory is available, in per cent.
fn available(root: &Root) -> Option<u64> {
    let text = root.text("proc/meminfo").ok()?;
    let value = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    let (all, left) = (value("MemTotal:")?, value("MemAvailable:")?);
    left.saturating_mul(100).checked_div(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Host {
        folder: tempfile::TempDir,
        config: Config,
        reclaimer: Reclaimer,
    }

    impl Host {
        fn new(groups: &[(&str, i64)]) -> Self {
            let host = Self {
                folder: tempfile::tempdir().unwrap(),
                config: Config::default(),
                reclaimer: Reclaimer::default(),
            };
            let mut host = host;
            for (group, number) in groups {
                let priority = Priority::try_from(*number).unwrap();
                host.config.groups.insert(format!("/{group}"), priority);
                host.group(group, 0, 0);
                host.write(
                    &format!("cgroup/{group}/memory.current"),
                    &(200 << 20).to_string(),
                );
            }
            host.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 500 kB\n");
            host
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// What a group waited, in us, and how often it hit its bound.
        fn group(&self, group: &str, waited: u64, max: u64) {
            let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={waited}\n");
            self.write(&format!("cgroup/{group}/memory.pressure"), &text);
            let text = format!("low 0\nhigh 0\nmax {max}\noom 0\n");
            self.write(&format!("cgroup/{group}/memory.events"), &text);
        }

        /// After a second: groups and bytes.
        fn step(&mut self) -> Vec<(String, String)> {
            let base = self.folder.path().join("cgroup");
            let tree = Tree::scan(&base, &self.config).unwrap();
            let root = Root::at(self.folder.path());
            let wishes = self.reclaimer.step(&root, &tree, &self.config, 1_000_000);
            wishes
                .into_iter()
                .map(|wish| (wish.group, wish.value))
                .collect()
        }
    }

    fn step_of(group: &str) -> Vec<(String, String)> {
        vec![(group.into(), (64 << 20).to_string())]
    }

    #[test]
    fn who_waits_has_it_from_the_lowest() {
        let mut host = Host::new(&[("on", 0), ("mid", 3), ("off", 7)]);
        assert_eq!(host.step(), []);
        host.group("on", 90_000, 0);
        assert_eq!(host.step(), [], "9 % are below the mark");
        host.group("on", 250_000, 0);
        assert_eq!(host.step(), step_of("/off"));
        assert_eq!(host.step(), [], "it waits no more");
        // Little is there: not more than that, and not for nothing.
        host.write("cgroup/off/memory.current", &(2 << 20).to_string());
        host.group("on", 500_000, 0);
        assert_eq!(host.step(), [("/off".into(), (2 << 20).to_string())]);
        host.write("cgroup/off/memory.current", "4096");
        host.group("on", 900_000, 0);
        assert_eq!(host.step(), []);
    }

    #[test]
    fn who_is_at_its_own_bound_has_nothing_of_others() {
        let mut host = Host::new(&[("on", 0), ("off", 7)]);
        host.step();
        host.group("on", 500_000, 3);
        assert_eq!(host.step(), []);
        host.group("on", 1_000_000, 3);
        assert_eq!(host.step(), step_of("/off"));
    }

    #[test]
    fn offline_work_does_not_take_from_its_like() {
        let mut host = Host::new(&[("off", 7), ("other", 7)]);
        host.step();
        host.group("off", 900_000, 0);
        assert_eq!(host.step(), []);
    }

    #[test]
    fn a_host_with_little_left_takes_from_all_of_the_lowest() {
        let mut host = Host::new(&[("on", 0), ("off", 7), ("other", 7)]);
        host.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 40 kB\n");
        assert_eq!(host.step(), [step_of("/off"), step_of("/other")].concat());
    }
}
