//! Cells put VMs into control groups and pin vCPUs: what was asked for can be seen
//! in what the host counts, and nothing is left behind.

use dense_bench::plan::cells;
use dense_record::job::Done;
use dense_record::measured::{CellOutput, Measured};
use e2e::{parts_for, run_cell};

fn measured(pattern: &str, workload: &str) -> Measured {
    let mut cell = cells("layouts", None, Some(pattern)).unwrap().remove(0);
    // As much as dedup needs.
    (cell.workload, cell.mem_mib) = (workload.into(), 192);
    let (output, done) = run_cell(&parts_for(workload), &cell);
    let console = String::from_utf8_lossy(&output.console);
    assert!(!console.contains("cannot restore"), "{console}");
    match done {
        Done::Cell(CellOutput::Ok(measured)) => measured,
        other => panic!("{pattern}: {other:?}"),
    }
}

#[test]
fn pinned_vcpus_in_groups_of_their_own_never_move() {
    // The agent reads back where each thread is, and fails the cell if it isn't there. The
    // threads of dedup sleep and wake: where they may, vCPUs move.
    let moves = |pattern| measured(pattern, "dedup").counters["vcpu_migrations"];
    assert_eq!(moves("*/q3000/cg-vcpu/pin-one-to-one/stock/*"), 0);
    assert!(moves("*/q3000/cg-vcpu/stock/*") > 0);
}

#[test]
fn a_third_party_beside_a_group_a_vm_gets_a_share_like_a_vm() {
    // Two VMs that compute on all four CPUs, and a task that needs one. In groups of equal
    // weight the task's thread weighs as much as all four of a VM, so it gets nearly all of a
    // CPU; in one group with the vCPUs it would get 4/9 of one.
    let measured = measured("*/q3000/cg-vm/third-task/stock/*", "compute");
    let share = measured.counters["third_party_run_ns"] as f64 / measured.window_ns as f64;
    assert!((0.9..=1.01).contains(&share), "{share}");
}
