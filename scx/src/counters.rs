//! What the BPF program counts, read out of its maps, by whichever process runs it.

use std::collections::BTreeMap;

use libbpf_rs::query::MapInfoIter;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde::Serialize;

use crate::Error;

/// The counters' names, in the order of `enum counter` in bpf/state.h.
pub const COUNTERS: [&str; 22] = [
    "spin",
    "sender",
    "yield",
    "receiver",
    "kick",
    "ranked",
    "lent",
    "debt",
    "gone",
    "ipi",
    "vcpus",
    "preempt",
    "fair_floor",
    "offline_floor",
    "rescued",
    "stolen",
    "migrated",
    "dispatch",
    "fair_ns",
    "offline_ns",
    "vm_ns",
    "kernel_ns",
];

/// Kinds of threads, in the order of `enum kind`.
pub const KINDS: [&str; 5] = ["other", "vcpu", "helper", "kthread", "offline"];

/// Buckets of a histogram: below 1.024 us, and one for each power of two.
pub const BUCKETS: usize = 24;

const COUNTERS_MAP: &str = "vmf_counters";
const WAKEUPS_MAP: &str = "vmf_wakeups";
const VMS_MAP: &str = "vmf_vms";

/// A VM, by the id of its process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VmCounts {
    /// Time that its vCPUs and I/O threads ran.
    pub ran_ns: u64,
    /// Time that its vCPUs waited for a CPU.
    pub waited_ns: u64,
    /// How often a vCPU got a CPU.
    pub turns: u64,
    /// Turns that its vCPUs lent one another.
    pub lent: u64,
    /// vCPUs that exist.
    pub vcpus: u64,
    /// Threads, of vCPUs and I/O, that run or wait for a CPU.
    pub active: u64,
}

/// All that is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By name.
    pub counters: BTreeMap<&'static str, u64>,
    /// Wake-ups by kind of thread, and by how long each waited for a CPU.
    pub wakeups: BTreeMap<&'static str, Vec<u64>>,
    /// VMs by process.
    pub vms: BTreeMap<u32, VmCounts>,
}

/// Reads it; none where no scx_vmfirst runs.
pub fn read() -> Result<Option<Counts>, Error> {
    let mut maps = BTreeMap::new();
    for info in MapInfoIter::default() {
        let name = info.name.to_string_lossy().into_owned();
        if [COUNTERS_MAP, WAKEUPS_MAP, VMS_MAP].contains(&name.as_str()) {
            // One that ends meanwhile is as if it had not been there.
            if let Ok(map) = MapHandle::from_map_id(info.id) {
                maps.insert(name, map);
            }
        }
    }
    let (Some(counters), Some(wakeups), Some(vms)) = (
        maps.get(COUNTERS_MAP),
        maps.get(WAKEUPS_MAP),
        maps.get(VMS_MAP),
    ) else {
        return Ok(None);
    };
    let sums = |map, many: usize| (0..many).map(|at| sum(map, at)).collect::<Result<_, _>>();
    let counted: Vec<u64> = sums(counters, COUNTERS.len())?;
    let wakeups: Vec<u64> = sums(wakeups, KINDS.len() * BUCKETS)?;
    Ok(Some(Counts {
        counters: COUNTERS.into_iter().zip(counted).collect(),
        wakeups: KINDS
            .into_iter()
            .zip(wakeups.chunks(BUCKETS).map(<[u64]>::to_vec))
            .collect(),
        vms: vms.keys().filter_map(|key| vm(vms, &key)).collect(),
    }))
}

/// A number that each CPU has its own part of.
fn sum(map: &MapHandle, at: usize) -> Result<u64, Error> {
    let key = (at as u32).to_ne_bytes();
    let parts = map.lookup_percpu(&key, MapFlags::ANY);
    let parts = parts.map_err(|source| Error::Bpf {
        what: "read what is counted",
        source,
        hint: "it takes root",
    })?;
    let numbers = parts.iter().flatten().map(|bytes| words(bytes)[0]);
    Ok(numbers.sum())
}

fn vm(map: &MapHandle, key: &[u8]) -> Option<(u32, VmCounts)> {
    let value = map.lookup(key, MapFlags::ANY).ok()??;
    let [ran_ns, waited_ns, turns, lent, vcpus, active] = words(&value)[..].try_into().ok()?;
    let counts = VmCounts {
        ran_ns,
        waited_ns,
        turns,
        lent,
        vcpus,
        active,
    };
    Some((u32::from_ne_bytes(key.try_into().ok()?), counts))
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

/// The least time that `share` of the wake-ups did not exceed, in us; none without wake-ups.
pub fn quantile_us(buckets: &[u64], share: f64) -> Option<u64> {
    let all: u64 = buckets.iter().sum();
    let mut before = 0;
    let at = buckets.iter().position(|many| {
        before += many;
        before as f64 >= share * all as f64
    });
    at.filter(|_| all > 0).map(bound_us)
}

/// Where a bucket ends, in units of 1.024 us, which are called us.
pub fn bound_us(bucket: usize) -> u64 {
    1 << bucket.min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = include_str!("../bpf/state.h");

    /// The names of an enumeration in the C, without their prefix.
    fn names(begin: &str, prefix: &str) -> Vec<String> {
        let (_, rest) = STATE.split_once(begin).unwrap();
        let (body, _) = rest.split_once("};").unwrap();
        let words = body.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let names = words.filter_map(|word| word.strip_prefix(prefix));
        names.map(str::to_lowercase).collect()
    }

    #[test]
    fn names_and_numbers_are_those_of_the_bpf_program() {
        assert_eq!(names("enum counter {", "C_"), COUNTERS);
        assert_eq!(names("enum kind {", "K_"), KINDS);
        assert!(STATE.contains(&format!("#define BUCKETS\t\t{BUCKETS}\n")));
        let cpus = crate::machine::MAX_CPUS;
        assert!(STATE.contains(&format!("#define MAX_CPUS\t{cpus}\n")));
        for map in [COUNTERS_MAP, WAKEUPS_MAP, VMS_MAP] {
            assert!(
                STATE.contains(&format!("}} {map} SEC(\".maps\");")),
                "{map}"
            );
            // The kernel keeps 15 characters of a name.
            assert!(map.len() <= 15, "{map}");
        }
    }

    #[test]
    fn a_vm_has_as_many_numbers_as_in_the_bpf_program() {
        let (_, rest) = STATE.split_once("struct vm {\n").unwrap();
        let (body, _) = rest.split_once("};").unwrap();
        assert_eq!(body.matches("u64 ").count(), 6);
        assert_eq!(body.matches(';').count(), 6);
    }

    #[test]
    fn quantiles_are_the_ends_of_buckets() {
        assert_eq!(quantile_us(&[0, 0], 0.99), None);
        assert_eq!(quantile_us(&[99, 1], 0.99), Some(1));
        assert_eq!(quantile_us(&[98, 1, 1], 0.99), Some(2));
        assert_eq!(quantile_us(&[0, 0, 5], 0.5), Some(4));
    }
}
