//! Calls to some vCPUs, sent as Linux sends them in each mode of the APIC: KVM knows who
//! still owes the answer, and yields to them. `--plan truth` has more sizes.

use dense_bench::plan::cells;
use dense_record::job::{Done, Job};
use dense_record::measured::{CellOutput, Measured};
use dense_record::spec::{CellSpec, Paths};
use e2e::{kernel, parts_for, run};
use testbed::kernel::Variant;

fn measured(mode: &str, variant: Variant) -> Measured {
    let only = format!("truth-2-{mode}/2x4on4/*vmfirst/s1");
    let planned = cells("truth", None, Some(&only)).unwrap().remove(0);
    let spec = CellSpec::new(&planned, Paths::default());
    let parts = parts_for(&planned.workload);
    let job = Job::Cell(Box::new(spec));
    let (output, done) = run(&parts, &kernel(variant), &job, 1);
    match done {
        Done::Cell(CellOutput::Ok(measured)) => measured,
        _ => panic!("{done:?}: {}", String::from_utf8_lossy(&output.console)),
    }
}

#[test]
fn spin_exits_know_all_who_owe_the_answer_and_yields_hit_one() {
    for mode in ["xapic", "x2apic", "cluster"] {
        let counters = measured(mode, Variant::Patched).counters;
        let count = |name: &str| counters[&format!("truth_{name}")];
        let exits = [count("exits_known"), count("exits_unknown")];
        assert!(exits[0] > 100, "{mode}: {counters:?}");
        assert!(exits[1] * 19 <= exits[0], "{mode}: {counters:?}");
        let yields = [count("right"), count("wrong")];
        assert!(yields[0] > 100, "{mode}: {counters:?}");
        assert!(yields[1] * 19 <= yields[0], "{mode}: {counters:?}");
    }
}
