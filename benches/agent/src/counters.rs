//! What the host's kernel counts for the VMs: KVM's statistics in debugfs, the
//! scheduler's for the vCPU threads.
//!
//! A counter that a kernel does not have is absent, not 0.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use vmfirst_host::read::KVM_COUNTERS;

use crate::third::ThirdParty;

/// Labels in /proc/<pid>/task/<tid>/sched of what is kept, and its names here.
const SCHED: &[(&str, &str)] = &[
    ("se.nr_migrations", "vcpu_migrations"),
    ("nr_switches", "vcpu_switches"),
];

/// Where debugfs has a folder `<pid>-<fd>` for each VM.
const DEBUGFS: &str = "/sys/kernel/debug/kvm";

/// The scheduler's own statistics of directed yield, on a kernel that has them.
const DIRECTED_YIELD: &str = "/sys/kernel/debug/sched/directed_yield";

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// The counters of the VMs that these processes run, summed, and the third party's.
pub fn snapshot(pids: &[u32], third: Option<&ThirdParty>) -> Counters {
    let mut sum = Counters::new();
    if let Some(run_ns) = third.and_then(ThirdParty::run_ns) {
        sum.insert("third_party_run_ns".into(), run_ns);
    }
    for &pid in pids {
        add(&mut sum, kvm(Path::new(DEBUGFS), pid));
        add(&mut sum, threads(Path::new("/proc"), pid));
    }
    add(&mut sum, pairs(Path::new(DIRECTED_YIELD)));
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    if let Some(n) = field(&stat, "ctxt ") {
        sum.insert("host_context_switches".into(), n);
    }
    sum
}

/// What was counted between two snapshots.
pub fn difference(before: &Counters, after: &Counters) -> Counters {
    after
        .iter()
        .filter_map(|(name, end)| Some((name.clone(), end.saturating_sub(*before.get(name)?))))
        .collect()
}

fn add(sum: &mut Counters, more: Counters) {
    for (name, count) in more {
        *sum.entry(name).or_default() += count;
    }
}

fn kvm(debugfs: &Path, pid: u32) -> Counters {
    let prefix = format!("{pid}-");
    let folders = fs::read_dir(debugfs).into_iter().flatten().flatten();
    let mut sum = Counters::new();
    for folder in folders.filter(|f| f.file_name().to_string_lossy().starts_with(&prefix)) {
        for name in KVM_COUNTERS {
            let text = fs::read_to_string(folder.path().join(name)).unwrap_or_default();
            if let Ok(count) = text.trim().parse() {
                add(&mut sum, Counters::from([(name.into(), count)]));
            }
        }
    }
    sum
}

/// Run time and run delay of the vCPU threads in ns, and how often they ran:
/// Documentation/scheduler/sched-stats.rst; their moves between CPUs.
fn threads(proc: &Path, pid: u32) -> Counters {
    let tasks = fs::read_dir(proc.join(pid.to_string()).join("task"));
    let mut sum = Counters::new();
    for task in tasks.into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if !read("comm").starts_with("vcpu") {
            continue;
        }
        let names = ["vcpu_run_ns", "vcpu_delay_ns", "vcpu_runs"];
        for (name, value) in names.iter().zip(read("schedstat").split_whitespace()) {
            if let Ok(count) = value.parse() {
                add(&mut sum, Counters::from([((*name).into(), count)]));
            }
        }
        let sched = read("sched");
        for (label, name) in SCHED {
            if let Some(count) = field(&sched, label) {
                add(&mut sum, Counters::from([((*name).into(), count)]));
            }
        }
    }
    sum
}

/// A file of lines `name value`; other lines are left out.
fn pairs(path: &Path) -> Counters {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.trim().rsplit_once(char::is_whitespace)?;
        let name = name.trim_end_matches([' ', '\t', ':']).replace(' ', "_");
        Some((name, value.parse().ok()?))
    });
    pairs.collect()
}

/// The number at the end of the line that begins with `label`.
fn field(text: &str, label: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(label))?
        .trim_start_matches([' ', ':'])
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn kvm_counters_are_those_of_the_process_and_absent_if_unknown() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "12-4/exits", "10\n");
        write(root.path(), "12-4/spin_exits", "3\n");
        write(root.path(), "123-4/exits", "1000\n");
        let counters = kvm(root.path(), 12);
        assert_eq!(counters["exits"], 10);
        assert_eq!(counters["spin_exits"], 3);
        assert!(!counters.contains_key("yield_attempts"));
    }

    #[test]
    fn lines_of_names_and_values_are_counters() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            "file",
            "transfers 12\nhandoffs:  3\n\nmode off\n",
        );
        let counters = pairs(&root.path().join("file"));
        let expected = [("handoffs", 3), ("transfers", 12)];
        assert_eq!(
            counters,
            Counters::from(expected.map(|(name, n)| (name.to_string(), n)))
        );
        assert_eq!(pairs(Path::new("/nowhere")), Counters::new());
    }

    #[test]
    fn only_vcpu_threads_count() {
        let root = tempfile::tempdir().unwrap();
        for (tid, comm) in [(1, "vmm"), (2, "vcpu0"), (3, "vcpu1")] {
            write(root.path(), &format!("1/task/{tid}/comm"), comm);
            write(
                root.path(),
                &format!("1/task/{tid}/schedstat"),
                "100 20 3\n",
            );
            let sched = "se.nr_migrations  :         7\nnr_switches  :       5\n";
            write(root.path(), &format!("1/task/{tid}/sched"), sched);
        }
        let counters = threads(root.path(), 1);
        let expected = [
            ("vcpu_delay_ns", 40),
            ("vcpu_migrations", 14),
            ("vcpu_run_ns", 200),
            ("vcpu_runs", 6),
            ("vcpu_switches", 10),
        ]
        .map(|(name, n)| (name.to_string(), n));
        assert_eq!(counters, Counters::from(expected));
    }

    #[test]
    fn a_difference_has_what_both_have() {
        let before = Counters::from([("a".into(), 1), ("b".into(), 5)]);
        let after = Counters::from([("a".into(), 4), ("c".into(), 9)]);
        assert_eq!(
            difference(&before, &after),
            Counters::from([("a".into(), 3)])
        );
    }
}
