//! Records the files that discovery reads of the processes whose ids are given, as a tree
//! for tests/trees/. Kernel threads that work for them are found and recorded too.

#[path = "../tests/tree/mod.rs"]
mod tree;

use std::fs;
use std::os::unix::ffi::OsStrExt;

fn main() {
    let pids: Vec<i32> = std::env::args()
        .skip(1)
        .map(|a| a.parse().expect("a process's id"))
        .collect();
    file("/proc/2/task/2/comm");
    file("/proc/2/cmdline");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = mounts.lines().filter(|l| l.contains(" - cgroup"));
    let groups: String = groups.map(|l| format!("{l}\n")).collect();
    println!(
        "{}",
        tree::line("/proc/self/mountinfo", groups.as_bytes(), false)
    );
    for entry in fs::read_dir("/run/systemd/machines")
        .into_iter()
        .flatten()
        .flatten()
    {
        file(&entry.path().display().to_string());
    }
    for &pid in &pids {
        process(pid, true);
        kvm(pid);
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if pids.iter().any(|p| comm.trim().ends_with(&p.to_string())) {
            process(pid, false);
        }
    }
}

fn process(pid: i32, user: bool) {
    file(&format!("/proc/{pid}/cmdline"));
    if user {
        link(&format!("/proc/{pid}/exe"));
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.to_string_lossy().contains("kvm") {
                link(&entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        for name in ["comm", "stat", "schedstat", "cgroup", "syscall"] {
            file(&entry.path().join(name).display().to_string());
        }
    }
}

fn kvm(pid: i32) {
    for entry in fs::read_dir("/sys/kernel/debug/kvm")
        .into_iter()
        .flatten()
        .flatten()
    {
        if !entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{pid}-"))
        {
            continue;
        }
        for name in vmfirst_host::read::KVM_COUNTERS {
            file(&entry.path().join(name).display().to_string());
        }
        for vcpu in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            if vcpu.path().is_dir() {
                file(&vcpu.path().join("pid").display().to_string());
            }
        }
    }
}

fn file(path: &str) {
    if let Ok(bytes) = fs::read(path) {
        println!("{}", tree::line(path, &bytes, false));
    }
}

fn link(path: &str) {
    if let Ok(target) = fs::read_link(path) {
        println!("{}", tree::line(path, target.as_os_str().as_bytes(), true));
    }
}
