//! What `vmm stop` tells.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::payload::Payload;
use crate::{no_kvm, vmm};

/// Stops a machine with these options; returns what is printed, and the machine's status.
fn stop(guest: &Payload, options: &[&str]) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().to_str().unwrap();
    let kernel = guest.elf();
    let mut machine = vmm(kernel.path())
        .args(["--run-dir", run_dir, "--name", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    machine
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0])
        .unwrap();
    let stopping = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["--run-dir", run_dir, "stop", "web"])
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its parent asks for its status first.
    let status = machine.wait().unwrap().code();
    let output = stopping.wait_with_output().unwrap();
    assert!(output.status.success());
    (String::from_utf8(output.stdout).unwrap(), status)
}

/// Kernels before 6.15 don't tell strangers how a process ended: then nor does `vmm stop`.
#[test]
fn a_stop_tells_whether_the_guest_powered_off_or_was_cut() {
    if no_kvm() {
        return;
    }
    let good = Payload::default()
        .print("U")
        .wait_for_power_button()
        .power_off();
    let (said, status) = stop(&good, &[]);
    assert_eq!(status, Some(0));
    assert!(
        ["web powered off\n", "web has ended\n"].contains(&&*said),
        "{said}"
    );
    let deaf = Payload::default().print("U").halt();
    let (said, status) = stop(&deaf, &["--timeout", "0"]);
    assert_eq!(status, Some(6));
    assert!(
        said.contains("was cut") || said == "web has ended\n",
        "{said}"
    );
}
