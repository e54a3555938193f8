//! What KVM and the scheduler have counted of directed yields, by their debugfs files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Counters by name; empty without debugfs.
pub type Counters = BTreeMap<String, u64>;

/// KVM's statistics of spin exits and yields, all VMs together.
pub fn kvm() -> Counters {
    let files = fs::read_dir("/sys/kernel/debug/kvm")
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let ours = ["yield_hits", "spin_", "directed_yield_"];
            if !ours.iter().any(|prefix| name.starts_with(prefix)) {
                return None;
            }
            let value = fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
            Some((name, value))
        })
        .collect()
}

/// What the scheduler made of yields; empty on a stock host.
pub fn scheduler() -> Counters {
    let file = Path::new("/sys/kernel/debug/sched/directed_yield");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.into(), value.parse().ok()?))
        })
        .collect()
}

/// What was counted since `before`, without what stood still.
pub fn since(after: &Counters, before: &Counters) -> Counters {
    let was = |name| before.get(name).copied().unwrap_or(0);
    after
        .iter()
        .map(|(name, value)| (name.clone(), value.saturating_sub(was(name))))
        .filter(|(_, value)| *value > 0)
        .collect()
}
