//! What the host has: sched_ext, KVM, hooks, caches.

use std::collections::BTreeMap;
use std::fs;

use vmfirst_host::read::Root;

use crate::Error;

/// CPUs that the BPF program has room for.
pub const MAX_CPUS: usize = 1024;

/// The BPF programs that look at KVM, each with what it hooks and what is lost without it.
pub const HOOKS: [Hook; 5] = [
    Hook {
        program: "on_vcpu_load",
        symbol: "kvm_arch_vcpu_load",
        lost: "vCPUs are not recognised",
    },
    Hook {
        program: "on_ipi",
        symbol: "__tracepoint_kvm_apic_ipi",
        lost: "who waits for an IPI's answer is not known",
    },
    Hook {
        program: "on_accept",
        symbol: "__apic_accept_irq",
        lost: "an IPI's receivers are not known",
    },
    Hook {
        program: "on_spin",
        symbol: "kvm_vcpu_on_spin",
        lost: "spin exits are not counted, and no receiver runs first",
    },
    Hook {
        program: "after_spin",
        symbol: "kvm_vcpu_on_spin",
        lost: "a receiver does not run where KVM finds nobody to yield to",
    },
];

/// A BPF program that hooks a function of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// The program's name.
    pub program: &'static str,
    /// What the kernel calls what it hooks.
    pub symbol: &'static str,
    /// What does not work without it.
    pub lost: &'static str,
}

/// A kernel on which this scheduler was tried, or must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// How its release begins.
    pub release: &'static str,
    /// Whether it is refused.
    pub bad: bool,
    /// What came out.
    pub result: &'static str,
}

/// The kernels that are known.
pub const TRIED: &[Tried] = &[
    Tried {
        release: "7.3.4+deb13",
        bad: false,
        result: "Debian's package (trixie-backports), cloud flavour, emulated AMD host: guests \
                 boot, yields are redirected, floors hold",
    },
    Tried {
        release: "7.1.3",
        bad: true,
        result: "not tried: sched-ext/scx #3687 reports hosts that hang when a KVM guest boots \
                 under a sched_ext scheduler",
    },
];

/// What is known of a release.
pub fn tried(release: &str) -> Option<&'static Tried> {
    let is_it = |tried: &&Tried| match release.strip_prefix(tried.release) {
        Some(rest) => !rest.starts_with(|c: char| c.is_ascii_digit()),
        None => false,
    };
    TRIED.iter().find(is_it)
}

/// Which CPUs share a last-level cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caches {
    /// By CPU.
    pub llc: Vec<u16>,
    /// How many CPUs each has.
    pub cpus: Vec<u32>,
}

/// The kernel's release.
pub fn release(root: &Root) -> String {
    let text = root.text("proc/sys/kernel/osrelease");
    text.unwrap_or_else(|_| "unknown".into())
}

/// Refuses a host that can't run it, in the words of what to do.
pub fn check(root: &Root, force: bool) -> Result<(), Error> {
    let release = release(root);
    let refuse = |why: String| Err(Error::Unavailable(why));
    if !root.path("sys/kernel/sched_ext").exists() {
        return refuse(format!(
            "this kernel ({release}) has no sched_ext (CONFIG_SCHED_CLASS_EXT): Debian's 7.2 and \
             7.3 of trixie-backports, Ubuntu's from 25.04 on, Fedora's, Arch's and openSUSE \
             Tumbleweed's have it, Debian's 6.12 does not"
        ));
    }
    if let Some(known) = tried(&release).filter(|tried| tried.bad && !force) {
        return refuse(format!(
            "kernel {release} is known to be bad ({}); --force loads it all the same",
            known.result
        ));
    }
    let isolated = root.text("sys/devices/system/cpu/isolated");
    if let Some(cpus) = isolated.ok().filter(|cpus| !cpus.is_empty()) {
        return refuse(format!(
            "the kernel loads no sched_ext scheduler where CPUs are isolated (isolcpus={cpus}): \
             boot without, and use cpusets"
        ));
    }
    if let Some(other) = running(root) {
        return refuse(format!(
            "the scheduler {other} runs already: stop it first; only one can"
        ));
    }
    if !root.path("sys/module/kvm").exists() {
        return refuse("KVM is not loaded: modprobe kvm_amd or kvm_intel first".into());
    }
    Ok(())
}

/// The sched_ext scheduler that runs.
pub fn running(root: &Root) -> Option<String> {
    if root.text("sys/kernel/sched_ext/state").ok()? != "enabled" {
        return None;
    }
    let ops = root.text("sys/kernel/sched_ext/root/ops");
    Some(ops.unwrap_or_else(|_| "of an unknown name".into()))
}

/// The hooks that this kernel lacks.
pub fn missing_hooks(root: &Root) -> Vec<Hook> {
    let symbols = root.text("proc/kallsyms").unwrap_or_default();
    let has = |symbol: &str| {
        let mut names = symbols
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2));
        names.any(|name| name == symbol)
    };
    let missing = HOOKS.into_iter().filter(|hook| !has(hook.symbol));
    missing.collect()
}

/// Who shares which last-level cache, by the caches of the highest level that the kernel tells.
pub fn caches(root: &Root) -> Result<Caches, Error> {
    let possible = root.text("sys/devices/system/cpu/possible");
    let cpus = possible.ok().as_deref().and_then(last_cpu);
    let cpus = cpus.map_or(1, |last| last + 1);
    if cpus > MAX_CPUS {
        return Err(Error::Unavailable(format!(
            "this host may have {cpus} CPUs, the scheduler has room for {MAX_CPUS}"
        )));
    }
    let mut numbers = BTreeMap::new();
    let mut caches = Caches {
        llc: Vec::new(),
        cpus: Vec::new(),
    };
    for cpu in 0..cpus {
        let next = numbers.len();
        let number = *numbers.entry(last_cache(root, cpu)).or_insert(next);
        if number == caches.cpus.len() {
            caches.cpus.push(0);
        }
        caches.cpus[number] += 1;
        caches.llc.push(u16::try_from(number).unwrap_or_default());
    }
    Ok(caches)
}

fn last_cpu(list: &str) -> Option<usize> {
    list.rsplit([',', '-']).next()?.trim().parse().ok()
}

/// The CPUs that share the last-level cache of one, as the kernel writes them.
fn last_cache(root: &Root, cpu: usize) -> String {
    let folder = format!("sys/devices/system/cpu/cpu{cpu}/cache");
    let indexes = (0..8).filter_map(|index| {
        let file = |name: &str| root.text(&format!("{folder}/index{index}/{name}")).ok();
        let level: u32 = file("level")?.parse().ok()?;
        Some((level, file("shared_cpu_list")?))
    });
    let last = indexes.max_by_key(|(level, _)| *level);
    last.map(|(_, cpus)| cpus).unwrap_or_default()
}

/// How many control groups have a limit of CPU time, which sched_ext leaves to the scheduler.
pub fn limited_groups(root: &Root) -> usize {
    let mut found = 0;
    let mut folders = vec![root.path("sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let limit = fs::read_to_string(folder.join("cpu.max"));
        found += usize::from(limit.is_ok_and(|text| !text.starts_with("max")));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        folders.extend(entries.filter(is_folder).map(|entry| entry.path()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::at(dir.path());
        (dir, root)
    }

    fn refused(files: &[(&str, &str)], force: bool) -> String {
        let (_dir, root) = host(files);
        let error = check(&root, force).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn what_the_host_lacks_is_said_in_one_line() {
        let release = ("proc/sys/kernel/osrelease", "6.12.117-cloud-amd64\n");
        let state = ("sys/kernel/sched_ext/state", "disabled\n");
        let none = refused(&[release], false);
        assert!(none.contains("6.12.117-cloud-amd64") && none.contains("trixie-backports"));
        assert!(refused(&[release, state], false).contains("modprobe"));
        let kvm = ("sys/module/kvm/refcnt", "0\n");
        assert_eq!(refused(&[release, state, kvm], false), "");
        let isolated = ("sys/devices/system/cpu/isolated", "2-3\n");
        assert!(refused(&[release, state, kvm, isolated], false).contains("isolcpus=2-3"));
        let other = [
            ("sys/kernel/sched_ext/state", "enabled\n"),
            ("sys/kernel/sched_ext/root/ops", "lavd\n"),
        ];
        assert!(refused(&[other[0], other[1], kvm], false).contains("lavd"));
    }

    #[test]
    fn a_kernel_that_is_known_bad_is_refused_and_can_be_forced() {
        let files = [
            ("proc/sys/kernel/osrelease", "7.1.3-arch1\n"),
            ("sys/kernel/sched_ext/state", "disabled\n"),
            ("sys/module/kvm/refcnt", "0\n"),
        ];
        assert!(refused(&files, false).contains("--force"));
        assert_eq!(refused(&files, true), "");
        assert_eq!(tried("7.1.30"), None);
        assert!(!tried("7.3.4+deb13-cloud-amd64").unwrap().bad);
    }

    #[test]
    fn hooks_are_looked_for_by_their_whole_names() {
        let symbols = "0 t kvm_arch_vcpu_load\t[kvm]\n0 t kvm_vcpu_on_spin_x\t[kvm]\n\
            0 d __tracepoint_kvm_apic_ipi [kvm]\n0 t __apic_accept_irq\t[kvm]\n";
        let (_dir, root) = host(&[("proc/kallsyms", symbols)]);
        let missing: Vec<_> = missing_hooks(&root).iter().map(|h| h.program).collect();
        assert_eq!(missing, ["on_spin", "after_spin"]);
    }

    #[test]
    fn caches_are_by_their_highest_level() {
        let cache = |cpu: u32, index: u32, level: u32, cpus: &str| {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
            [
                (format!("{folder}/level"), format!("{level}\n")),
                (format!("{folder}/shared_cpu_list"), format!("{cpus}\n")),
            ]
        };
        let mut files = vec![(
            "sys/devices/system/cpu/possible".to_string(),
            "0-3\n".into(),
        )];
        for (cpu, cpus) in [(0, "0,2"), (1, "1"), (2, "0,2"), (3, "3")] {
            files.extend(cache(cpu, 0, 1, &cpu.to_string()));
            files.extend(cache(cpu, 3, 3, cpus));
        }
        let files: Vec<_> = files
            .iter()
            .map(|(path, text): &(String, String)| (path.as_str(), text.as_str()))
            .collect();
        let (_dir, root) = host(&files);
        let expected = Caches {
            llc: vec![0, 1, 0, 2],
            cpus: vec![2, 1, 1],
        };
        assert_eq!(caches(&root).unwrap(), expected);
        // Nothing is told: all share one.
        let (_dir, root) = host(&[("sys/devices/system/cpu/possible", "0-1\n")]);
        assert_eq!(caches(&root).unwrap().cpus, [2]);
        let (_dir, root) = host(&[("sys/devices/system/cpu/possible", "0-4095\n")]);
        assert!(caches(&root).is_err());
    }

    #[test]
    fn limits_are_counted_at_any_depth() {
        let (_dir, root) = host(&[
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/c/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/d/cpu.max", "10000 100000\n"),
        ]);
        assert_eq!(limited_groups(&root), 2);
    }
}
