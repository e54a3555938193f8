//! The CPU loop: offline groups have a quota while online ones wait.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::config;
use super::keeper::{Keeper, Wish};
use super::knob::Knob;
use super::priority::Priority;
use super::squeeze::{Squeeze, WHOLE, quota};
use super::stalls::Stall;
use super::tree::Tree;

/// The period of the quotas, in us: the kernel's own default.
const PERIOD: u64 = 100_000;
/// A command of the last resort that takes longer is ended.
const HOOK_MOST: Duration = Duration::from_secs(60);

/// The loop's state.
#[derive(Debug, Default)]
pub struct CpuLoop {
    squeeze: Squeeze,
    hook: Option<(Child, Instant)>,
}

/// Online pressure at a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pressure {
    /// In per mille of the interval.
    pub per_mille: u32,
    /// The group that has it.
    pub group: String,
}

impl CpuLoop {
    /// The share of all CPUs that offline groups may have together, in per mille.
    pub fn share(&self) -> u32 {
        self.squeeze.share()
    }

    /// One look at the pressure of the worst online group; whether the last resort is due.
    pub fn look(&mut self, marks: &config::CpuLoop, pressure: &Pressure) -> bool {
        self.squeeze.look(marks.marks(), pressure.per_mille)
    }

    /// The quotas of offline groups now; none while they may have all.
    pub fn wishes(&self, tree: &Tree, cpus: u32, keeper: &Keeper) -> Vec<Wish> {
        if self.share() >= WHOLE {
            return Vec::new();
        }
        let offline = offline(tree);
        let groups = u32::try_from(offline.len()).unwrap_or(u32::MAX);
        let ours = quota(self.share(), cpus, groups, PERIOD);
        let wish = |node: usize| {
            let knob = Knob::file("cpu.max");
            let group = tree.nodes[node].path.clone();
            let own = keeper
                .before(&group, &knob)
                .or_else(|| knob.get(&tree.group(node)).ok())?;
            // A tighter limit of its own stays.
            (!is_tighter(&own, ours)).then(|| Wish {
                group,
                id: tree.nodes[node].id,
                knob,
                value: format!("{ours} {PERIOD}"),
                why: format!(
                    "offline work has {} of 1000 of the CPUs: online work waits",
                    self.share()
                ),
            })
        };
        offline.into_iter().filter_map(wish).collect()
    }

    /// Starts the command of the last resort, unless it runs still.
    pub fn call(&mut self, command: &[String], pressure: &Pressure) -> std::io::Result<()> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(());
        };
        if self.hook.is_some() {
            return Err(std::io::Error::other("it runs still"));
        }
        let child = Command::new(program)
            .args(arguments)
            .env("VMFIRST_GROUP", &pressure.group)
            .env("VMFIRST_PRESSURE_PER_MILLE", pressure.per_mille.to_string())
            .stdin(Stdio::null())
            .spawn()?;
        self.hook = Some((child, Instant::now()));
        Ok(())
    }

    /// Sees to a command that has ended or takes too long; what went wrong with it.
    pub fn reap(&mut self) -> Option<String> {
        let (child, since) = self.hook.as_mut()?;
        let said = match child.try_wait() {
            Ok(None) if since.elapsed() < HOOK_MOST => return None,
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                Some(format!(
                    "the hook took longer than {} s and was ended",
                    HOOK_MOST.as_secs()
                ))
            }
            Ok(Some(status)) if status.success() => None,
            Ok(Some(status)) => Some(format!("the hook failed: {status}")),
            Err(error) => Some(format!("the hook: {error}")),
        };
        self.hook = None;
        said
    }
}

/// The pressure of the online group that waits most.
pub fn worst(
    tree: &Tree,
    marks: &config::CpuLoop,
    stalls: &BTreeMap<usize, Stall>,
    interval: u64,
) -> Pressure {
    let online = tree
        .targets()
        .filter(|(_, priority, _)| *priority <= marks.online);
    let each = online.filter_map(|(node, ..)| {
        let per_mille = stalls.get(&node)?.cpu.saturating_mul(1000) / interval.max(1);
        Some(Pressure {
            per_mille: u32::try_from(per_mille).unwrap_or(u32::MAX),
            group: tree.nodes[node].path.clone(),
        })
    });
    let none = Pressure {
        per_mille: 0,
        group: String::new(),
    };
    each.max_by_key(|pressure| pressure.per_mille)
        .unwrap_or(none)
}

/// The offline groups that are in no other one, and that may be written to.
fn offline(tree: &Tree) -> Vec<usize> {
    let is = |at: usize| matches!(tree.nodes[at].own, Some((Priority::OFFLINE, _)));
    let all = tree.targets().map(|(node, ..)| node);
    all.filter(|node| is(*node) && tree.nodes[*node].foreign.is_none())
        .filter(|node| !tree.upwards(*node).skip(1).any(is))
        .collect()
}

/// Whether a limit as cpu.max has it is less than `quota` us a period.
fn is_tighter(limit: &str, quota: u64) -> bool {
    let mut words = limit
        .split_whitespace()
        .map(|word| word.parse::<u64>().ok());
    match (words.next().flatten(), words.next().flatten()) {
        (Some(own), Some(period)) => {
            u128::from(own) * u128::from(PERIOD) < u128::from(quota) * u128::from(period)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::Ring;
    use super::super::stalls::{self, Stalls, tests::Groups};
    use super::*;

    fn pressure(per_mille: u32) -> Pressure {
        Pressure {
            per_mille,
            group: "/on".into(),
        }
    }

    fn keeper(groups: &Groups) -> Keeper {
        let at = |name: &str| groups.folder.path().join(name);
        Keeper::open(
            &groups.base(),
            at("journal"),
            Ring::new(at("audit"), 1 << 20),
        )
        .unwrap()
    }

    #[test]
    fn the_worst_online_group_counts() {
        let groups = Groups::new(&[("on", 0), ("mid", 3), ("two", 2), ("off", 7)]);
        let mut stalls = Stalls::default();
        let mut found = BTreeMap::new();
        for look in 0..2 {
            for (group, us) in [
                ("on", 50_000),
                ("two", 80_000),
                ("mid", 900_000),
                ("off", 999_000),
            ] {
                groups.waited(group, "cpu", look * us);
            }
            found = stalls.look(&groups.tree(), stalls::Of::All);
        }
        let marks = config::CpuLoop::default();
        let worst = worst(&groups.tree(), &marks, &found, 1_000_000);
        assert_eq!((worst.per_mille, worst.group.as_str()), (80, "/two"));
    }

    #[test]
    fn offline_groups_share_a_quota_and_keep_tighter_ones() {
        let groups = Groups::new(&[
            ("a", 7),
            ("a/within", 7),
            ("b", 7),
            ("kubepods/x", 7),
            ("on", 0),
        ]);
        for group in ["a", "a/within", "b", "kubepods/x", "on"] {
            groups.write(&format!("{group}/cpu.max"), "max 100000\n");
        }
        let (mut keeper, mut cpus) = (keeper(&groups), CpuLoop::default());
        let marks = config::CpuLoop::default();
        assert_eq!(cpus.wishes(&groups.tree(), 4, &keeper), []);
        cpus.look(&marks, &pressure(500));
        let quotas = |cpus: &CpuLoop, keeper: &Keeper| -> Vec<_> {
            let wishes = cpus.wishes(&groups.tree(), 4, keeper);
            wishes
                .into_iter()
                .map(|wish| (wish.group, wish.value))
                .collect()
        };
        let half = "150000 100000".to_string();
        let both = [
            ("/a".to_string(), half.clone()),
            ("/b".to_string(), half.clone()),
        ];
        let mut found = quotas(&cpus, &keeper);
        found.sort();
        assert_eq!(found, both);
        // What it has by us is not its own.
        keeper
            .keep_to(&cpus.wishes(&groups.tree(), 4, &keeper))
            .unwrap();
        assert_eq!(quotas(&cpus, &keeper).len(), 2);
        keeper.restore("the test ends").unwrap();
        groups.write("b/cpu.max", "5000 10000\n");
        assert_eq!(quotas(&cpus, &keeper), [("/a".to_string(), half)]);
    }

    #[test]
    fn the_hook_is_run_and_its_failure_told() {
        let mut cpus = CpuLoop::default();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("said");
        let script = format!(
            "echo $VMFIRST_GROUP $VMFIRST_PRESSURE_PER_MILLE > {}; exit 3",
            file.display()
        );
        let command = ["/bin/sh".to_string(), "-c".into(), script];
        cpus.call(&command, &pressure(700)).unwrap();
        assert!(
            cpus.call(&command, &pressure(700)).is_err(),
            "it runs still"
        );
        let said = loop {
            if let Some(said) = cpus.reap() {
                break said;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(said.contains("exit status: 3"), "{said}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "/on 700\n");
        assert!(cpus.call(&["/no/such".to_string()], &pressure(1)).is_err());
    }
}
