//! Cells put VMs into control groups and pin vCPUs: what was asked for can be seen
//! in what the host counts, and nothing is left behind.

use dense_bench::plan::cells;
use dense_record::job::Done;
use dense_record::measured::{CellOutput, Measured};
use e2e::{parts, run_cell};

fn measured(pattern: &str) -> Measured {
    let planned = cells("layouts", None, Some(pattern)).unwrap().remove(0);
    let (output, done) = run_cell(&parts(), &planned);
    let console = String::from_utf8_lossy(&output.console);
    assert!(!console.contains("cannot restore"), "{console}");
    match done {
        Done::Cell(CellOutput::Ok(measured)) => measured,
        other => panic!("{pattern}: {other:?}"),
    }
}

#[test]
fn pinned_vcpus_in_groups_of_their_own_never_move() {
    // The harness reads back where each thread is, and fails the cell if it isn't there.
    let measured = measured("*/cg-vcpu/pin-one-to-one/stock/*");
    assert_eq!(measured.counters["vcpu_migrations"], 0);
}

#[test]
fn a_third_party_beside_a_group_a_vm_gets_a_share_like_a_vm() {
    // Two VMs that compute on all four CPUs, and a task that needs one: in groups of
    // equal weight it gets at least a third of that CPU, and never more than all.
    let measured = measured("*/cg-vm/third-task/stock/*");
    let share = measured.counters["third_party_run_ns"] as f64 / measured.window_ns as f64;
    assert!((0.3..=1.01).contains(&share), "{share}");
}
