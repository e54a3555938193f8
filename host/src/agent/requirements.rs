//! System requirements: each that this host lacks is told, and carried into every report.

use std::path::Path;

use serde::Serialize;

use crate::read::Root;

/// Something that the host must have for a part of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// What is lacking.
    pub name: &'static str,
    /// What doesn't work without it.
    pub lost: &'static str,
    /// How to get it.
    pub get: &'static str,
}

/// All that a host can lack, and whether this one has it.
fn all(root: &Root, base: &Path) -> Vec<(bool, Requirement)> {
    let controllers = std::fs::read_to_string(base.join("cgroup.controllers"));
    let controllers = controllers.unwrap_or_default();
    let controller = |name| controllers.split_whitespace().any(|word| word == name);
    let mounts = root.text("proc/self/mountinfo").unwrap_or_default();
    let mut mounts = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    let recursive = mounts.any(|line| line.contains("memory_recursiveprot"));
    let some_group = |file: &str| {
        let groups = std::fs::read_dir(base).into_iter().flatten().flatten();
        groups
            .into_iter()
            .any(|group| group.path().join(file).exists())
    };
    let host = |path: &str| root.path(path).exists();
    let row = |has, name, lost, get| (has, Requirement { name, lost, get });
    vec![
        row(
            controller("cpu"),
            "controller cpu",
            "priorities on CPUs",
            "a kernel with CONFIG_CGROUP_SCHED, and no CPU controller on cgroup v1",
        ),
        row(
            controller("memory"),
            "controller memory",
            "priorities on memory",
            "a kernel with CONFIG_MEMCG, without cgroup_disable=memory",
        ),
        row(
            controller("io"),
            "controller io",
            "priorities on disks",
            "a kernel with CONFIG_BLK_CGROUP",
        ),
        row(
            some_group("cpu.idle"),
            "cpu.idle",
            "offline groups that run only when nobody beside them would",
            "Linux 5.15, with the controller cpu enabled for a group",
        ),
        row(
            some_group("memory.reclaim"),
            "memory.reclaim",
            "reclaim by priority",
            "Linux 5.19, with the controller memory enabled for a group",
        ),
        row(
            recursive,
            "memory_recursiveprot",
            "memory.low of a group protects only groups in it with memory.low of their own",
            "mount cgroup v2 with memory_recursiveprot, as systemd does",
        ),
        row(
            host("proc/pressure/memory"),
            "PSI",
            "reclaim by pressure",
            "a kernel with CONFIG_PSI, psi=1 on its command line",
        ),
        row(
            base.join("io.cost.qos").exists(),
            "io.cost",
            "io.weight",
            "a kernel with CONFIG_BLK_CGROUP_IOCOST",
        ),
        row(
            some_group("io.latency"),
            "io.latency",
            "io_latency_us",
            "a kernel with CONFIG_BLK_CGROUP_IOLATENCY",
        ),
    ]
}

/// What this host lacks.
pub fn missed(root: &Root, base: &Path) -> Vec<Requirement> {
    let all = all(root, base).into_iter();
    all.filter_map(|(has, requirement)| (!has).then_some(requirement))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_a_host_lacks_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        let base = folder.path().join("sys/fs/cgroup");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let names = || -> Vec<_> { missed(&root, &base).iter().map(|m| m.name).collect() };
        assert_eq!(names().len(), 9);
        write("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
        write("sys/fs/cgroup/a/cpu.idle", "0\n");
        write("sys/fs/cgroup/a/memory.reclaim", "");
        write("proc/pressure/memory", "");
        let mount = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory_recursiveprot\n";
        write("proc/self/mountinfo", mount);
        assert_eq!(names(), ["controller io", "io.cost", "io.latency"]);
    }
}
