//! The same cell gives the same bytes, alone and beside another; other seeds
//! give other samples. With tracking off, the patched kernel counts no IPI hit.

use std::thread;

use dense_bench::plan::cells;
use dense_record::chosen::{Chosen, HostKernel};
use dense_record::job::{Done, Job};
use dense_record::measured::{CellOutput, Measured};
use dense_record::spec::{CellSpec, Paths};
use e2e::{parts, run_cell};

fn smoke(pattern: &str) -> Chosen {
    cells("smoke", None, Some(pattern)).unwrap().remove(0)
}

fn measured(done: Done) -> Measured {
    match done {
        Done::Cell(CellOutput::Ok(measured)) => measured,
        other => panic!("{other:?}"),
    }
}

#[test]
fn equal_cells_give_equal_bytes_and_other_seeds_others() {
    let parts = parts();
    let (first, second) = (smoke("*/vmfirst/s1"), smoke("*/vmfirst/s2"));
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
    assert_ne!(measured(done).value, measured(other_done).value);
}

#[test]
fn all_switched_off_nothing_is_picked_for_an_ipi() {
    let parts = parts();
    let (_, done) = run_cell(&parts, &smoke("*/vmfirst-off/s1"));
    assert_eq!(measured(done).counters["yield_hits_ipi"], 0);
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
