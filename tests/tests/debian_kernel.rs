//! A host that is not a lab: Debian's own kernel of 6.12 as it comes, with KVM as a module.

use dense_bench::plan::cells;
use dense_record::chosen::HostKernel;
use dense_record::job::Done;
use dense_record::measured::CellOutput;
use e2e::{parts_of, run_cell};

#[test]
fn debians_own_kernel_runs_a_cell() {
    let mut cell = cells("smoke", None, None).unwrap().remove(0);
    cell.host_kernel = HostKernel::Debian;
    // A knob whose file lists all values and marks the chosen one.
    let knob = "/sys/kernel/debug/sched/preempt";
    cell.sysfs = [(knob.into(), "full".into())].into();
    let parts = parts_of([cell.workload.as_str()], [cell.host_kernel]);
    let (output, done) = run_cell(&parts, &cell);
    let console = String::from_utf8_lossy(&output.console);
    let Done::Cell(CellOutput::Ok(measured)) = done else {
        panic!("{done:?}: {console}");
    };
    assert!(measured.value > 0.0, "{measured:?}");
    assert!(measured.counters["vcpu_runs"] > 0, "{measured:?}");
    assert!(
        !measured.counters.contains_key("spin_exits"),
        "{measured:?}"
    );
}
