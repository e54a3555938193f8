//! What devices count, as `vmm stat` tells it.

use std::process::Command;

use serde_json::Value;

use crate::guests::{Running, read_sector_1, start, two_sectors};
use crate::no_kvm;

fn vmm(run_dir: &str, options: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["--run-dir", run_dir])
        .args(options)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_disk_and_the_console_count() {
    if no_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().to_str().unwrap();
    let disk = two_sectors();
    let guest = read_sector_1().print("x").halt();
    let options = ["--run-dir", run_dir, "--name", "web", "--disk"];
    // Returns when the guest has printed its first byte: the disk has answered by then.
    let _machine: Running = start(
        guest,
        &[&options[..], &[disk.path().to_str().unwrap()]].concat(),
    );
    let stat: Value = serde_json::from_str(&vmm(run_dir, &["stat", "web", "--json"])).unwrap();
    let device = |name: &str| {
        let devices = stat[0]["devices"].as_array().unwrap();
        devices
            .iter()
            .find(|device| device["name"] == name)
            .unwrap()
            .clone()
    };
    let disk = device("disk0");
    let counts = ["requests", "to_guest_bytes", "from_guest_bytes", "errors"];
    assert_eq!(
        counts.map(|name| disk[name].as_u64().unwrap()),
        [1, 512, 0, 0]
    );
    let console = device("console");
    assert!(
        console["from_guest_bytes"].as_u64().unwrap() >= 1,
        "{console}"
    );
    assert_eq!(console["dropped"], 0);
    let table = vmm(run_dir, &["stat", "--devices"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    let metrics = vmm(run_dir, &["stat", "--prometheus"]);
    let line = "vmm_device_bytes_total{vm=\"web\",device=\"disk0\",direction=\"to_guest\"} 512";
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
}
