//! Cells put VMs into control groups and pin vCPUs: what was asked for can be seen
//! in what the host counts, and nothing is left behind.

use dense_bench::plan::cells;
use dense_record::chosen::Layout;
use dense_record::job::Done;
use dense_record::measured::{CellOutput, Measured};
use e2e::{parts_for, run_cell};

fn measured(pattern: &str, workload: &str, layout: Layout) -> Measured {
    let mut cell = cells("layouts", None, Some(pattern)).unwrap().remove(0);
    // As much as dedup needs, and a warm-up in which each vCPU runs where it has to.
    (cell.workload, cell.mem_mib) = (workload.into(), 192);
    (cell.warmup_ms, cell.window_ms) = (300, 500);
    cell.cgroups = layout;
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
    let moves = |pattern| measured(pattern, "dedup", Layout::Vcpu).counters["vcpu_migrations"];
    assert_eq!(moves("*/q3000/cg-vcpu/pin-one-to-one/stock/*"), 0);
    assert!(moves("*/q3000/cg-vcpu/stock/*") > 0);
}

#[test]
fn a_third_party_beside_a_group_a_vm_gets_a_share_like_a_vm() {
    // Two VMs that compute on all four CPUs, and a task that needs one. In one group with the
    // vCPUs its fair share is 4/9 of a CPU; in groups of equal weight it weighs as much as all
    // four vCPUs of a VM.
    let share = |layout| {
        let cell = "*/q3000/cg-vm/third-task/stock/*";
        let measured = measured(cell, "compute", layout);
        measured.counters["third_party_run_ns"] as f64 / measured.window_ns as f64
    };
    let (flat, grouped) = (share(Layout::Flat), share(Layout::Vm));
    assert!((0.4..=0.55).contains(&flat), "{flat}");
    assert!((0.6..=1.01).contains(&grouped), "{grouped} beside {flat}");
}
