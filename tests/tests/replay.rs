//! Published cells run once more give the same to the digit, one that interrupts other vCPUs
//! all the time and one with a disk. Where versions differ the test fails too, and names them:
//! the results are then of something else than this tree.

use std::collections::BTreeSet;

use dense_record::job::Done;
use dense_record::json::sha256;
use dense_record::measured::CellOutput;
use dense_report::results::Results;
use e2e::{parts_of, run_cell};
use testbed::workshop::repo;

const AGAIN: &str = "cargo xtask bench --plan replay --out target/replay && \
                     cargo xtask report target/replay/results.json";

#[test]
fn published_cells_give_the_same_digits() {
    let path = repo().join("benches/results/replay.json");
    let published = Results::load(&path).unwrap_or_else(|e| panic!("{e}; make it by: {AGAIN}"));
    assert_eq!(published.cells.len(), 2, "{AGAIN}");
    let workloads = published.cells.iter().map(|c| c.chosen.workload.as_str());
    let kernels = published.cells.iter().map(|c| c.chosen.host_kernel);
    let parts = parts_of(workloads, kernels);
    let (before, now) = (&published.versions, parts.versions().unwrap());
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differ: Vec<_> = names
        .into_iter()
        .filter(|n| before.get(*n) != now.get(*n))
        .collect();
    assert!(differ.is_empty(), "of other versions: {differ:?}; {AGAIN}");
    for cell in &published.cells {
        let key = cell.key();
        let (output, done) = run_cell(&parts, &cell.chosen);
        let Done::Cell(CellOutput::Ok(measured)) = done else {
            panic!("{key}: {done:?}");
        };
        assert_eq!(measured.value, cell.value, "{key}");
        assert_eq!(measured.per_guest, cell.per_guest, "{key}");
        assert_eq!(measured.guest_extras, cell.guest_extras, "{key}");
        assert_eq!(measured.counters, cell.counters, "{key}");
        assert_eq!(sha256(&output.console), cell.console_sha256, "{key}");
    }
}
