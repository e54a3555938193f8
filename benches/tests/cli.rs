//! The program from outside: bad input is one clear line, and whatever ends it, nothing
//! is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use dense_report::results::Results;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn dense_bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dense-bench"));
    command.args(args).stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    dense_bench(args).output().unwrap()
}

/// The one line on standard error.
fn refused(args: &[&str]) -> String {
    let output = output(args);
    assert!(!output.status.success(), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

#[test]
fn bad_input_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let said = refused(&["run", "nope", "--out", &out]);
    assert!(said.contains("article"), "{said}");
    let plan = folder.path().join("wrong.toml");
    fs::write(&plan, "[[group]]\nworkload = 1\n").unwrap();
    let said = refused(&["run", &plan.display().to_string(), "--out", &out]);
    assert!(said.contains("wrong.toml:2:12: "), "{said}");
    let said = refused(&["run", "--replay", "/nowhere.json#x", "--out", &out]);
    assert!(said.contains("cannot read /nowhere.json"), "{said}");
    let said = refused(&["report", "/nowhere"]);
    assert!(said.contains("/nowhere"), "{said}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_host_without_images_or_virtualization_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let said = refused(&["run", "smoke", "--seeds", "1", "--out", &out]);
    let known = [
        "not root",
        "/dev/kvm",
        "SVM nor VMX",
        "left out",
        "cargo xtask images",
    ];
    assert!(known.iter().any(|words| said.contains(words)), "{said}");
    assert!(!Path::new(&out).exists());
}

/// The published results, all values changed by a factor.
fn results(folder: &Path, name: &str, factor: f64) -> String {
    let published = concat!(env!("CARGO_MANIFEST_DIR"), "/results/quick.json");
    let mut results = Results::load(Path::new(published)).unwrap();
    for cell in &mut results.cells {
        cell.value *= factor;
    }
    let path = folder.join(name);
    results.save(&path).unwrap();
    path.display().to_string()
}

#[test]
fn a_comparison_has_a_status_for_ci() {
    let folder = tempfile::tempdir().unwrap();
    let [same, slow] = [("a", 1.0), ("b", 0.5)].map(|(n, f)| results(folder.path(), n, f));
    let status = |a: &str, b: &str| {
        let output = output(&["report", "--compare", a, b]);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said) = status(&same, &same);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = status(&same, &slow);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("SLOWER"), "{said}");
    assert_eq!(status(&slow, &same).0, Some(0));
    let tolerant = ["report", "--compare", &same, &slow, "--tolerance", "80"];
    assert!(output(&tolerant).status.success());
}

#[test]
fn a_report_is_a_page_and_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = results(folder.path(), "results.json", 1.0);
    let out = folder.path().join("out");
    let printed = output(&["report", &file, "--out", &out.display().to_string()]);
    assert!(printed.status.success());
    let table = fs::read_to_string(out.join("report.md")).unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), table);
    assert!(
        fs::read_to_string(out.join("report.html"))
            .unwrap()
            .contains("<svg")
    );
    assert!(out.join("results.json").exists());
}

/// A cell whose guest has booted and then never ends.
struct Hanging {
    folder: tempfile::TempDir,
    process: Child,
}

impl Hanging {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let pid = folder.path().join("pid");
        let vmm = format!(
            "#!/bin/sh\necho $$ > {}\necho VMFIRST READY\nexec sleep 1000\n",
            pid.display()
        );
        let spec = json!({
            "chosen": {
                "workload": "fake", "guests": 1, "vcpus": 1, "pcpus": 1, "mem_mib": 64,
                "disk_mib": 8, "seed": 1, "warmup_ms": 1, "window_ms": 1,
                "sysfs": { file("knob", "before").to_str().unwrap(): "after" },
            },
            "ready_timeout_ms": 3_600_000, "finish_timeout_ms": 3_600_000,
            "paths": {
                "vmm": file("vmm", &vmm), "kernel": file("kernel", ""),
                "initrds": folder.path(), "mke2fs": file("mke2fs", "#!/bin/sh\n"),
            },
        });
        file("fake.cpio", "");
        file("spec.json", &spec.to_string());
        let process = Self::command(folder.path()).spawn().unwrap();
        let hanging = Self { folder, process };
        hanging.wait_until(|| hanging.read("knob") == "after");
        hanging
    }

    fn command(folder: &Path) -> Command {
        let path = |name: &str| folder.join(name).display().to_string();
        let mut command = dense_bench(&["cell", &path("spec.json")]);
        command
            .args(["--scratch", &path(""), "--state", &path("state")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn wait_until(&self, is_so: impl Fn() -> bool) {
        // A broken program ends the test, not the patience of who waits for it.
        for _ in 0..6000 {
            if is_so() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it never came to that");
    }

    fn vmm_runs(&self) -> bool {
        let stat = format!("/proc/{}/stat", self.read("pid").trim());
        // A dead process that nobody has waited for yet does not run.
        fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn end(&mut self, signal: Signal) -> bool {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        self.process.wait().unwrap().success()
    }
}

#[test]
fn ctrl_c_leaves_nothing() {
    let mut hanging = Hanging::start();
    assert!(!hanging.end(Signal::INT));
    assert!(!hanging.vmm_runs());
    assert_eq!(hanging.read("knob"), "before");
    assert_eq!(hanging.read("state/journal"), "");
}

#[test]
fn what_a_kill_leaves_is_taken_back_by_the_next_start() {
    let mut hanging = Hanging::start();
    assert!(!hanging.end(Signal::KILL));
    hanging.wait_until(|| !hanging.vmm_runs());
    assert_eq!(hanging.read("knob"), "after");
    // The next start does not get far, but takes back first.
    fs::remove_file(hanging.folder.path().join("fake.cpio")).unwrap();
    let next = Hanging::command(hanging.folder.path()).status().unwrap();
    assert!(!next.success());
    assert_eq!(hanging.read("knob"), "before");
    assert_eq!(hanging.read("state/journal"), "");
}

#[test]
fn results_of_an_empty_run_are_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    Results::new("quick", BTreeMap::new()).save(&path).unwrap();
    let printed = output(&["report", &path.display().to_string()]);
    assert!(printed.status.success());
    let said = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(said, "No cell has a result.\n");
}
