//! The program as a user runs it.

use std::io::{Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod api;
mod config;
mod confinement;
mod guests;
mod net;
mod payload;
mod refusals;
mod sched;
mod vsock;

/// `vmm run` on a kernel, with a small memory and no input.
fn vmm(kernel: &Path) -> Command {
    let mut command = run_command();
    command.args(["--mem", "64M", "--kernel"]).arg(kernel);
    command
}

/// `vmm run` without input.
fn run_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.arg("run").stdin(Stdio::null());
    command
}

/// Only a machine without KVM may skip a test; it says so, past the test's own capture.
fn no_kvm() -> bool {
    let missing = !Path::new("/dev/kvm").exists();
    if missing {
        skip("this machine has no /dev/kvm");
    }
    missing
}

/// Says why something is not tested.
fn skip(why: &str) {
    let _ = writeln!(stderr(), "SKIP: {why}");
}

/// Waits for what comes about soon.
#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
