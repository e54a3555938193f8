//! Published cells run once more give the same to the digit, one that interrupts other vCPUs
//! all the time and one with a disk. Where a part that this tree makes differs the test fails
//! too, and names it: the results are then of something else than the tree. Where a compiler or
//! a package of Debian's differs no digits are promised, and the test says so and is skipped.

use std::collections::BTreeSet;

use dense_record::job::Done;
use dense_record::json::sha256;
use dense_record::measured::CellOutput;
use dense_report::results::Results;
use e2e::{parts_of, run_cell};
use testbed::workshop::repo;

const AGAIN: &str = "cargo xtask bench --plan replay --out target/replay && \
                     cargo xtask report target/replay/results.json";

/// Whether this tree makes what a name among the versions stands for.
fn is_made_here(name: &str) -> bool {
    name == "emulator"
        || name == "machine"
        || name.starts_with("kernel_")
        || name.starts_with("host_image_")
}

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
    let (ours, others): (Vec<&String>, Vec<&String>) =
        differ.into_iter().partition(|name| is_made_here(name));
    if !others.is_empty() {
        eprintln!("SKIP: no digits are promised with other versions of {others:?}; {AGAIN}");
        return;
    }
    assert!(ours.is_empty(), "of another {ours:?}; {AGAIN}");
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
