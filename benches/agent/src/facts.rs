//! What is worth knowing of a host beside its kernel's version.

use std::fs;
use std::path::Path;

use dense_record::json::sha256;
use dense_record::measured::Facts;

/// Facts that are a file's text.
const FILES: &[(&str, &str)] = &[
    (
        "governor",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    ),
    ("smt", "sys/devices/system/cpu/smt/control"),
    ("online_cpus", "sys/devices/system/cpu/online"),
    ("avic", "sys/module/kvm_amd/parameters/avic"),
    ("apicv", "sys/module/kvm_intel/parameters/enable_apicv"),
    ("ipiv", "sys/module/kvm_intel/parameters/enable_ipiv"),
    ("ple_gap", "sys/module/kvm_intel/parameters/ple_gap"),
    ("ple_window", "sys/module/kvm_intel/parameters/ple_window"),
    (
        "pause_filter_thresh",
        "sys/module/kvm_amd/parameters/pause_filter_thresh",
    ),
    (
        "pause_filter_count",
        "sys/module/kvm_amd/parameters/pause_filter_count",
    ),
    ("halt_poll_ns", "sys/module/kvm/parameters/halt_poll_ns"),
    ("preemption", "sys/kernel/debug/sched/preempt"),
    ("base_slice_ns", "sys/kernel/debug/sched/base_slice_ns"),
    ("cmdline", "proc/cmdline"),
];

/// Facts that are lines of /proc/cpuinfo.
const CPUINFO: &[(&str, &str)] = &[("cpu", "model name"), ("microcode", "microcode")];

/// The facts of this host.
pub fn facts() -> Facts {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    of(Path::new("/"), &release)
}

fn of(root: &Path, release: &str) -> Facts {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let mut facts = Facts::new();
    for (name, path) in FILES {
        if let Some(text) = read(path) {
            facts.insert((*name).into(), text.trim().into());
        }
    }
    let cpuinfo = read("proc/cpuinfo").unwrap_or_default();
    for (name, label) in CPUINFO {
        if let Some(value) = field(&cpuinfo, label) {
            facts.insert((*name).into(), value);
        }
    }
    let meminfo = read("proc/meminfo").unwrap_or_default();
    if let Some(memory) = field(&meminfo, "MemTotal") {
        facts.insert("memory".into(), memory);
    }
    let mitigations = mitigations(&root.join("sys/devices/system/cpu/vulnerabilities"));
    if !mitigations.is_empty() {
        facts.insert("mitigations".into(), mitigations);
    }
    let configs = [format!("boot/config-{release}"), "proc/config.gz".into()];
    if let Some(config) = configs
        .iter()
        .find_map(|path| fs::read(root.join(path)).ok())
    {
        facts.insert("config_sha256".into(), sha256(&config));
    }
    facts
}

/// The value of the first line `label : value`.
fn field(text: &str, label: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim() == label)?;
    Some(value.trim().into())
}

/// What the kernel does against the processor's faults, those that apply here.
fn mitigations(folder: &Path) -> String {
    let mut lines: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| {
            let text = fs::read_to_string(file.path()).ok()?;
            let name = file.file_name().to_string_lossy().into_owned();
            (text.trim() != "Not affected").then(|| format!("{name}: {}", text.trim()))
        })
        .collect();
    lines.sort();
    lines.join("; ")
}

/// A line about a machine, for tables.
pub fn describe(facts: &Facts) -> String {
    let fact = |name: &str| facts.get(name).map_or("?", String::as_str);
    format!(
        "{}, CPUs {}, {}, SMT {}, governor {}, microcode {}",
        fact("cpu"),
        fact("online_cpus"),
        fact("memory"),
        fact("smt"),
        fact("governor"),
        fact("microcode")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_what_the_host_tells_and_no_more() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            (
                "proc/cpuinfo",
                "model name\t: EPYC\nmicrocode\t: 0x1\n\nmodel name\t: other\n",
            ),
            ("proc/meminfo", "MemTotal:  1024 kB\n"),
            (
                "sys/devices/system/cpu/vulnerabilities/l1tf",
                "Not affected\n",
            ),
            (
                "sys/devices/system/cpu/vulnerabilities/retbleed",
                "Vulnerable\n",
            ),
            ("sys/module/kvm_amd/parameters/avic", "N\n"),
            ("boot/config-6.12", "CONFIG_KVM=y\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let facts = of(root.path(), "6.12");
        assert_eq!(facts["cpu"], "EPYC");
        assert_eq!(facts["microcode"], "0x1");
        assert_eq!(facts["mitigations"], "retbleed: Vulnerable");
        assert_eq!(facts["avic"], "N");
        assert_eq!(facts["config_sha256"], sha256(b"CONFIG_KVM=y\n"));
        assert!(!facts.contains_key("apicv"));
        assert!(describe(&facts).starts_with("EPYC, CPUs ?, 1024 kB"));
    }
}
