//! The patched kernel under lockdep: KUnit tests pass at boot, and a cell runs
//! without a report.

use dense_bench::plan::cells;
use dense_record::job::{Done, Job};
use dense_record::measured::CellOutput;
use dense_record::spec::{CellSpec, Paths};
use e2e::{kernel, parts, run};
use testbed::kernel::Variant;
use testbed::machine::complaint;

/// What KUnit prints of our suites when all is well.
const SUITES: &[&str] = &[
    "# kvm_ipi_record: pass:22 fail:0 skip:0 total:22",
    "# sched_yield_math: pass:9 fail:0 skip:0 total:9",
    "# sched_debooster: pass:5 fail:0 skip:0 total:5",
    "# sched_directed_yield: pass:15 fail:0 skip:0 total:15",
];

#[test]
fn kunit_passes_and_lockdep_finds_nothing_in_a_cell() {
    let parts = parts();
    let kunit = kernel(Variant::Kunit);
    let planned = cells("smoke", None, Some("*/vmfirst/s1"))
        .unwrap()
        .remove(0);
    let job = Job::Cell(Box::new(CellSpec::new(&planned, Paths::default())));
    let (output, done) = run(&parts, &kunit, &job, 1);
    let console = String::from_utf8_lossy(&output.console);
    for suite in SUITES {
        assert!(console.contains(suite), "{suite}: {console}");
    }
    assert_eq!(complaint(&console), None, "{console}");
    assert!(matches!(done, Done::Cell(CellOutput::Ok(_))), "{done:?}");
}
