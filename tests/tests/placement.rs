//! Cells put VMs into control groups and pin vCPUs: what was asked for can be seen
//! in what the host counts, and nothing is left behind.

use dense_bench::host_init::Done;
use dense_bench::plan::cells;
use dense_bench::spec::CellOutput;
use e2e::{parts, run_cell};

#[test]
fn pinned_vcpus_in_groups_of_their_own_never_move() {
    let parts = parts();
    let migrations = |pattern: &str| {
        let planned = cells("layouts", None, Some(pattern)).unwrap().remove(0);
        let (output, done) = run_cell(&parts, &planned);
        let console = String::from_utf8_lossy(&output.console);
        assert!(!console.contains("cannot restore"), "{console}");
        match done {
            Done::Cell(CellOutput::Ok(measured)) => measured.counters["vcpu_migrations"],
            other => panic!("{pattern}: {other:?}"),
        }
    };
    assert_eq!(migrations("*/cg-vcpu/pin-one-to-one/*"), 0);
    assert_ne!(migrations("*/cg-vcpu/stock/*"), 0);
}
