//! `cargo xtask test`: everything that can fail, the cheap things first.

use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;
use std::vec::IntoIter;

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

/// Tests in the emulated host and on the kernel's source.
const EMULATED: (&str, &[&str]) = (
    "tests in the emulated host",
    &["test", "--package", "e2e", "--features", "emulator"],
);
/// So many of their programs run at a time, each with one test: most of it is an emulator's
/// time, on one core.
const LANES: usize = 2;
/// Those that take longest. They begin first, so that none of them is left at the end alone.
const LONGEST: [&str; 5] = ["libvirt_host", "packages", "determinism", "scx", "yields"];

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
    emulated(&cancel)
}

/// Runs the programs of [`EMULATED`] and tells what each printed when it has ended. After one
/// that failed no other begins.
fn emulated(cancel: &Cancel) -> Result<(), Error> {
    let (name, args) = EMULATED;
    // Here, so that no two want to build at a time.
    cargo(name, &[args, &["--no-run"]].concat(), cancel)?;
    let waiting = Mutex::new(programs()?.into_iter());
    let failed = Mutex::new(None);
    let lane = || {
        while let Some(program) = next(&waiting, &failed, cancel) {
            if !passes(&program) {
                *failed.lock().unwrap() = Some(program);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(lane);
        }
    });
    cancel.check()?;
    match failed.into_inner().unwrap() {
        None => Ok(()),
        Some(program) => Err(Error::Tests(program)),
    }
}

/// The names of the programs, the longest first.
fn programs() -> Result<Vec<String>, Error> {
    let folder = repo().join("tests/tests");
    let entries = fs::read_dir(&folder).map_err(testbed::Error::io("read", &folder))?;
    let names = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = names
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort_by_key(|name| (!LONGEST.contains(&name.as_str()), name.clone()));
    Ok(names)
}

fn next(
    waiting: &Mutex<IntoIter<String>>,
    failed: &Mutex<Option<String>>,
    cancel: &Cancel,
) -> Option<String> {
    let goes_on = cancel.check().is_ok() && failed.lock().unwrap().is_none();
    goes_on.then(|| waiting.lock().unwrap().next()).flatten()
}

/// Runs one program. What it printed isn't mixed with what another does.
fn passes(program: &str) -> bool {
    eprintln!("== {program} ...");
    let began = Instant::now();
    let output = command(EMULATED.1)
        .args(["--test", program, "--", "--test-threads", "1"])
        .output();
    let Ok(output) = output else {
        eprintln!("== {program}: cargo can't be run");
        return false;
    };
    let printed = [output.stderr, output.stdout].concat();
    let passed = output.status.success();
    let verdict = if passed { "passed" } else { "failed" };
    eprintln!(
        "{}== {program} {verdict} in {} s",
        String::from_utf8_lossy(&printed),
        began.elapsed().as_secs()
    );
    passed
}

/// Cargo in this repository, for tests that are not to pass where they can't run.
fn command(args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(repo())
        .args(args)
        .env("VMFIRST_NO_SKIP", "1");
    cargo
}

fn cargo(name: &str, args: &[&str], cancel: &Cancel) -> Result<(), Error> {
    cancel.check()?;
    eprintln!("== {name}: cargo {}", args.join(" "));
    let status = command(args)
        .status()
        .map_err(testbed::Error::io("run", "cargo"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Tests(name.to_string()))
}
