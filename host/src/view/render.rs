//! Figures in, text out: each of the files as the kernel would write it for the group's machine.

use std::fmt::Write;
use std::time::Duration;

use super::group::{Disk, Memory};
use super::host::HostMemory;
use super::ledger::{TICKS_A_SECOND, Ticks};
use super::load::Load;
use crate::act::CpuList;

/// Bytes of a page, as in /proc/vmstat.
const PAGE: u64 = 4096;
/// Bytes of a sector, as in /proc/diskstats.
const SECTOR: u64 = 512;

/// What a group's CPUs did.
#[derive(Debug, Clone, Default)]
pub struct Cpus {
    /// What each that is visible did.
    pub each: Vec<(u16, Ticks)>,
    /// What all did.
    pub all: Ticks,
    /// Time since the group was made.
    pub age: Duration,
    /// When it was made, in s since 1970.
    pub born: u64,
}

/// /proc/cpuinfo, of all CPUs of the host.
pub fn cpuinfo(host: &[(u16, String)], list: &CpuList) -> String {
    let mut text = String::new();
    let visible: Vec<u16> = list.cpus().collect();
    for (_, part) in host.iter().filter(|(cpu, _)| visible.contains(cpu)) {
        text += part;
        text += "\n\n";
    }
    text
}

/// /proc/stat. What no group is told, interrupts and turns, is 0.
pub fn stat(cpus: &Cpus, load: &Load) -> String {
    let mut text = String::new();
    let mut line = |name: &str, ticks: Ticks| {
        let Ticks {
            user,
            nice,
            system,
            idle,
            steal,
        } = ticks;
        // Writing to a string can't fail, here and below.
        let _ = writeln!(
            text,
            "{name} {user} {nice} {system} {idle} 0 0 0 {steal} 0 0"
        );
    };
    line("cpu ", cpus.all);
    for (cpu, ticks) in &cpus.each {
        line(&format!("cpu{cpu}"), *ticks);
    }
    let running = load.now.running.round().max(1.0);
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running {running:.0}\nprocs_blocked {:.0}\n\
         softirq 0 0 0 0 0 0 0 0 0 0 0\n",
        cpus.born,
        load.now.tasks,
        load.now.blocked.round()
    );
    text
}

/// /proc/uptime.
pub fn uptime(cpus: &Cpus) -> String {
    let hundredths = |ticks: u64| {
        let (whole, part) = (ticks / TICKS_A_SECOND, ticks % TICKS_A_SECOND);
        format!("{whole}.{part:02}")
    };
    let age = cpus.age.as_millis() / 10;
    let age = u64::try_from(age).unwrap_or(u64::MAX);
    format!("{} {}\n", hundredths(age), hundredths(cpus.all.idle))
}

/// /proc/loadavg. The last id is not told: it would be the host's.
pub fn loadavg(load: &Load) -> String {
    let [one, five, fifteen] = load.averages;
    let running = load.now.running.round().max(1.0);
    format!(
        "{one:.2} {five:.2} {fifteen:.2} {running:.0}/{} 0\n",
        load.now.tasks
    )
}

/// What a group has of memory and swap, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The lowest limit, at most what the host has.
    pub total: u64,
    /// What nobody uses below the limits.
    pub free: u64,
    /// What a program may take without swap and without taking from others.
    pub available: u64,
    /// The same of swap.
    pub swap_total: u64,
    /// The same.
    pub swap_free: u64,
}

impl Sizes {
    /// By the limits of a group and what the host has.
    pub fn new(host: &HostMemory, memory: &Memory) -> Self {
        let total = memory.room.limit.min(host.bytes("MemTotal"));
        let host_available = host.bytes("MemAvailable").min(total);
        // Without a limit what is used is still not free.
        let left = memory.room.left.min(total.saturating_sub(memory.used));
        let free = left.min(host_available);
        let soft = memory.soft_room.left.min(left);
        let available = soft.saturating_add(reclaimable(memory)).min(host_available);
        let swap_total = memory.swap.limit.min(host.bytes("SwapTotal"));
        Self {
            total,
            free,
            available: available.max(free.min(soft)),
            swap_total,
            swap_free: memory.swap.left.min(host.bytes("SwapFree")).min(swap_total),
        }
    }
}

/// What the kernel gets back from the group without writing first: clean pages of files, of
/// which a quarter is left to what runs, and half of the slab that can be freed.
fn reclaimable(memory: &Memory) -> u64 {
    let value = |key: &str| memory.stat.get(key).copied().unwrap_or_default();
    let files = value("active_file").saturating_add(value("inactive_file"));
    let unclean = value("file_dirty").saturating_add(value("file_writeback"));
    let clean = files.saturating_sub(unclean);
    (clean - clean / 4).saturating_add(value("slab_reclaimable") / 2)
}

/// /proc/meminfo: the host's lines in its order, with the group's figures. Lines of which no
/// group has its own are left out, but for what is the same for all.
pub fn meminfo(host: &HostMemory, memory: &Memory) -> String {
    let sizes = Sizes::new(host, memory);
    let value = |key: &str| memory.stat.get(key).copied().unwrap_or_default();
    let sum = |keys: [&str; 2]| value(keys[0]).saturating_add(value(keys[1]));
    let mut text = String::new();
    for line in &host.lines {
        let bytes = match line.key.as_str() {
            "MemTotal" => sizes.total,
            "MemFree" => sizes.free,
            "MemAvailable" => sizes.available,
            "Buffers" => 0,
            "Cached" => value("file"),
            "SwapCached" => value("swapcached"),
            "Active" => sum(["active_anon", "active_file"]),
            "Inactive" => sum(["inactive_anon", "inactive_file"]),
            "Active(anon)" => value("active_anon"),
            "Inactive(anon)" => value("inactive_anon"),
            "Active(file)" => value("active_file"),
            "Inactive(file)" => value("inactive_file"),
            "Unevictable" | "Mlocked" => value("unevictable"),
            "SwapTotal" => sizes.swap_total,
            "SwapFree" => sizes.swap_free,
            "Zswap" => value("zswap"),
            "Zswapped" => value("zswapped"),
            "Dirty" => value("file_dirty"),
            "Writeback" => value("file_writeback"),
            "AnonPages" => value("anon"),
            "Mapped" => value("file_mapped"),
            "Shmem" => value("shmem"),
            "KReclaimable" | "SReclaimable" => value("slab_reclaimable"),
            "Slab" => sum(["slab_reclaimable", "slab_unreclaimable"]),
            "SUnreclaim" => value("slab_unreclaimable"),
            "KernelStack" => value("kernel_stack"),
            "PageTables" => value("pagetables"),
            "SecPageTables" => value("sec_pagetables"),
            "VmallocUsed" => value("vmalloc"),
            "Percpu" => value("percpu"),
            "AnonHugePages" => value("anon_thp"),
            "FileHugePages" => value("file_thp"),
            "ShmemHugePages" => value("shmem_thp"),
            "Hugepagesize" | "VmallocTotal" => line.value.saturating_mul(1024),
            _ => continue,
        };
        let name = format!("{}:", line.key);
        let unit = if line.kb { " kB" } else { "" };
        let _ = writeln!(text, "{name:<15} {:>8}{unit}", bytes / 1024);
    }
    text
}

/// /proc/swaps: one line for what the group may use of all swap.
pub fn swaps(host: &HostMemory, memory: &Memory) -> String {
    let sizes = Sizes::new(host, memory);
    let mut text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_string();
    if sizes.swap_total > 0 {
        let used = sizes.swap_total - sizes.swap_free;
        let (total, used) = (sizes.swap_total / 1024, used / 1024);
        let _ = writeln!(
            text,
            "{:<40}{:<16}{total}\t\t{used}\t\t0",
            "none", "virtual"
        );
    }
    text
}

/// /proc/vmstat: those of the host's names that a group has figures of.
pub fn vmstat(host: &HostMemory, memory: &Memory, disks: &[Disk]) -> String {
    let sizes = Sizes::new(host, memory);
    let moved = |at: usize| -> u64 {
        let bytes = disks.iter().map(|disk| disk.parts[at].1);
        bytes.fold(0, u64::saturating_add) / 1024
    };
    let pages = |key: &str| memory.stat.get(key).map(|bytes| bytes / PAGE);
    let mut text = String::new();
    for name in &host.vmstat {
        let value = match name.as_str() {
            "nr_free_pages" => Some(sizes.free / PAGE),
            "nr_inactive_anon" | "nr_zone_inactive_anon" => pages("inactive_anon"),
            "nr_active_anon" | "nr_zone_active_anon" => pages("active_anon"),
            "nr_inactive_file" | "nr_zone_inactive_file" => pages("inactive_file"),
            "nr_active_file" | "nr_zone_active_file" => pages("active_file"),
            "nr_unevictable" | "nr_zone_unevictable" => pages("unevictable"),
            "nr_anon_pages" => pages("anon"),
            "nr_file_pages" => pages("file"),
            "nr_mapped" => pages("file_mapped"),
            "nr_shmem" => pages("shmem"),
            "nr_dirty" => pages("file_dirty"),
            "nr_writeback" => pages("file_writeback"),
            "nr_slab_reclaimable" => pages("slab_reclaimable"),
            "nr_slab_unreclaimable" => pages("slab_unreclaimable"),
            "nr_page_table_pages" => pages("pagetables"),
            "nr_swapcached" => pages("swapcached"),
            // In KiB.
            "nr_kernel_stack" => memory.stat.get("kernel_stack").map(|bytes| bytes / 1024),
            "pgpgin" => Some(moved(0)),
            "pgpgout" => Some(moved(1)),
            "oom_kill" => Some(memory.oom_kills),
            name => memory.stat.get(name).copied(),
        };
        if let Some(value) = value {
            let _ = writeln!(text, "{name} {value}");
        }
    }
    text
}

/// /proc/diskstats. Times and merged requests are 0: no group is told of them.
pub fn diskstats(disks: &[Disk]) -> String {
    let mut text = String::new();
    for Disk {
        number,
        name,
        parts,
    } in disks
    {
        let [read, written, discarded] = parts.map(|(requests, bytes)| (requests, bytes / SECTOR));
        let _ = writeln!(
            text,
            "{:>4} {:>7} {name} {} 0 {} 0 {} 0 {} 0 0 0 0 {} 0 {} 0 0 0",
            number.0, number.1, read.0, read.1, written.0, written.1, discarded.0, discarded.1
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::group::Room;
    use crate::view::host::MemoryLine;
    use crate::view::load::Sample;

    const MIB: u64 = 1 << 20;

    /// A host of 1 GiB, 600 MiB of it available, with 100 MiB of swap.
    fn host() -> HostMemory {
        let line = |(key, mib): (&str, u64)| MemoryLine {
            key: key.into(),
            value: mib * 1024,
            kb: true,
        };
        let lines = [
            ("MemTotal", 1024),
            ("MemFree", 300),
            ("MemAvailable", 600),
            ("Cached", 500),
            ("SwapTotal", 100),
            ("SwapFree", 80),
            ("CommitLimit", 9),
            ("Hugepagesize", 2),
        ];
        HostMemory {
            lines: lines.map(line).into(),
            vmstat: ["nr_free_pages", "pgfault", "nr_dirtied", "pgpgin"]
                .map(str::to_string)
                .into(),
        }
    }

    fn memory(limit: u64, used: u64, stat: &[(&str, u64)]) -> Memory {
        let room = Room {
            limit: limit * MIB,
            left: (limit - used) * MIB,
        };
        let stat = stat.iter().map(|(key, mib)| (key.to_string(), mib * MIB));
        Memory {
            used: used * MIB,
            room,
            soft_room: room,
            stat: stat.collect(),
            ..Memory::default()
        }
    }

    #[test]
    fn memory_is_the_groups_and_what_can_be_taken_is_there() {
        let stat = [
            ("active_file", 40),
            ("inactive_file", 40),
            ("file_dirty", 20),
            ("file", 85),
        ];
        let text = meminfo(&host(), &memory(256, 100, &stat));
        let kib = |key: &str| -> u64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{key}:")));
            line.unwrap()
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .unwrap()
        };
        assert_eq!(kib("MemTotal"), 256 * 1024);
        assert_eq!(kib("MemFree"), 156 * 1024);
        // 60 MiB of files are clean, and a quarter of them is left to what runs.
        assert_eq!(kib("MemAvailable"), (156 + 45) * 1024);
        assert_eq!(kib("Cached"), 85 * 1024);
        assert_eq!(kib("SwapTotal"), 100 * 1024);
        assert!(!text.contains("CommitLimit"), "{text}");
        assert!(text.starts_with("MemTotal:         262144 kB\n"), "{text}");
    }

    #[test]
    fn no_group_has_more_than_the_host() {
        let sizes = Sizes::new(&host(), &memory(4096, 100, &[]));
        assert_eq!(sizes.total, 1024 * MIB);
        assert_eq!((sizes.free, sizes.available), (600 * MIB, 600 * MIB));
        let none = Memory {
            used: 900 * MIB,
            ..Memory::default()
        };
        assert_eq!(Sizes::new(&host(), &none).free, 124 * MIB);
    }

    #[test]
    fn swap_is_one_line_or_none() {
        let mut memory = memory(256, 100, &[]);
        memory.swap = Room {
            limit: 50 * MIB,
            left: 30 * MIB,
        };
        let text = swaps(&host(), &memory);
        let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["none", "virtual", "51200", "20480", "0"]);
        memory.swap.limit = 0;
        assert_eq!(swaps(&host(), &memory).lines().count(), 1);
    }

    #[test]
    fn vmstat_has_names_that_a_group_has() {
        let mut memory = memory(256, 100, &[]);
        memory.stat.insert("pgfault".into(), 7);
        let disk = Disk {
            parts: [(1, 8192), (0, 0), (0, 0)],
            ..Disk::default()
        };
        assert_eq!(
            vmstat(&host(), &memory, &[disk]),
            "nr_free_pages 39936\npgfault 7\npgpgin 8\n"
        );
    }

    #[test]
    fn a_disk_is_a_line_of_twenty_words() {
        let disk = Disk {
            number: (8, 1),
            name: "sda1".into(),
            parts: [(3, 4096), (5, 1024), (1, 512)],
        };
        assert_eq!(
            diskstats(&[disk]),
            "   8       1 sda1 3 0 8 0 5 0 2 0 0 0 0 1 0 1 0 0 0\n"
        );
    }

    #[test]
    fn cpus_are_those_of_the_list_by_their_own_numbers() {
        let host: Vec<_> = (0..4)
            .map(|cpu| (cpu, format!("processor\t: {cpu}\nflags\t: a")))
            .collect();
        let text = cpuinfo(&host, &"1,3".parse().unwrap());
        assert_eq!(
            text,
            "processor\t: 1\nflags\t: a\n\nprocessor\t: 3\nflags\t: a\n\n"
        );
    }

    #[test]
    fn times_and_loads_are_as_the_kernel_writes_them() {
        let ticks = Ticks {
            user: 5,
            nice: 1,
            system: 2,
            idle: 1234,
            steal: 9,
        };
        let cpus = Cpus {
            each: vec![(2, ticks)],
            all: ticks,
            age: Duration::from_millis(61_239),
            born: 1_000_000,
        };
        let sample = Sample {
            running: 2.4,
            blocked: 0.6,
            tasks: 17,
        };
        let load = Load {
            averages: [0.5, 1.25, 10.0],
            now: sample,
        };
        assert_eq!(uptime(&cpus), "61.23 12.34\n");
        assert_eq!(loadavg(&load), "0.50 1.25 10.00 2/17 0\n");
        let text = stat(&cpus, &load);
        assert!(
            text.starts_with("cpu  5 1 2 1234 0 0 0 9 0 0\ncpu2 5 1 2 1234 0 0 0 9 0 0\nintr 0\n"),
            "{text}"
        );
        assert!(
            text.contains("btime 1000000\n") && text.contains("procs_blocked 1\n"),
            "{text}"
        );
    }
}
