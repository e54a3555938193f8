//! What a running machine's process has given up, as the kernel sees it.

use std::collections::HashMap;
use std::fs::{create_dir, read_dir, read_link, read_to_string, remove_dir_all};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use vmm::api::client::Client;
use vmm::observe::types::OwnStat;
use vmm::rundir::RunDir;

use crate::guests::{Running, assert_ended_by, read_sector_1, start, two_sectors};
use crate::payload::Payload;
use crate::sched::cgroups;
use crate::{no_kvm, vmm, wait_until, web};

/// A field of /proc/PID/task/TID/status.
type Field = (&'static str, &'static str);

const NOBODY: [&str; 4] = ["--uid", "65534", "--gid", "65533"];

/// A machine of two vCPUs that runs.
fn machine(options: &[&str]) -> Running {
    let payload = Payload::default().print("x").halt();
    start(payload, &[&["--cpus", "2"], options].concat())
}

/// The fields of a file called status in /proc.
fn fields(text: &str) -> HashMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| {
            let words: Vec<_> = value.split_whitespace().collect();
            (name.into(), words.join(" "))
        })
        .collect()
}

/// The status of each thread by name; KVM's own, which it hides in the process, left out.
fn statuses(machine: &Running) -> Vec<HashMap<String, String>> {
    read_dir(format!("/proc/{}/task", machine.vmm.id()))
        .unwrap()
        .map(|task| fields(&read_to_string(task.unwrap().path().join("status")).unwrap()))
        .filter(|status| !status["Name"].starts_with("kvm"))
        .collect()
}

/// Waits until each of the four threads has each of the fields: they confine themselves
/// one after the other.
#[track_caller]
fn assert_threads(machine: &Running, fields: &[Field]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let wrong: Vec<_> = statuses(machine)
            .into_iter()
            .flat_map(|status| {
                fields
                    .iter()
                    .filter(|(name, value)| status[*name] != *value)
                    .map(|(name, _)| (status["Name"].clone(), *name, status[*name].clone()))
                    .collect::<Vec<_>>()
            })
            .collect();
        if wrong.is_empty() {
            assert_eq!(statuses(machine).len(), 4);
            return;
        }
        assert!(Instant::now() < deadline, "{wrong:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_thread_has_its_filter() {
    if no_kvm() {
        return;
    }
    for options in [&[][..], &["--seccomp", "on"], &["--seccomp", "log"]] {
        let machine = machine(options);
        let fields = [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            // That of all threads, and its own.
            ("Seccomp_filters", "2"),
        ];
        assert_threads(&machine, &fields);
        assert_ended_by(machine, Signal::QUIT);
    }
}

#[test]
fn without_filters_there_are_still_no_new_privileges() {
    if no_kvm() {
        return;
    }
    let machine = machine(&["--seccomp", "off"]);
    assert_threads(&machine, &[("NoNewPrivs", "1"), ("Seccomp", "0")]);
    assert_ended_by(machine, Signal::QUIT);
}

#[test]
fn privileges_are_gone() {
    if no_kvm() {
        return;
    }
    let machine = machine(&NOBODY);
    let none = "0000000000000000";
    let fields = [
        ("Uid", "65534 65534 65534 65534"),
        ("Gid", "65533 65533 65533 65533"),
        ("Groups", ""),
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    assert_threads(&machine, &fields);
    assert_ended_by(machine, Signal::QUIT);
}

/// The disk was opened before: it works, though the process could not open it now.
#[test]
fn a_machine_works_without_privileges_in_an_empty_root() {
    if no_kvm() {
        return;
    }
    let disk = two_sectors();
    let root = tempfile::tempdir().unwrap();
    let files = [
        "--disk",
        disk.path().to_str().unwrap(),
        "--chroot",
        root.path().to_str().unwrap(),
    ];
    let payload = read_sector_1().halt();
    let machine = start(payload, &[&NOBODY, &files[..]].concat());
    let seen = read_link(format!("/proc/{}/root", machine.vmm.id())).unwrap();
    assert_eq!(seen, root.path().canonicalize().unwrap());
    let seen = read_link(format!("/proc/{}/cwd", machine.vmm.id())).unwrap();
    assert_eq!(seen, root.path().canonicalize().unwrap());
    assert_ended_by(machine, Signal::QUIT);
}

/// A machine of nobody's in an empty root has what root gives it.
fn steered_from_outside(run_dir: &str) {
    let vmm = |words: &[&str]| -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        let output = command.args(words).args(["--run-dir", run_dir]).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |words: &[&str]| -> Value { serde_json::from_str(&vmm(words)).unwrap() };
    vmm(&[
        "set",
        "web",
        "--vcpu-class",
        "rr:2",
        "--vcpu-affinity",
        "1=0",
    ]);
    let list = json(&["list", "--json"]);
    for (vcpu, class) in [(0, "rr:2"), (1, "rr:2")] {
        assert_eq!(list[0]["vcpus"][vcpu]["class"], class, "{list}");
    }
    assert_eq!(list[0]["vcpus"][1]["cpus"], "0");
    let stat = json(&["stat", "--json"]);
    let vcpus = stat[0]["vcpus"].as_array().unwrap();
    assert_eq!(vcpus.len(), 2, "{stat}");
    // The boot has run, and left the guest. The counters are root's to see.
    assert!(vcpus[0]["run_ns"].as_u64() > Some(0), "{stat}");
    assert!(vcpus[0]["exits"].as_u64() > Some(0), "{stat}");
    assert_eq!(stat[0]["devices"][0]["name"], "console");
}

/// Nobody may not remove root's files; they are removed all the same, and when the machine
/// is killed, too.
#[test]
fn a_machine_without_privileges_has_a_name_and_leaves_nothing() {
    if no_kvm() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    let path = |dir: &tempfile::TempDir| dir.path().to_str().unwrap().to_owned();
    let (root_path, run_path) = (path(&root), path(&run_dir));
    let group = cgroups().map(|root| root.join(format!("vmm-test-{}-nobody", std::process::id())));
    let mut options = vec![
        "--name",
        "web",
        "--run-dir",
        &run_path,
        "--chroot",
        &root_path,
    ];
    let group_path = group.as_ref().map(|group| group.to_str().unwrap());
    options.extend(group_path.iter().flat_map(|path| ["--cgroup", path]));
    // A folder that root may write to only because it is root.
    chown(run_dir.path(), Some(65532), None).unwrap();
    let client = Client::new(&RunDir::new(run_dir.path()), &"web".parse().unwrap());
    for kill in [false, true] {
        let mut machine = machine(&[&NOBODY[..], &options].concat());
        let own: OwnStat = client.get("/v1/stat").unwrap();
        assert_eq!(own.devices[0].name, "console");
        steered_from_outside(&run_path);
        match kill {
            true => machine.kill().unwrap(),
            false => assert_ended_by(machine, Signal::QUIT),
        }
        wait_until("all is removed", || {
            let files = read_dir(run_dir.path()).unwrap().count();
            files == 0 && group.as_ref().is_none_or(|group| !group.exists())
        });
    }
}

/// The status of the process that cleans up behind the machine.
fn reaper(machine: &Running) -> Option<HashMap<String, String>> {
    let parent = machine.vmm.id().to_string();
    let statuses = read_dir("/proc").unwrap().filter_map(|entry| {
        let folder = entry.unwrap().path();
        let command = read_to_string(folder.join("cmdline")).ok()?;
        let status = fields(&read_to_string(folder.join("status")).ok()?);
        let ours =
            command.split('\0').nth(1) == Some("reap") && status.get("PPid") == Some(&parent);
        ours.then_some(status)
    });
    statuses.last()
}

/// It stays root, and is left with what it needs to remove files: no other system call, and the
/// one capability that removes root's files in a folder of another's.
#[test]
fn who_cleans_up_behind_a_machine_is_confined_too() {
    if no_kvm() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let named = web(&run_dir);
    for (seccomp, mode) in [("on", "2"), ("log", "2"), ("off", "0")] {
        let options = [&NOBODY[..], &named, &["--seccomp", seccomp]].concat();
        let machine = machine(&options);
        let dac_override = "0000000000000002";
        let expected = [
            ("Uid", "0 0 0 0"),
            ("CapPrm", dac_override),
            ("CapEff", dac_override),
            ("CapInh", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", mode),
        ];
        wait_until("it is confined", || {
            let status = reaper(&machine).expect("it runs");
            expected.iter().all(|(name, value)| status[*name] == *value)
        });
        assert_ended_by(machine, Signal::QUIT);
        wait_until("all is removed", || {
            read_dir(run_dir.path()).unwrap().count() == 0
        });
    }
}

/// The process that cleans up works in another folder: a relative path is the starter's.
#[test]
fn what_strangers_have_under_the_same_relative_path_stays() {
    if no_kvm() {
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let folder = format!("vmm-test-{}", std::process::id());
    let theirs = Path::new("/").join(&folder);
    create_dir(&theirs).unwrap();
    let stranger = UnixListener::bind(theirs.join("web.sock")).unwrap();
    let kernel = Payload::default().power_off().elf();
    let output = vmm(kernel.path())
        .args(["--run-dir", &folder, "--name", "web"])
        .args(NOBODY)
        .current_dir(here.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_until("the machine's own files are removed", || {
        read_dir(here.path().join(&folder)).unwrap().count() == 0
    });
    assert!(theirs.join("web.sock").exists());
    drop(stranger);
    remove_dir_all(theirs).unwrap();
}

/// No core dump, whose file would have the guest's memory; few descriptors.
#[test]
fn a_machine_may_use_no_more_than_it_needs() {
    if no_kvm() {
        return;
    }
    // A standard error that is a file, as in a log of the tests, would have no limit.
    let kernel = Payload::default().print("x").halt().elf();
    let mut command = vmm(kernel.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let machine = Running::of(command.spawn().unwrap(), kernel);
    let limits = read_to_string(format!("/proc/{}/limits", machine.vmm.id())).unwrap();
    let limit = |name: &str| -> Vec<String> {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace().take(2).map(String::from).collect()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    // It writes no file at all.
    assert_eq!(limit("Max file size"), ["0", "0"]);
    let most: u64 = limit("Max open files")[1].parse().unwrap();
    assert!(most < 1024, "{most}");
}
