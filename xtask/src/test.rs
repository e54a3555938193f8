//! `cargo xtask test`: everything that can fail, the cheap things first.

use std::process::Command;

use dense_record::chosen::HostKernel;
use testbed::packages;
use testbed::proc::Cancel;
use testbed::workshop::{Workshop, repo};

use crate::Error;

/// Format, lints and all tests that need no emulator.
const QUICK: &[(&str, &[&str])] = &[
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    ),
    ("tests", &["test", "--workspace", "--quiet"]),
];

/// Tests in the emulated host and on the kernel's source; two emulators at a time.
const EMULATED: (&str, &[&str]) = (
    "tests in the emulated host",
    &[
        "test",
        "--package",
        "e2e",
        "--features",
        "emulator",
        "--",
        "--test-threads",
        "2",
    ],
);

/// Runs the tests; with `quick` only those that need no emulator.
pub fn run(quick: bool, cancel: Cancel) -> Result<(), Error> {
    // First of all, so that no test finds that it can't run: the kernel's source is among them.
    let workshop = Workshop::open(cancel.clone())?;
    packages::install_for_tests(&workshop.cache, &cancel)?;
    for (name, args) in QUICK {
        cargo(name, args, &cancel)?;
    }
    if quick {
        return Ok(());
    }
    // Built here, so that the tests find everything in the cache.
    workshop.all_parts(["compute"], HostKernel::OURS)?;
    cargo(EMULATED.0, EMULATED.1, &cancel)
}

fn cargo(name: &str, args: &[&str], cancel: &Cancel) -> Result<(), Error> {
    cancel.check()?;
    eprintln!("== {name}: cargo {}", args.join(" "));
    let status = Command::new("cargo")
        .current_dir(repo())
        .args(args)
        .env("VMFIRST_NO_SKIP", "1")
        .status()
        .map_err(testbed::Error::io("run", "cargo"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Tests(name.to_string()))
}
