//! How long each group's tasks waited, less what the group did to itself.

use std::collections::BTreeMap;

use super::pressure;
use super::tree::Tree;
use crate::read::{Limits, Root};

/// Looks after which limits are looked for anew: a group may get one at any time.
const LIMITS_EVERY: u32 = 10;

/// Whether a group's tasks are looked at for all resources, or for memory only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Memory.
    Memory,
    /// CPUs, memory, disks.
    All,
}

/// What a group waited for since the look before, in us, less what it did to itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// For a CPU, but for its own quota.
    pub cpu: u64,
    /// For memory; nothing when it was at its own memory.high or memory.max.
    pub memory: u64,
    /// For a disk.
    pub io: u64,
    /// How long it ran.
    pub ran: u64,
}

/// The groups' totals at the last look.
#[derive(Debug, Default)]
pub struct Stalls {
    held: BTreeMap<String, Held>,
    looks: u32,
}

#[derive(Debug, Default)]
struct Held {
    id: u64,
    now: Totals,
    limits: Limits,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    cpu: u64,
    memory: u64,
    io: u64,
    ran: u64,
    /// Time that the group and those in it were held off by their quotas.
    throttled: u64,
    /// How often it went beyond its own memory.high or memory.max.
    bounds: u64,
}

impl Stalls {
    /// Looks at all groups with a priority; what is new has a stall from the next look on.
    pub fn look(&mut self, tree: &Tree, of: Of) -> BTreeMap<usize, Stall> {
        let mut before = std::mem::take(&mut self.held);
        let mut found = BTreeMap::new();
        let anew = self.looks.is_multiple_of(LIMITS_EVERY);
        self.looks = self.looks.wrapping_add(1);
        for (node, ..) in tree.targets() {
            let (path, id) = (tree.nodes[node].path.clone(), tree.nodes[node].id);
            let known = before.remove(&path).filter(|held| held.id == id);
            let is_new = known.is_none();
            let mut held = known.unwrap_or_default();
            held.id = id;
            let now = Totals::read(tree, node, of, &held.limits);
            if !is_new {
                found.insert(node, now.since(&held.now));
            }
            held.now = now;
            if of == Of::All && (is_new || anew) {
                held.limits = limits(tree, node);
                // Of other groups than before: from here on they count.
                held.now.throttled = throttled(&held.limits);
            }
            self.held.insert(path, held);
        }
        found
    }
}

/// The limits of a group and of those in it: libvirt limits a VM's vCPUs below the VM's group.
fn limits(tree: &Tree, node: usize) -> Limits {
    let mut all = vec![node];
    let mut next = 0;
    while next < all.len() {
        all.extend(&tree.nodes[all[next]].within);
        next += 1;
    }
    let folder = |at: usize| tree.folder(at).display().to_string();
    Limits::new(&Root::default(), all.into_iter().map(folder))
}

fn throttled(limits: &Limits) -> u64 {
    limits.read().map_or(0, |limits| limits.throttled_usec)
}

impl Totals {
    /// What can't be read is nothing: the group is gone, or the kernel lacks it.
    fn read(tree: &Tree, node: usize, of: Of, limits: &Limits) -> Self {
        let folder = tree.folder(node);
        let waited = |file: &str| pressure::some_usec(&folder.join(file)).unwrap_or_default();
        let keys = |file: &str, keys: &[&str]| {
            let text = tree.group(node).get(file).unwrap_or_default();
            let lines = text.lines().filter_map(|line| line.split_once(' '));
            let values = lines.filter(|(key, _)| keys.contains(key));
            values
                .filter_map(|(_, v)| v.parse::<u64>().ok())
                .sum::<u64>()
        };
        let mut totals = Self {
            memory: waited("memory.pressure"),
            bounds: keys("memory.events", &["high", "max"]),
            ..Self::default()
        };
        if of == Of::All {
            totals.cpu = waited("cpu.pressure");
            totals.io = waited("io.pressure");
            totals.ran = keys("cpu.stat", &["usage_usec"]);
            totals.throttled = throttled(limits);
        }
        totals
    }

    fn since(&self, before: &Self) -> Stall {
        let waited = self.cpu.saturating_sub(before.cpu);
        // All CPUs together, so it is this long at most: the doubt is the group's own.
        let own = self.throttled.saturating_sub(before.throttled);
        Stall {
            cpu: waited.saturating_sub(own),
            memory: match self.bounds == before.bounds {
                true => self.memory.saturating_sub(before.memory),
                false => 0,
            },
            io: self.io.saturating_sub(before.io),
            ran: self.ran.saturating_sub(before.ran),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::agent::config::Config;
    use crate::agent::priority::Priority;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Groups of a folder with priorities, whose files say what a test wants.
    pub struct Groups {
        pub folder: tempfile::TempDir,
        pub config: Config,
    }

    impl Groups {
        pub fn new(groups: &[(&str, i64)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut config = Config::default();
            for (group, number) in groups {
                fs::create_dir_all(folder.path().join("cgroup").join(group)).unwrap();
                let priority = Priority::try_from(*number).unwrap();
                config.groups.insert(format!("/{group}"), priority);
            }
            Self { folder, config }
        }

        pub fn base(&self) -> PathBuf {
            self.folder.path().join("cgroup")
        }

        pub fn tree(&self) -> Tree {
            Tree::scan(&self.base(), &self.config).unwrap()
        }

        pub fn write(&self, file: &str, text: &str) {
            write(&self.base().join(file), text);
        }

        /// What a group waited for a resource since its start, in us.
        pub fn waited(&self, group: &str, resource: &str, us: u64) {
            let text = format!("some avg10=1.50 avg60=0.00 avg300=0.00 total={us}\n");
            self.write(&format!("{group}/{resource}.pressure"), &text);
        }

        /// How long it ran, and was held off by its quota.
        pub fn ran(&self, group: &str, us: u64, throttled: u64) {
            let periods = u64::from(throttled > 0);
            let text = format!(
                "usage_usec {us}\nnr_periods {periods}\nnr_throttled {periods}\n\
                 throttled_usec {throttled}\n"
            );
            self.write(&format!("{group}/cpu.stat"), &text);
        }
    }

    pub fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn stall(stalls: &mut Stalls, groups: &Groups) -> Option<Stall> {
        let found = stalls.look(&groups.tree(), Of::All);
        found.values().next().copied()
    }

    #[test]
    fn a_groups_own_quota_and_bounds_are_no_stall() {
        let groups = Groups::new(&[("a", 0)]);
        let mut stalls = Stalls::default();
        groups.write("a/cpu.max", "50000 100000\n");
        groups.ran("a", 0, 0);
        groups.waited("a", "cpu", 100);
        assert_eq!(stall(&mut stalls, &groups), None);
        groups.waited("a", "cpu", 500_100);
        groups.waited("a", "memory", 70);
        groups.ran("a", 200_000, 450_000);
        let expected = Stall {
            cpu: 50_000,
            memory: 70,
            ran: 200_000,
            ..Stall::default()
        };
        assert_eq!(stall(&mut stalls, &groups), Some(expected));
        groups.write("a/memory.events", "low 0\nhigh 3\nmax 0\n");
        groups.waited("a", "memory", 900_000);
        assert_eq!(stall(&mut stalls, &groups), Some(Stall::default()));
    }

    /// libvirt's quota of a vCPU is in a group below the VM's.
    #[test]
    fn a_quota_of_a_group_within_counts_when_it_is_found() {
        let groups = Groups::new(&[("vm", 0)]);
        let mut stalls = Stalls::default();
        groups.ran("vm", 0, 0);
        groups.waited("vm", "cpu", 0);
        assert_eq!(stall(&mut stalls, &groups), None);
        groups.write("vm/vcpu0/cpu.max", "1000 100000\n");
        groups.ran("vm/vcpu0", 0, 700_000);
        for look in 1..=u64::from(LIMITS_EVERY) {
            groups.waited("vm", "cpu", look * 1000);
            assert_eq!(stall(&mut stalls, &groups).unwrap().cpu, 1000);
        }
        groups.waited("vm", "cpu", 500_000);
        groups.ran("vm/vcpu0", 0, 1_700_000);
        assert_eq!(stall(&mut stalls, &groups).unwrap().cpu, 0);
    }

    #[test]
    fn a_group_that_was_made_anew_begins_anew() {
        let groups = Groups::new(&[("a", 0)]);
        let mut stalls = Stalls::default();
        groups.waited("a", "cpu", 5000);
        stall(&mut stalls, &groups);
        fs::rename(groups.base().join("a"), groups.folder.path().join("old")).unwrap();
        groups.waited("a", "cpu", 9000);
        assert_eq!(stall(&mut stalls, &groups), None);
    }
}
