//! VMs that spin and yield while affinity, groups, limits, CPUs and tunables change
//! under them: lockdep finds nothing, nor does KASAN, and the VMs do their work.

use dense_bench::plan::cells;
use dense_record::job::{Done, Job};
use dense_record::measured::CellOutput;
use dense_record::spec::{CellSpec, Paths};
use e2e::{kernel, parts_for, run};
use testbed::kernel::Variant;
use testbed::machine::complaint;

#[test]
fn a_storm_of_changes_breaks_nothing() {
    survive(Variant::Kunit, 1, 3);
}

#[test]
#[ignore = "an hour: `cargo test -p e2e --features emulator --test storm -- --ignored`"]
fn five_storms_under_kasan_break_nothing() {
    for seed in 1..=5 {
        survive(Variant::Kasan, seed, 60);
    }
}

/// A storm of `seconds` of virtual time.
fn survive(variant: Variant, seed: u64, seconds: u64) {
    let mut planned = cells("storm", None, None).unwrap().remove(0);
    planned.seed = seed;
    planned.window_ms = 1000 * seconds;
    let parts = parts_for(&planned.workload);
    let job = Job::Storm(Box::new(CellSpec::new(&planned, Paths::default())));
    let (output, done) = run(&parts, &kernel(variant), &job, seed);
    let console = String::from_utf8_lossy(&output.console);
    assert_eq!(complaint(&console), None, "{console}");
    assert!(console.contains("storm: "), "{console}");
    assert!(matches!(done, Done::Cell(CellOutput::Ok(_))), "{done:?}");
}
