//! `vmfirst` on VMs that are there: a process with KVM's files and threads, steered from
//! outside.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use vmfirst_host::act::{Class, Slice};

fn skip(why: &str) {
    eprintln!("SKIP: {why}");
}

/// The example `machine`, which cargo builds beside the tests.
fn machine() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/machine")
}

fn vmfirst(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmfirst"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into()
}

struct Machine(Child);

impl Machine {
    /// With threads of these names; none without KVM.
    fn start(program: &Path, threads: &[&str], uid: Option<u32>) -> Option<Self> {
        if !Path::new("/dev/kvm").exists() {
            skip("no KVM");
            return None;
        }
        let mut command = Command::new(program);
        command
            .args(threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let machine = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).unwrap();
        if line != "ready\n" {
            skip("KVM can't be used");
            return None;
        }
        Some(machine)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn threads(&self, name: &str) -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id()))
            .unwrap()
            .flatten();
        let mut tids: Vec<i32> = tasks
            .filter(|task| {
                let comm = std::fs::read_to_string(task.path().join("comm")).unwrap();
                comm.starts_with(name)
            })
            .map(|task| task.file_name().to_str().unwrap().parse().unwrap())
            .collect();
        tids.sort_unstable();
        tids
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn class_slice_and_cpus_are_set_from_outside() {
    let Some(machine) = Machine::start(&machine(), &["vcpu0", "vcpu1"], None) else {
        return;
    };
    let pid = machine.pid();
    let vcpus = machine.threads("vcpu");
    let output = vmfirst(&[
        "set",
        &pid,
        "--vcpu-class",
        "batch",
        "--vcpu-affinity",
        "1=0",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("class of vCPU 0 of VM other-"), "{text}");
    assert!(vcpus.iter().all(|&tid| Class::of(tid).unwrap() == "batch"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", vcpus[1])).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    let list = vmfirst(&["list", "--threads", &pid]);
    let list = String::from_utf8(list.stdout).unwrap();
    assert_eq!(list.matches("batch").count(), 2, "{list}");
    let json = vmfirst(&["list", "--json", &pid]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json[0]["vcpus"], 2);
    assert_eq!(json[0]["tasks"][1]["cpus"], "0");
}

/// KVM's counters of each vCPU, with no debugfs: by the files that the process has open.
#[test]
fn counters_of_single_vcpus_are_told_where_a_vmm_has_them_open() {
    let own = ["vcpu0", "vcpu1", "--", "statistics"];
    for (names, told) in [(&own[..], true), (&own[..2], false)] {
        let Some(machine) = Machine::start(&machine(), names, None) else {
            return;
        };
        let words = ["stat", "--watch=1", "--count", "2", "--json", "--histogram"];
        let output = vmfirst(&[&words[..], &[&machine.pid()]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let vm = &json["vms"][0];
        let vcpus = vm["vcpus"].as_array().unwrap();
        assert_eq!(vcpus.len(), 2, "{json}");
        for vcpu in vcpus {
            // None of them has run a guest.
            let exits = vcpu["kvm_per_second"]["exits"].as_f64();
            assert_eq!(exits, told.then_some(0.0), "{json}");
            assert_eq!(vcpu["wait_turns"].as_array().unwrap().len(), 11, "{json}");
        }
        let text = vmfirst(&["stat", "--prometheus", &machine.pid()]);
        let text = String::from_utf8(text.stdout).unwrap();
        let series = ",vcpu=\"1\",counter=\"exits\"} 0";
        let lines = text.lines().filter(|line| line.ends_with(series));
        assert_eq!(lines.count(), usize::from(told), "{text}");
        if told {
            assert_eq!(vm["kvm_per_second"]["exits"], 0.0, "{json}");
        }
    }
}

/// A thread's CPUs and class were set when the group's file turned out to be out of reach.
#[test]
fn when_a_part_fails_nothing_is_changed() {
    let Some(machine) = Machine::start(&machine(), &["vcpu0", "vcpu1"], None) else {
        return;
    };
    let vcpus = machine.threads("vcpu");
    let slices: Vec<_> = vcpus.iter().map(|&tid| Slice::of(tid).unwrap()).collect();
    // CPU 1023 is in no host of tests: vCPU 0 has its CPUs, then vCPU 1 can't.
    let affinity = ["set", &machine.pid(), "--vcpu-affinity", "0=0,1=1023"];
    let output = vmfirst(&affinity);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("vCPU 1 of VM"),
        "{}",
        stderr(&output)
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", vcpus[0])).unwrap();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let cpus = |text: &str| {
        text.lines()
            .find(|l| l.starts_with("Cpus_allowed_list"))
            .unwrap()
            .to_string()
    };
    assert_eq!(cpus(&status), cpus(&own));
    let found: Vec<_> = vcpus.iter().map(|&tid| Slice::of(tid).unwrap()).collect();
    assert_eq!(found, slices);
}

#[test]
fn what_makes_no_sense_is_one_line_and_changes_nothing() {
    let Some(machine) = Machine::start(&machine(), &["vcpu0"], None) else {
        return;
    };
    let pid = machine.pid();
    for (arguments, expected) in [
        (vec!["set", &pid], "nothing to set"),
        (
            vec!["set", "no-such", "--vcpu-class", "fair"],
            "no VM is called no-such",
        ),
        (vec!["set", &pid, "--vcpu-affinity", "7=0"], "names vCPU 7"),
        (
            vec!["set", &pid, "--cgroup-set", "cgroup.procs=1"],
            "weight or limit",
        ),
        (vec!["set", &pid, "--cgroup-set", "x"], "FILE=VALUE"),
        (vec!["stat", "no-such"], "no VM is called no-such"),
        (vec!["tune", "no-such"], "no profile is called no-such"),
        (vec!["top"], "top needs a terminal"),
    ] {
        let output = vmfirst(&arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        let last = text.lines().last().unwrap();
        assert!(
            last.starts_with("vmfirst: ") && last.contains(expected),
            "{arguments:?}: {text}"
        );
    }
    let tid = machine.threads("vcpu")[0];
    assert_eq!(Class::of(tid).unwrap(), "fair");
}

/// Those that clap finds, too.
#[test]
fn what_cannot_be_understood_is_one_line() {
    for (arguments, expected) in [
        (vec!["no-such"], "unrecognized subcommand 'no-such'"),
        (vec!["set"], "required arguments were not provided: <VM>..."),
        (vec!["set", "x", "--vcpu-class", "no-such"], "vmf, bt, rr"),
        (vec!["set", "x", "--vcpu-slice", "0"], "100us to 100ms"),
        (vec!["stat", "--watch=0"], "not in 1..=3600"),
        (vec!["stat", "--count", "3"], "--watch"),
        (
            vec!["stat", "--prometheus", "--json"],
            "cannot be used with",
        ),
        (vec!["tune", "--apply"], "<PROFILE>"),
        (vec!["tune", "--\u{1b}[31m"], "unexpected argument"),
    ] {
        let output = vmfirst(&arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let one = text.strip_suffix('\n').unwrap_or_default();
        assert!(
            one.starts_with("vmfirst: ") && one.contains(expected),
            "{arguments:?}: {text}"
        );
        assert!(!one.contains(char::is_control), "{text:?}");
    }
    for arguments in [vec!["--help"], vec!["set", "--help"], vec!["--version"]] {
        let output = vmfirst(&arguments);
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

/// Who isn't root sees VMs by their threads' names, and is told what a class takes.
#[test]
fn without_root_nothing_is_half_done() {
    // SAFETY: it takes nothing and can't fail.
    if unsafe { libc::geteuid() } != 0 {
        return skip("needs root to become somebody else");
    }
    let folder = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let program = folder.path().join("firecracker");
    std::fs::copy(machine(), &program).unwrap();
    let tool = folder.path().join("vmfirst");
    std::fs::copy(env!("CARGO_BIN_EXE_vmfirst"), &tool).unwrap();
    let Some(machine) = Machine::start(&program, &["fc_vcpu 0", "fc_vcpu 1"], None) else {
        return;
    };
    let pid = machine.pid();
    let nobody = |arguments: &[&str]| {
        Command::new(&tool)
            .args(arguments)
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap()
    };
    let list = nobody(&["list", &pid]);
    let text = String::from_utf8_lossy(&list.stdout);
    assert!(
        text.contains("firecracker") && text.contains(&pid),
        "{text}"
    );
    assert!(
        stderr(&list).contains("other users' processes can't be seen"),
        "{}",
        stderr(&list)
    );
    let set = nobody(&["set", &pid, "--vcpu-class", "rr:2"]);
    assert_eq!(set.status.code(), Some(1));
    let last = stderr(&set);
    assert!(
        last.contains("Operation not permitted") && last.contains("CAP_SYS_NICE"),
        "{last}"
    );
    for tid in machine.threads("fc_vcpu") {
        assert_eq!(Class::of(tid).unwrap(), "fair");
    }
}

/// Where each of a machine's threads is, by the kernel's word.
fn groups(machine: &Machine) -> std::collections::BTreeMap<i32, String> {
    let of = |tid| {
        let text = std::fs::read_to_string(format!("/proc/{tid}/cgroup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("0::"));
        (tid, line.unwrap_or("/").to_string())
    };
    machine.threads("").into_iter().map(of).collect()
}

/// Moved, and moved back with a vCPU's thread in a group of its own when a later part fails.
#[test]
fn a_vm_is_moved_to_a_group_and_back_when_a_part_fails() {
    let Some(machine) = Machine::start(&machine(), &["vcpu0", "vcpu1"], None) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().to_str().unwrap();
    // In a mount namespace of its own, for here cgroup v2 may not be mounted.
    let inside = |script: &str| {
        let script = format!("mount -t cgroup2 none {mount} && cd {mount} && {script}");
        let command = ["--mount", "sh", "-c", &script];
        Command::new("unshare").args(command).output().unwrap()
    };
    let (name, tool) = (
        format!("vmfirst-test-{}", machine.pid()),
        env!("CARGO_BIN_EXE_vmfirst"),
    );
    let (pid, vcpu) = (machine.pid(), machine.threads("vcpu1")[0]);
    let made = inside(&format!("mkdir {name} {name}/a {name}/a/v {name}/b"));
    if !made.status.success() {
        return skip("no control group may be made");
    }
    let set = |words: &str| inside(&format!("{tool} set {pid} {words}"));
    let moved = set(&format!("--cgroup {name}/a"));
    assert!(moved.status.success(), "{}", stderr(&moved));
    let text = String::from_utf8_lossy(&moved.stdout);
    assert!(text.contains("control group of VM"), "{text}");
    let all = groups(&machine);
    assert!(
        all.len() == 3 && all.values().all(|g| *g == format!("/{name}/a")),
        "{all:?}"
    );
    let divide = format!(
        "echo threaded > {name}/a/v/cgroup.type && echo {vcpu} > {name}/a/v/cgroup.threads"
    );
    assert!(inside(&divide).status.success());
    let before = groups(&machine);
    assert_eq!(before[&vcpu], format!("/{name}/a/v"));
    for (words, why) in [
        (
            format!("--cgroup {name}/b --vcpu-affinity 1=1023"),
            "vCPU 1 of VM",
        ),
        // The group has no controller.
        (
            format!("--cgroup {name}/b --cgroup-set io.weight=7"),
            "no io.weight",
        ),
        (format!("--cgroup {name}/none"), "mkdir it first"),
        ("--cgroup ../x".into(), "give a path below"),
    ] {
        let output = set(&words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words}: {text}");
        assert!(
            text.lines().last().unwrap().contains(why),
            "{words}: {text}"
        );
        assert_eq!(groups(&machine), before, "{words}");
    }
    drop(machine);
    inside(&format!(
        "sleep 0.2; rmdir {name}/a/v {name}/a {name}/b {name}"
    ));
}

/// In a PID namespace debugfs has ids that are others' there.
#[test]
fn in_a_pid_namespace_its_own_vms_are_found() {
    let Some(probe) = Machine::start(&machine(), &["vcpu0"], None) else {
        return;
    };
    drop(probe);
    let tool = env!("CARGO_BIN_EXE_vmfirst");
    let script = format!(
        "sleep 1000 | {} vcpu0 vcpu1 >/dev/null & \
         until {tool} list --json 2>/dev/null | grep -q vcpu1; do sleep 0.1; done; \
         {tool} list --json",
        machine().display(),
    );
    let output = Command::new("unshare")
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            &script,
        ])
        .output()
        .unwrap();
    if stderr(&output).contains("unshare failed") {
        return skip("no PID namespace may be made");
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let vms = json.as_array().unwrap();
    assert_eq!(vms.len(), 1, "{json}");
    assert_eq!(vms[0]["vcpus"], 2);
    assert!(vms[0]["pid"].as_i64().unwrap() < 20, "{json}");
}

#[test]
fn man_pages_and_completions_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let output = vmfirst(&["generate", "--man", at, "--completions", "bash"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--vcpu-slice"));
    let expected = [
        "vmfirst",
        "vmfirst-agent",
        "vmfirst-list",
        "vmfirst-nri",
        "vmfirst-priority",
        "vmfirst-set",
        "vmfirst-stat",
        "vmfirst-top",
        "vmfirst-tune",
        "vmfirst-view",
    ];
    for page in expected {
        let text = std::fs::read_to_string(folder.path().join(format!("{page}.8"))).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let pages = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(pages, expected.len(), "pages of what nobody calls");
    // Whoever has enough of it closes the pipe.
    let piped = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{} generate --completions zsh | head -n 1",
            env!("CARGO_BIN_EXE_vmfirst")
        ))
        .output()
        .unwrap();
    assert_eq!(stderr(&piped), "");
}
