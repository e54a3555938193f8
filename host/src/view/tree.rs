//! Which files there are, laid out as lxcfs lays them out.
//!
//! Numbers of files are the same in each process that serves a mount, so that one that takes
//! over a mount knows the files that the kernel has in mind.

/// What stands in a file that is made for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// /proc/cpuinfo
    Cpuinfo,
    /// /proc/diskstats
    Diskstats,
    /// /proc/loadavg
    Loadavg,
    /// /proc/meminfo
    Meminfo,
    /// /proc/stat
    Stat,
    /// /proc/swaps
    Swaps,
    /// /proc/uptime
    Uptime,
    /// /proc/vmstat
    Vmstat,
    /// /proc/pressure/*, of a group's file of this name
    Pressure(&'static str),
    /// online and present in /sys/devices/system/cpu
    Cpus,
}

/// What a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A folder whose files are the same for all.
    Folder,
    /// The folder whose cpuN are the reader's CPUs.
    CpuFolder,
    /// A folder of a CPU.
    Cpu(u16),
    /// A file that is made for the reader.
    Made(Made),
    /// A file of the host.
    Host,
}

/// A number's place.
#[derive(Debug, Clone, Copy)]
struct Entry {
    parent: u64,
    name: &'static str,
    node: Node,
    /// The file on the host.
    path: &'static str,
}

const fn folder(parent: u64, name: &'static str) -> Entry {
    entry(parent, name, Node::Folder, "")
}

const fn entry(parent: u64, name: &'static str, node: Node, path: &'static str) -> Entry {
    Entry {
        parent,
        name,
        node,
        path,
    }
}

/// The root of all.
pub const ROOT: u64 = 1;
const PROC: u64 = 2;
const SYS: u64 = 3;
const DEVICES: u64 = 4;
const SYSTEM: u64 = 5;
const CPU: u64 = 6;
const PRESSURE: u64 = 7;

/// Numbers are places in this list; the first is of no file.
const ENTRIES: [Entry; 28] = [
    folder(0, ""),
    folder(0, ""),
    folder(ROOT, "proc"),
    folder(ROOT, "sys"),
    folder(SYS, "devices"),
    folder(DEVICES, "system"),
    entry(SYSTEM, "cpu", Node::CpuFolder, ""),
    folder(PROC, "pressure"),
    entry(PROC, "cpuinfo", Node::Made(Made::Cpuinfo), "proc/cpuinfo"),
    entry(
        PROC,
        "diskstats",
        Node::Made(Made::Diskstats),
        "proc/diskstats",
    ),
    entry(PROC, "loadavg", Node::Made(Made::Loadavg), "proc/loadavg"),
    entry(PROC, "meminfo", Node::Made(Made::Meminfo), "proc/meminfo"),
    entry(PROC, "stat", Node::Made(Made::Stat), "proc/stat"),
    entry(PROC, "swaps", Node::Made(Made::Swaps), "proc/swaps"),
    entry(PROC, "uptime", Node::Made(Made::Uptime), "proc/uptime"),
    entry(PROC, "vmstat", Node::Made(Made::Vmstat), "proc/vmstat"),
    entry(
        PRESSURE,
        "cpu",
        Node::Made(Made::Pressure("cpu.pressure")),
        "proc/pressure/cpu",
    ),
    entry(
        PRESSURE,
        "io",
        Node::Made(Made::Pressure("io.pressure")),
        "proc/pressure/io",
    ),
    entry(
        PRESSURE,
        "memory",
        Node::Made(Made::Pressure("memory.pressure")),
        "proc/pressure/memory",
    ),
    entry(
        PRESSURE,
        "irq",
        Node::Made(Made::Pressure("irq.pressure")),
        "proc/pressure/irq",
    ),
    entry(
        CPU,
        "online",
        Node::Made(Made::Cpus),
        "sys/devices/system/cpu/online",
    ),
    entry(
        CPU,
        "present",
        Node::Made(Made::Cpus),
        "sys/devices/system/cpu/present",
    ),
    entry(
        CPU,
        "possible",
        Node::Host,
        "sys/devices/system/cpu/possible",
    ),
    entry(CPU, "offline", Node::Host, "sys/devices/system/cpu/offline"),
    entry(
        CPU,
        "kernel_max",
        Node::Host,
        "sys/devices/system/cpu/kernel_max",
    ),
    entry(
        CPU,
        "isolated",
        Node::Host,
        "sys/devices/system/cpu/isolated",
    ),
    entry(
        CPU,
        "modalias",
        Node::Host,
        "sys/devices/system/cpu/modalias",
    ),
    // lxcfs's hook for LXC mounts the whole folder if it has this file.
    entry(CPU, "uevent", Node::Host, "sys/devices/system/cpu/uevent"),
];

/// Numbers of CPUs' files begin here, [`CPU_STRIDE`] for each.
const FIRST_CPU: u64 = 1024;
const CPU_STRIDE: u64 = 32;
/// Folders and files of a CPU. The first is the CPU's own; numbers are places in this list.
const CPU_ENTRIES: [&str; 19] = [
    "",
    "topology",
    "topology/cluster_cpus",
    "topology/cluster_cpus_list",
    "topology/cluster_id",
    "topology/core_cpus",
    "topology/core_cpus_list",
    "topology/core_id",
    "topology/core_siblings",
    "topology/core_siblings_list",
    "topology/die_cpus",
    "topology/die_cpus_list",
    "topology/die_id",
    "topology/package_cpus",
    "topology/package_cpus_list",
    "topology/physical_package_id",
    "topology/thread_siblings",
    "topology/thread_siblings_list",
    "uevent",
];

/// What a number stands for; none for one that is no file's.
pub fn node(number: u64) -> Option<Node> {
    match cpu_place(number) {
        Some((cpu, 0)) => Some(Node::Cpu(cpu)),
        Some((_, 1)) => Some(Node::Folder),
        Some(_) => Some(Node::Host),
        None if number < ROOT => None,
        None => entry_of(number).map(|entry| entry.node),
    }
}

/// The CPU that a file is of; none for those that all CPUs have in common.
pub fn cpu_of(number: u64) -> Option<u16> {
    cpu_place(number).map(|(cpu, _)| cpu)
}

/// Where a file is on the host.
pub fn path(number: u64) -> Option<String> {
    match cpu_place(number) {
        Some((cpu, place)) => Some(format!(
            "sys/devices/system/cpu/cpu{cpu}/{}",
            CPU_ENTRIES[place]
        )),
        None => entry_of(number).map(|entry| entry.path.to_string()),
    }
}

/// The number of what is called `name` in a folder.
pub fn find(parent: u64, name: &str) -> Option<u64> {
    if parent == CPU
        && let Some(cpu) = cpu_number(name)
    {
        return Some(cpu_file(cpu));
    }
    children(parent).find_map(|(number, found)| (found == name).then_some(number))
}

/// What is in a folder, without the folders of CPUs.
pub fn children(parent: u64) -> impl Iterator<Item = (u64, &'static str)> {
    let all = ENTRIES
        .iter()
        .enumerate()
        .filter(move |(_, entry)| entry.parent == parent);
    let all = all.map(|(number, entry)| (number as u64, entry.name));
    let cpu = cpu_place(parent);
    let files = CPU_ENTRIES.iter().enumerate().skip(1);
    let of_cpu = files.filter_map(move |(place, name)| {
        let (cpu, at) = cpu?;
        let name = match at {
            0 => Some(*name).filter(|name| !name.contains('/')),
            1 => name.strip_prefix("topology/"),
            _ => None,
        };
        Some((cpu_file(cpu) + place as u64, name?))
    });
    all.filter(move |(number, _)| *number >= ROOT && parent >= ROOT)
        .chain(of_cpu)
}

/// The number of a CPU's folder.
pub fn cpu_file(cpu: u16) -> u64 {
    FIRST_CPU + u64::from(cpu) * CPU_STRIDE
}

/// The CPU of a file, and its place in [`CPU_ENTRIES`].
fn cpu_place(number: u64) -> Option<(u16, usize)> {
    let at = number.checked_sub(FIRST_CPU)?;
    let cpu = u16::try_from(at / CPU_STRIDE).ok()?;
    let place = usize::try_from(at % CPU_STRIDE).ok()?;
    (place < CPU_ENTRIES.len()).then_some((cpu, place))
}

fn entry_of(number: u64) -> Option<&'static Entry> {
    ENTRIES.get(usize::try_from(number).ok()?)
}

/// "cpu12" is the CPU 12; "cpu012" is nothing.
fn cpu_number(name: &str) -> Option<u16> {
    let number = name.strip_prefix("cpu")?;
    let cpu: u16 = number.parse().ok()?;
    (cpu.to_string() == number).then_some(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(path: &str) -> Option<u64> {
        path.split('/').try_fold(ROOT, find)
    }

    #[test]
    fn paths_are_lxcfss() {
        let node_of = |path: &str| walk(path).and_then(node);
        assert_eq!(node_of("proc/meminfo"), Some(Node::Made(Made::Meminfo)));
        assert_eq!(
            node_of("proc/pressure/io"),
            Some(Node::Made(Made::Pressure("io.pressure")))
        );
        assert_eq!(
            node_of("sys/devices/system/cpu/online"),
            Some(Node::Made(Made::Cpus))
        );
        assert_eq!(node_of("sys/devices/system/cpu"), Some(Node::CpuFolder));
        assert_eq!(
            node_of("sys/devices/system/cpu/cpu300"),
            Some(Node::Cpu(300))
        );
        let file = walk("sys/devices/system/cpu/cpu7/topology/core_id").unwrap();
        assert_eq!(node(file), Some(Node::Host));
        assert_eq!(
            path(file).unwrap(),
            "sys/devices/system/cpu/cpu7/topology/core_id"
        );
        assert_eq!(cpu_of(file), Some(7));
        for nothing in [
            "",
            "proc/kcore",
            "sys/devices/system/cpu/cpu007",
            "sys/devices/system/cpu/cpu70000",
            "sys/devices/system/cpu/cpu7/topology/topology",
            "proc/cpuinfo/x",
        ] {
            assert_eq!(walk(nothing), None, "{nothing}");
        }
    }

    proptest! {
        /// A request may have any number in it.
        #[test]
        fn any_number_is_a_file_or_nothing(number in any::<u64>(), near in 0u64..5000, name in "\\PC{0,12}") {
            for number in [number, near] {
                let _ = (node(number), path(number), cpu_of(number), find(number, &name));
                for (child, name) in children(number) {
                    prop_assert_eq!(find(number, name), Some(child));
                    prop_assert!(node(child).is_some());
                }
            }
        }
    }
}
