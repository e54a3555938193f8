//! Bad input to `cargo xtask`: one clear line, a non-zero exit, nothing started.

use std::process::{Command, Output};

fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        .output()
        .unwrap()
}

/// The one line on standard error.
fn refused(args: &[&str]) -> String {
    let output = xtask(args);
    assert!(!output.status.success(), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

#[test]
fn an_unknown_plan_is_refused_with_those_that_are_there() {
    let said = refused(&["bench", "--plan", "nope"]);
    assert!(said.contains("nope") && said.contains("quick"), "{said}");
}

#[test]
fn an_unknown_cell_is_refused_with_those_that_are_there() {
    let said = refused(&["bench", "--plan", "smoke", "--only", "nope"]);
    assert!(said.contains("compute/2x4on4/q3000/stock/s1"), "{said}");
}

#[test]
fn an_unwritable_folder_is_named() {
    let said = refused(&["bench", "--out", "/proc/nowhere"]);
    assert!(said.contains("/proc/nowhere"), "{said}");
}

#[test]
fn resuming_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let said = refused(&["bench", "--resume", "--out", &dir.path().to_string_lossy()]);
    assert!(said.contains("nothing to resume"), "{said}");
}

#[test]
fn results_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.json");
    std::fs::write(&path, "[]").unwrap();
    let said = refused(&["bench", "--resume", "--out", &dir.path().to_string_lossy()]);
    assert!(said.contains("not a results file"), "{said}");
}
