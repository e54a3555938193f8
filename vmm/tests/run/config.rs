//! A machine's configuration from a file and from the command line.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::payload::Payload;
use crate::{no_kvm, run_command};

/// A folder with a kernel, and with `text` as a configuration called `name`.
fn folder(name: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Payload::default().print("OK").power_off().elf();
    std::fs::copy(kernel.path(), folder.path().join("kernel")).unwrap();
    std::fs::write(folder.path().join(name), text).unwrap();
    folder
}

fn vmm(folder: &Path, options: &[&str]) -> Output {
    let mut command: Command = run_command();
    command.args(options).current_dir(folder).output().unwrap()
}

#[track_caller]
fn text(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_dry_run_prints_what_a_file_and_flags_make() {
    let folder = folder("vm.toml", "kernel = \"kernel\"\ncpus = 4\nmem = \"1G\"\n");
    let options = ["--config", "vm.toml", "--cpus", "2", "--dry-run"];
    let printed = text(vmm(folder.path(), &options));
    let expected = [
        "kernel = \"kernel\"",
        "cpus = 2",
        "mem = \"1024M\"",
        "cmdline = \"console=ttyS0\"",
        "pv = \"all\"",
        "rng = false",
    ];
    for line in expected {
        assert!(printed.lines().any(|l| l == line), "{line}: {printed}");
    }
    // What is printed is a configuration that means the same.
    std::fs::write(folder.path().join("again.toml"), &printed).unwrap();
    let options = ["--config", "again.toml", "--dry-run"];
    assert_eq!(text(vmm(folder.path(), &options)), printed);
    let json = text(vmm(folder.path(), &[&options[..], &["--json"]].concat()));
    std::fs::write(folder.path().join("again.json"), &json).unwrap();
    let options = ["--config", "again.json", "--dry-run"];
    assert_eq!(text(vmm(folder.path(), &options)), printed);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (name, file, place) in [
        ("vm.toml", "kernel = \"kernel\"\ncpu = 4\n", "vm.toml:2: "),
        ("vm.json", "{\"kernel\": 7}", "vm.json:1: "),
        (
            "vm.toml",
            "cpus = 300\n",
            "vm.toml:1: expected a number, 1 to 255",
        ),
        (
            "vm.toml",
            "name = \"a\"\ncpu-weight = -1\n",
            "vm.toml:2: a weight is 1 to 10000",
        ),
        ("vm.toml", "cpus = 4\n", "no kernel"),
        ("vm.toml", "kernel = \"nowhere\"\n", "nowhere"),
        ("other.toml", "", "vm.toml"),
    ] {
        let folder = folder(name, file);
        let config = if name == "vm.json" { name } else { "vm.toml" };
        for dry in [&["--dry-run"][..], &[]] {
            let output = vmm(folder.path(), &[&["--config", config], dry].concat());
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{errors}");
            assert!(output.stdout.is_empty());
            assert_eq!(errors.lines().count(), 1, "{errors}");
            assert!(errors.contains(place), "{errors}");
        }
    }
}

#[test]
fn a_dry_run_checks_files_too() {
    let folder = folder("vm.toml", "kernel = \"kernel\"\ndisk = [\"nowhere\"]\n");
    let output = vmm(folder.path(), &["--config", "vm.toml", "--dry-run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

/// Everything that the machine has: its name, its disk's lock, its socket.
#[test]
fn a_dry_run_takes_nothing_and_works_beside_the_machine() {
    if no_kvm() {
        return;
    }
    let config = "kernel = \"wait\"\nmem = \"64M\"\nname = \"web\"\ndisk = [\"disk\"]\n\
        vsock = \"cid=3,socket=vsock\"\n";
    let folder = folder("vm.toml", config);
    let path = |name: &str| folder.path().join(name);
    let kernel = Payload::default()
        .print("UP")
        .wait_for_power_button()
        .power_off();
    std::fs::copy(kernel.elf().path(), path("wait")).unwrap();
    std::fs::write(path("disk"), [0; 4096]).unwrap();
    let options = ["--config", "vm.toml", "--run-dir", "run"];
    let dry = || vmm(folder.path(), &[&options[..], &["--dry-run"]].concat());

    let before = text(dry());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "{left:?}");
    let mut machine = run_command()
        .args(options)
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 2];
    machine.stdout.take().unwrap().read_exact(&mut up).unwrap();
    let beside = dry();
    let stop = ["--run-dir", "run", "stop", "web"];
    let mut stopping = Command::new(env!("CARGO_BIN_EXE_vmm"));
    let stopped = stopping.args(stop).current_dir(folder.path());
    assert!(stopped.output().unwrap().status.success());
    assert_eq!(machine.wait().unwrap().code(), Some(0));
    assert_eq!(text(beside), before);
}

#[test]
fn a_machine_runs_from_a_file() {
    if no_kvm() {
        return;
    }
    let config = "kernel = \"kernel\"\nmem = \"64M\"\npv = \"none\"\n";
    let folder = folder("vm.toml", config);
    assert_eq!(text(vmm(folder.path(), &["--config", "vm.toml"])), "OK");
}

#[test]
fn messages_may_be_json() {
    let folder = folder("vm.toml", "");
    let options = ["--config", "vm.toml", "--log-json"];
    let errors = vmm(folder.path(), &options).stderr;
    let message: serde_json::Value = serde_json::from_slice(&errors).unwrap();
    assert_eq!(message["level"], "error");
    assert!(message["message"].as_str().unwrap().contains("no kernel"));
}
