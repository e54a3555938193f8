//! Where a machine's threads run, looked up in /proc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::guests::{Running, start};
use crate::payload::Payload;
use crate::{no_kvm, skip, vmm, wait_until, web};
use rustix::process::{Pid, Signal, kill_process};

const SCHED_RR: &str = "2";

/// A machine of two vCPUs that halt, after it has printed.
fn halting(options: &[&str]) -> Running {
    let options = [&["--cpus", "2"], options].concat();
    start(Payload::default().print("x").halt(), &options)
}

/// The threads of a process, by name.
fn threads(child: &Child) -> Vec<(String, PathBuf)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap();
    tasks
        .map(|task| task.unwrap().path())
        .map(|task| (name(&task).trim().to_string(), task))
        .collect()
}

fn thread(child: &Child, name: &str) -> PathBuf {
    let all = threads(child);
    let found = all.iter().find(|(n, _)| n == name);
    found.unwrap_or_else(|| panic!("{name}: {all:?}")).1.clone()
}

/// Real-time priority and policy: fields 40 and 41 of proc(5)'s stat.
fn policy(thread: &Path) -> (String, String) {
    let stat = fs::read_to_string(thread.join("stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    (fields[37].into(), fields[38].into())
}

fn end(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::QUIT).unwrap();
    child.wait().unwrap();
}

#[test]
fn classes_and_cpus_are_there_before_the_first_instruction() {
    if no_kvm() {
        return;
    }
    let options = [
        "--vcpu-class",
        "rr:3",
        "--helper-class",
        "rr",
        "--vcpu-affinity",
        "1=0",
    ];
    let mut child = halting(&options);
    for vcpu in ["vcpu0", "vcpu1"] {
        assert_eq!(policy(&thread(&child, vcpu)), ("3".into(), SCHED_RR.into()));
    }
    assert_eq!(
        policy(&thread(&child, "vmm-io")),
        ("1".into(), SCHED_RR.into())
    );
    let status = fs::read_to_string(thread(&child, "vcpu1").join("status")).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    end(&mut child);
}

#[test]
fn a_class_that_the_kernel_lacks_is_fair_or_refused() {
    if no_kvm() {
        return;
    }
    let kernel = Payload::default().print("OK").power_off().elf();
    let output = vmm(kernel.path())
        .args([
            "--vcpu-class",
            "bt",
            "--helper-class",
            "bt",
            "--launch-class",
            "bt",
        ])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    if errors.is_empty() {
        skip("this kernel has the class bt");
        return;
    }
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("run as fair"), "{errors}");
    assert_eq!(output.stdout, b"OK");
    let output = vmm(kernel.path())
        .args(["--cpus", "3", "--vcpu-class", "bt", "--vcpu-class-strict"])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    // No instruction of the guest ran.
    assert!(output.stdout.is_empty());
}

#[test]
fn what_cannot_be_is_refused() {
    let kernel = Payload::default().halt().elf();
    for (options, word) in [
        (["--vcpu-affinity", "1=0"], "names vCPU 1"),
        (["--cpu-weight", "100"], "needs --cgroup"),
        (["--launch-limit", "3"], "need --launch-class"),
    ] {
        let output = vmm(kernel.path()).args(options).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(word), "{errors}");
    }
}

#[test]
fn cpus_that_are_not_there_are_refused() {
    if no_kvm() {
        return;
    }
    let kernel = Payload::default().print("x").halt().elf();
    let output = vmm(kernel.path())
        .args(["--vcpu-affinity", "0=0,1023"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

/// The guest waits for a line of input, says that it has started, and halts.
#[test]
fn the_launch_class_ends_when_the_guest_says_so_or_at_the_limit() {
    if no_kvm() {
        return;
    }
    // Who is root no more may not rise, but must not keep the launch class either.
    let nobody = &["--uid", "65534", "--gid", "65533"][..];
    for (until, limit, class, more, steady) in [
        ("STARTED", "600", "rr:4", &[][..], "4"),
        ("NEVER", "3", "rr:4", &[], "4"),
        ("NEVER", "3", "rr:6", nobody, "0"),
    ] {
        let kernel = Payload::default().print("x").echo_line().halt().elf();
        let mut child = vmm(kernel.path())
            .args(["--launch-class", "rr:5", "--vcpu-class", class])
            .args(["--launch-until", until, "--launch-limit", limit])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let of = |child: &Child| {
            let all = threads(child);
            let vcpu = all.iter().find(|(name, _)| name == "vcpu0")?;
            Some(policy(&vcpu.1).0)
        };
        wait_until("launch class", || of(&child).as_deref() == Some("5"));
        if until == "STARTED" {
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"STARTED\n").unwrap();
        }
        wait_until("steady class", || of(&child).as_deref() == Some(steady));
        end(&mut child);
    }
}

/// Where cgroup v2 is mounted, if we may make groups there.
pub fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let root = line.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
    let root = root.filter(|root| {
        let probe = root.join(format!("vmm-probe-{}", std::process::id()));
        fs::create_dir(&probe)
            .and_then(|()| fs::remove_dir(&probe))
            .is_ok()
    });
    if root.is_none() {
        skip("no cgroup v2 in which to make groups");
    }
    root
}

fn group_of(thread: &Path) -> String {
    let text = fs::read_to_string(thread.join("cgroup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("0::/"));
    line.unwrap().to_string()
}

#[test]
fn a_control_group_is_made_divided_and_removed() {
    let Some(root) = cgroups().filter(|_| !no_kvm()) else {
        return;
    };
    for layout in ["vm", "vcpu"] {
        let name = format!("vmm-test-{}-{layout}", std::process::id());
        let options = ["--cgroup", &name, "--cgroup-layout", layout];
        let mut child = halting(&options);
        let place = |below: &str| match layout {
            "vm" => name.clone(),
            _ => format!("{name}/{below}"),
        };
        for (thread_name, below) in [
            ("vcpu0", "vcpu0"),
            ("vcpu1", "vcpu1"),
            ("vmm-io", "helpers"),
        ] {
            assert_eq!(group_of(&thread(&child, thread_name)), place(below));
        }
        // Somebody else can't have it.
        let kernel = Payload::default().halt().elf();
        let output = vmm(kernel.path()).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        end(&mut child);
        assert!(!root.join(&name).exists());
    }
}

#[test]
fn what_a_killed_machine_left_is_taken_away() {
    let Some(root) = cgroups().filter(|_| !no_kvm()) else {
        return;
    };
    let name = format!("vmm-test-{}-killed", std::process::id());
    let options = ["--cgroup", &name, "--cgroup-layout", "vcpu"];
    let mut child = halting(&options);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(root.join(&name).join("vcpu0").exists());
    let mut child = halting(&options);
    end(&mut child);
    assert!(!root.join(&name).exists());
}

/// The name tells of the group, whatever the next machine of the name wants.
#[test]
fn a_name_remembers_the_group_that_a_killed_machine_left() {
    let Some(root) = cgroups().filter(|_| !no_kvm()) else {
        return;
    };
    let run_dir = tempfile::tempdir().unwrap();
    let named = web(&run_dir);
    let name = format!("vmm-test-{}-named", std::process::id());
    let mut child = halting(&[&named[..], &["--cgroup", &name]].concat());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(root.join(&name).exists());
    let mut child = halting(&named);
    assert!(!root.join(&name).exists());
    end(&mut child);
    assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
}

/// Weight and limit need the CPU controller, which cgroup v1 may have.
#[test]
fn weight_and_limit_are_set_or_refused() {
    let Some(root) = cgroups().filter(|_| !no_kvm()) else {
        return;
    };
    let name = format!("vmm-test-{}-weight", std::process::id());
    let kernel = Payload::default().print("x").halt().elf();
    let options = [
        "--cgroup",
        &name,
        "--cpu-weight",
        "250",
        "--cpu-max",
        "150%",
    ];
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    if controllers.split_whitespace().any(|c| c == "cpu") {
        let mut child = halting(&options);
        let read = |file: &str| fs::read_to_string(root.join(&name).join(file)).unwrap();
        assert_eq!(read("cpu.weight"), "250\n");
        assert_eq!(read("cpu.max"), "150000 100000\n");
        end(&mut child);
    } else {
        let output = vmm(kernel.path()).args(options).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("no cpu.weight"), "{errors}");
        assert!(output.stdout.is_empty());
    }
    assert!(!root.join(&name).exists());
}
