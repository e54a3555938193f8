use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use dense_record::chosen::Chosen;
use dense_record::spec::Paths;

use super::*;

/// One cell at a time: while one test's process starts, it has the script that
/// another test is writing open too, and a file open for writing can't be run.
static ALONE: Mutex<()> = Mutex::new(());

/// A VMM that is a shell script with the guest's protocol; `$pid` is in its first line.
fn spec(folder: &Path, script: &str) -> CellSpec {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    file("fake.cpio", "");
    CellSpec {
        chosen: Chosen {
            workload: "fake".into(),
            guests: 2,
            vcpus: 4,
            mem_mib: 64,
            disk_mib: 8,
            seed: 1,
            warmup_ms: 1,
            window_ms: 1,
            sysfs: [(file("knob", "N\n"), "Y".into())].into(),
            ..Chosen::default()
        },
        ready_timeout_ms: 10_000,
        finish_timeout_ms: 10_000,
        paths: Paths {
            vmm: file(
                "vmm",
                &format!(
                    "#!/bin/sh\necho $$ >> {}/pids\n{script}\n",
                    folder.display()
                ),
            ),
            kernel: file("kernel", ""),
            initrds: folder.into(),
            mke2fs: file("mke2fs", "#!/bin/sh\nexit 0\n"),
        },
    }
}

/// Runs the cell with this script as its VMM.
fn outcome(script: &str, change: impl FnOnce(&mut CellSpec)) -> CellOutput {
    outcome_until(script, change, &AtomicBool::new(false))
}

/// Whatever comes out, nothing may be left.
fn outcome_until(
    script: &str,
    change: impl FnOnce(&mut CellSpec),
    stop: &AtomicBool,
) -> CellOutput {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path(), script);
    change(&mut spec);
    let console: Console = Arc::new(Mutex::new(Vec::new()));
    let host = Host {
        booted: same_cell,
        scratch: scratch.path(),
        state: folder.path(),
        console: &console,
        stop,
    };
    let output = run(&spec, host);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    let knob = fs::read_to_string(folder.path().join("knob")).unwrap();
    assert_eq!(knob.trim_end(), "N");
    for pid in fs::read_to_string(folder.path().join("pids"))
        .unwrap_or_default()
        .lines()
    {
        assert!(!Path::new("/proc").join(pid).exists(), "VMM {pid} is left");
    }
    output
}

fn failure(script: &str, change: impl FnOnce(&mut CellSpec)) -> String {
    match outcome(script, change) {
        CellOutput::Failed { error } => error,
        CellOutput::Ok(measured) => panic!("succeeded: {measured:?}"),
    }
}

const RESULT: &str =
    r#"echo 'VMFIRST RESULT {"value":2.5,"unit":"x/s","window_s":1.0,"extras":{"a":1.0}}'"#;

#[test]
fn guests_are_added_up() {
    let script = format!("echo noise; echo VMFIRST READY; read go; echo \"got $go\"; {RESULT}");
    let CellOutput::Ok(measured) = outcome(&script, |_| {}) else {
        panic!("failed");
    };
    assert_eq!(measured.value, 5.0);
    assert_eq!(measured.per_guest, [2.5, 2.5]);
    assert_eq!(measured.unit, "x/s");
    assert_eq!(measured.guest_extras[1]["a"], 1.0);
    assert_eq!(measured.guest_extras[1]["window_s"], 1.0);
}

#[test]
fn a_guest_that_fails_fails_the_cell_with_its_own_words() {
    let error = failure(
        "echo VMFIRST READY; read go; echo VMFIRST FAILED disk full",
        |s| s.chosen.guests = 1,
    );
    assert_eq!(error, "guest 0: disk full");
}

#[test]
fn a_guest_that_never_gets_ready_is_given_up() {
    let error = failure("echo booting; exec sleep 1000", |s| s.ready_timeout_ms = 50);
    assert!(error.contains("did not say READY in time"), "{error}");
    assert!(error.starts_with("guest 0: "), "{error}");
}

#[test]
fn a_vmm_that_dies_is_told_with_its_status_and_last_words() {
    let error = failure("echo oops >&2; exit 4", |_| {});
    let words = "exit status: 4 (the guest crashed); it said last: oops";
    assert!(error.contains(words), "{error}");
    let error = failure("exit 0", |_| {});
    assert!(error.contains("without a RESULT"), "{error}");
}

#[test]
fn a_guest_that_fails_is_noticed_while_another_is_waited_for() {
    // The first never gets ready, the second fails: nobody waits for the first.
    let script = "mkdir ${0%vmm}first 2>/dev/null && exec sleep 1000; echo VMFIRST FAILED broken";
    let error = failure(script, |s| s.ready_timeout_ms = 3_600_000);
    assert!(error.ends_with(": broken"), "{error}");
}

#[test]
fn a_guest_that_does_not_end_is_given_up() {
    let script = format!("echo VMFIRST READY; read go; {RESULT}; exec sleep 1000");
    let error = failure(&script, |s| s.finish_timeout_ms = 50);
    assert!(error.contains("did not end in time"), "{error}");
}

#[test]
fn a_vmm_that_ignores_sigterm_is_killed() {
    // The shell's own child ends by itself; here only the VMM counts.
    let script = "trap '' TERM QUIT; echo VMFIRST FAILED stuck; while :; do sleep 1; done";
    let error = failure(script, |_| {});
    assert!(error.ends_with("stuck"), "{error}");
}

#[test]
fn the_user_can_stop_it() {
    let stop = AtomicBool::new(true);
    let output = outcome_until("exec sleep 1000", |_| {}, &stop);
    let error = "stopped by the user".to_string();
    assert_eq!(output, CellOutput::Failed { error });
}

#[test]
fn a_result_without_a_clean_end_is_none() {
    let error = failure(
        &format!("echo VMFIRST READY; read go; {RESULT}; exit 5"),
        |_| {},
    );
    assert!(
        error.contains("its VMM ended with exit status: 5"),
        "{error}"
    );
}

#[test]
fn what_is_missing_is_named_before_anything_starts() {
    let error = failure("", |s| s.paths.kernel = "/nowhere/kernel".into());
    assert!(error.contains("cannot find /nowhere/kernel"), "{error}");
    let error = failure("", |s| {
        s.chosen.sysfs = [("/nowhere/knob".into(), String::new())].into();
    });
    assert!(error.contains("cannot find /nowhere/knob"), "{error}");
    let error = failure("", |s| s.paths.kernel = "/".into());
    assert!(error.contains("/ is not a file"), "{error}");
    let error = failure("", |s| s.chosen.disk_mib = 1 << 20);
    assert!(error.contains("disks need 2097152"), "{error}");
}

#[test]
fn values_out_of_range_are_named() {
    type Change = fn(&mut CellSpec);
    let changes: [(&str, Change); 3] = [
        ("vcpus = 0", |s| s.chosen.vcpus = 0),
        ("ready_timeout_ms = 18446744073709551615", |s| {
            s.ready_timeout_ms = u64::MAX;
        }),
        ("finish_timeout_ms = 1", |s| s.finish_timeout_ms = 1),
    ];
    for (words, change) in changes {
        let error = failure("", change);
        assert!(error.contains(words), "{error}");
    }
}
