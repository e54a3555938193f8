//! The same cell gives the same bytes, alone and beside another; other seeds
//! give other samples.

use std::thread;

use dense_bench::plan::cells;
use dense_record::chosen::{Chosen, HostKernel};
use dense_record::job::{Done, Job};
use dense_record::measured::{CellOutput, Measured};
use dense_record::spec::{CellSpec, Paths};
use e2e::{parts, parts_for, run_cell};

fn smoke(pattern: &str) -> Chosen {
    cells("smoke", None, Some(pattern)).unwrap().remove(0)
}

fn measured(done: Done) -> Measured {
    match done {
        Done::Cell(CellOutput::Ok(measured)) => measured,
        other => panic!("{other:?}"),
    }
}

/// Clients of a file system, on disks that interrupt and vCPUs that wake each other.
fn busy(seed: u64) -> Chosen {
    let pattern = format!("dbench/*/vmfirst/s{seed}");
    let mut cell = cells("quick", None, Some(&pattern)).unwrap().remove(0);
    // As short as dbench can be.
    (cell.warmup_ms, cell.window_ms) = (1000, 1000);
    cell
}

#[test]
fn equal_cells_give_equal_bytes_and_other_seeds_others() {
    let (first, second) = (busy(1), busy(2));
    let parts = parts_for(&first.workload);
    let ((beside, done), (other, other_done)) = thread::scope(|scope| {
        let one = scope.spawn(|| run_cell(&parts, &first));
        let two = scope.spawn(|| run_cell(&parts, &second));
        (one.join().unwrap(), two.join().unwrap())
    });
    let (alone, _) = run_cell(&parts, &first);
    assert!(!alone.console.is_empty());
    // Console of the host and of the guests in it, then values and counters.
    assert_eq!(
        String::from_utf8_lossy(&alone.console),
        String::from_utf8_lossy(&beside.console)
    );
    assert_eq!(alone.result, beside.result);
    assert_ne!(alone.result, other.result);
    let measured = measured(done);
    let extra = |name: &str| measured.guest_extras.iter().map(|e| e[name]).sum::<f64>();
    assert!(extra("ipi_reschedule") > 0.0, "{measured:?}");
    assert!(extra("mb_per_s") > 0.0, "{measured:?}");
    assert_ne!(measured.value, self::measured(other_done).value);
}

#[test]
fn a_guest_that_is_not_ready_in_virtual_time_fails_the_cell() {
    let parts = parts();
    let mut spec = CellSpec::new(&smoke("*/stock/s1"), Paths::default());
    spec.ready_timeout_ms = 10;
    let job = Job::Cell(Box::new(spec));
    let (_, done) = e2e::run(&parts, &parts.kernels[&HostKernel::Stock], &job, 1);
    let Done::Cell(CellOutput::Failed { error }) = done else {
        panic!("{done:?}");
    };
    assert!(
        error.contains("guest 0: did not say READY in time"),
        "{error}"
    );
}

#[test]
fn a_missing_guest_kernel_is_named() {
    let parts = parts();
    let mut spec = CellSpec::new(&smoke("*/stock/s1"), Paths::default());
    spec.paths.kernel = "/vmfirst/guest/nowhere".into();
    let job = Job::Cell(Box::new(spec));
    let (_, done) = e2e::run(&parts, &parts.kernels[&HostKernel::Stock], &job, 1);
    let Done::Cell(CellOutput::Failed { error }) = done else {
        panic!("{done:?}");
    };
    assert!(
        error.contains("cannot find /vmfirst/guest/nowhere"),
        "{error}"
    );
}
