//! Load averages of a group, by the kernel's own formula over samples of its tasks.
//!
//! No counter of cgroup v2 tells how many tasks want to run. `pids.current` tells how many
//! there are; of these at most [`MOST_LOOKS`] are looked at, spread evenly over the list, and
//! what they do counts for the others.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::read::Root;

/// Time between two samples.
pub const EVERY: Duration = Duration::from_secs(5);
/// Tasks whose state is read for a sample.
const MOST_LOOKS: usize = 64;
/// Tasks of which a sample takes note.
const MOST_LISTED: usize = 32 * 1024;
/// Groups below the boundary that a sample lists the tasks of.
const MOST_GROUPS: usize = 1024;

/// What a group's tasks did when they were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Tasks that ran or waited for a CPU.
    pub running: f64,
    /// Tasks that waited for a disk, or something else that can't be interrupted.
    pub blocked: f64,
    /// All tasks.
    pub tasks: u64,
}

/// The averages of 1, 5 and 15 minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// The averages.
    pub averages: [f64; 3],
    /// The last sample.
    pub now: Sample,
}

impl Load {
    /// Of a group that was never looked at: as if it had always done what it does.
    pub fn first(now: Sample) -> Self {
        Self {
            averages: [now.running + now.blocked; 3],
            now,
        }
    }

    /// With a sample that came `since` the last one.
    pub fn after(self, since: Duration, now: Sample) -> Self {
        let mut averages = self.averages;
        for (average, minutes) in averages.iter_mut().zip([1.0, 5.0, 15.0]) {
            let keeps = (-since.as_secs_f64() / (minutes * 60.0)).exp();
            *average = *average * keeps + (now.running + now.blocked) * (1.0 - keeps);
        }
        Self { averages, now }
    }
}

/// Looks at the tasks of the group in the file system at `path`, and of those in it.
pub fn sample(root: &Root, path: &Path) -> io::Result<Sample> {
    let ids = tasks(path)?;
    let tasks = text(path, "pids.current").and_then(|text| text.parse().ok());
    let tasks: u64 = tasks.unwrap_or(ids.len() as u64);
    let step = ids.len().div_ceil(MOST_LOOKS).max(1);
    let (mut looked, mut running, mut blocked) = (0u32, 0u32, 0u32);
    for &id in ids.iter().step_by(step) {
        // One that has ended since counts for nothing.
        let Ok(stat) = root.stat(id, id) else {
            continue;
        };
        looked += 1;
        running += u32::from(stat.state == 'R');
        blocked += u32::from(stat.state == 'D');
    }
    let all = |part: u32| match looked {
        0 => 0.0,
        _ => f64::from(part) * ids.len() as f64 / f64::from(looked),
    };
    Ok(Sample {
        running: all(running),
        blocked: all(blocked),
        tasks,
    })
}

/// The threads of a group and of those in it, up to a limit.
fn tasks(path: &Path) -> io::Result<Vec<i32>> {
    let mut folders = vec![path.to_path_buf()];
    let mut ids = Vec::new();
    let mut groups = 0;
    while let Some(folder) = folders.pop() {
        let listed = text(&folder, "cgroup.threads").unwrap_or_default();
        let listed = listed.lines().filter_map(|line| line.parse::<i32>().ok());
        ids.extend(listed.take(MOST_LISTED.saturating_sub(ids.len())));
        groups += 1;
        if groups + folders.len() >= MOST_GROUPS || ids.len() >= MOST_LISTED {
            continue;
        }
        // It may have ended since.
        let Ok(below) = std::fs::read_dir(&folder) else {
            continue;
        };
        let below = below.flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| entry.path()).take(MOST_GROUPS));
    }
    Ok(ids)
}

fn text(folder: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(name)).ok()?;
    Some(text.trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_go_to_what_is_there_as_the_kernels_do() {
        let idle = Sample::default();
        let four = Sample {
            running: 3.0,
            blocked: 1.0,
            tasks: 9,
        };
        let mut load = Load::first(idle);
        for _ in 0..12 {
            load = load.after(EVERY, four);
        }
        // 1 - 1/e of it after a minute.
        assert!((load.averages[0] - 4.0 * 0.632).abs() < 0.01, "{load:?}");
        assert!((load.averages[1] - 4.0 * 0.181).abs() < 0.01, "{load:?}");
        assert_eq!(Load::first(four).averages, [4.0; 3]);
    }

    /// A tree of tasks in a group and in one below, each task in a state.
    fn tree(states: &[char]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: String| folder.path().join(path);
        std::fs::create_dir_all(at("cg/below".into())).unwrap();
        let mut lists = [String::new(), String::new()];
        for (id, state) in states.iter().enumerate() {
            let id = id + 1;
            let task = at(format!("proc/{id}/task/{id}"));
            std::fs::create_dir_all(&task).unwrap();
            let stat = format!("{id} (x) {state}{}", " 0".repeat(49));
            std::fs::write(task.join("stat"), stat).unwrap();
            lists[id % 2] += &format!("{id}\n");
        }
        for (list, group) in lists.iter().zip(["cg", "cg/below"]) {
            std::fs::write(at(format!("{group}/cgroup.threads")), list).unwrap();
        }
        let root = Root::at(folder.path());
        (folder, root)
    }

    #[test]
    fn few_tasks_are_counted_and_many_estimated() {
        let (folder, root) = tree(&['R', 'D', 'S', 'R', 'Z']);
        let found = sample(&root, &folder.path().join("cg")).unwrap();
        let five = Sample {
            running: 2.0,
            blocked: 1.0,
            tasks: 5,
        };
        assert_eq!(found, five);

        let states: Vec<_> = (0..1000)
            .map(|at| if at % 5 == 0 { 'R' } else { 'S' })
            .collect();
        let (folder, root) = tree(&states);
        std::fs::write(folder.path().join("cg/pids.current"), "1000\n").unwrap();
        let found = sample(&root, &folder.path().join("cg")).unwrap();
        assert_eq!((found.tasks, found.blocked), (1000, 0.0));
        assert!((100.0..300.0).contains(&found.running), "{found:?}");
    }

    #[test]
    fn a_group_that_has_ended_has_no_load() {
        let (folder, root) = tree(&[]);
        let found = sample(&root, &folder.path().join("gone")).unwrap();
        assert_eq!(found, Sample::default());
    }
}
