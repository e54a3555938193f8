//! Reclaim by priority: when a group of higher priority waits for memory, or the host has
//! little left, it is taken from those of the lowest priority, before the OOM killer ends them.

use std::collections::BTreeMap;

use super::config::Config;
use super::keeper::Wish;
use super::knob::Knob;
use super::priority::Priority;
use super::stalls::Stall;
use super::tree::Tree;
use crate::read::Root;

/// Less is not worth the while, in bytes.
const LEAST: u64 = 1 << 20;

/// What to take now, when the groups waited for so long in an interval of so many us: a write
/// to each group's memory.reclaim.
pub fn wishes(
    root: &Root,
    tree: &Tree,
    config: &Config,
    stalls: &BTreeMap<usize, Stall>,
    interval: u64,
) -> Vec<Wish> {
    let waiting = waiting(tree, config, stalls, interval);
    let low = available(root).filter(|left| *left < config.reclaim.available_percent);
    // From all whose row says so when the host has little; else from below who waits.
    let (above, why) = match (low, waiting) {
        (Some(left), _) => (None, format!("{left} % of the host's memory are available")),
        (None, Some((priority, path))) => {
            let why = format!("{path} of priority {priority} waits for memory");
            (Some(priority), why)
        }
        (None, None) => return Vec::new(),
    };
    let wish = |(node, bytes): (usize, u64)| Wish {
        group: tree.nodes[node].path.clone(),
        id: tree.nodes[node].id,
        knob: Knob::file("memory.reclaim"),
        value: bytes.min(config.reclaim.step_mib << 20).to_string(),
        why: why.clone(),
    };
    let victims = victims(tree, config, above);
    victims.into_iter().map(wish).collect()
}

/// The group of highest priority that waited for memory for longer than the mark.
fn waiting<'a>(
    tree: &'a Tree,
    config: &Config,
    stalls: &BTreeMap<usize, Stall>,
    interval: u64,
) -> Option<(Priority, &'a str)> {
    let mark = config.reclaim.pressure_percent.saturating_mul(interval);
    let waits = |node| {
        let stall: Option<&Stall> = stalls.get(&node);
        stall.is_some_and(|stall| stall.memory.saturating_mul(100) > mark)
    };
    let waiting = tree.targets().filter(|(node, ..)| waits(*node));
    waiting
        .map(|(node, priority, _)| (priority, tree.nodes[node].path.as_str()))
        .min()
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
    use super::super::stalls::{self, Stalls, tests::Groups};
    use super::*;

    struct Host {
        groups: Groups,
        stalls: Stalls,
    }

    impl Host {
        fn new(groups: &[(&str, i64)]) -> Self {
            let host = Self {
                groups: Groups::new(groups),
                stalls: Stalls::default(),
            };
            for (group, _) in groups {
                host.group(group, 0, 0);
                let bytes = (200 << 20).to_string();
                host.groups
                    .write(&format!("{group}/memory.current"), &bytes);
            }
            host.available(500);
            host
        }

        fn available(&self, kib: u64) {
            let text = format!("MemTotal: 1000 kB\nMemAvailable: {kib} kB\n");
            stalls::tests::write(&self.groups.folder.path().join("proc/meminfo"), &text);
        }

        /// What a group waited, in us, and how often it hit its bound.
        fn group(&self, group: &str, waited: u64, max: u64) {
            self.groups.waited(group, "memory", waited);
            let text = format!("low 0\nhigh 0\nmax {max}\noom 0\n");
            self.groups.write(&format!("{group}/memory.events"), &text);
        }

        /// After a second: groups and bytes.
        fn step(&mut self) -> Vec<(String, String)> {
            let tree = self.groups.tree();
            let stalls = self.stalls.look(&tree, stalls::Of::Memory);
            let root = Root::at(self.groups.folder.path());
            let wishes = wishes(&root, &tree, &self.groups.config, &stalls, 1_000_000);
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
        host.groups
            .write("off/memory.current", &(2 << 20).to_string());
        host.group("on", 500_000, 0);
        assert_eq!(host.step(), [("/off".into(), (2 << 20).to_string())]);
        host.groups.write("off/memory.current", "4096");
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
        host.available(40);
        assert_eq!(host.step(), [step_of("/off"), step_of("/other")].concat());
    }
}
