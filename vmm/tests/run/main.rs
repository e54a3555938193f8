//! The program as a user runs it.

use std::io::{Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};

mod api;
mod config;
mod confinement;
mod console;
mod devices;
mod disk;
mod guests;
mod hostile;
mod memory;
mod net;
mod payload;
mod placement;
mod refusals;
mod sched;
mod stop;
mod terminal;
mod unit;
mod vsock;
mod wait;

use tempfile::TempDir;
use wait::wait_until;

/// `vmm run` on a kernel, with a small memory and no input.
fn vmm(kernel: &Path) -> Command {
    let mut command = run_command();
    command.args(["--mem", "64M", "--kernel"]).arg(kernel);
    command
}

/// `vmm run` without input.
fn run_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(["run", "--stay-root"]).stdin(Stdio::null());
    command
}

/// The options of a machine with a name, in a folder of its test.
fn web(run_dir: &TempDir) -> [&str; 4] {
    let folder = run_dir.path().to_str().unwrap();
    ["--name", "web", "--run-dir", folder]
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
