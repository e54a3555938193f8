//! The table of why each workload contends: docs/workloads.md.

use crate::figures::Setting;
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::words::{NONE, percent};

/// A line for each cell. IPIs are those that the guests' kernels counted as taken.
pub fn contention(results: &Results) -> String {
    let mut table = Table::new([
        "workload",
        "VMs x vCPUs on CPUs",
        "work, all VMs",
        "spin exits/s",
        "CPU time spinning, at least",
        "function-call IPIs/s",
        "of them TLB shootdowns",
        "reschedule IPIs/s",
    ]);
    let mut cells: Vec<&Cell> = results.cells.iter().collect();
    cells.sort_by_key(|c| &c.chosen);
    cells.into_iter().for_each(|cell| table.row(line(cell)));
    table.to_string()
}

fn line(cell: &Cell) -> [String; 8] {
    let counted = |name: &str| cell.counters.get(name).map(|&n| n as f64);
    let spinning = counted("spin_ns").zip(counted("vcpu_run_ns"));
    [
        cell.chosen.workload.clone(),
        Setting::of(cell).place(),
        format!("{:.3} {}", cell.value, cell.unit),
        whole(counted("spin_exits").map(|n| n / cell.window_s)),
        spinning.map_or(NONE.into(), |(spin, run)| percent(spin / run)),
        whole(guests_rate(cell, "ipi_call")),
        whole(guests_rate(cell, "ipi_tlb")),
        whole(guests_rate(cell, "ipi_reschedule")),
    ]
}

/// What all guests counted a second; none if one did not count it.
fn guests_rate(cell: &Cell, name: &str) -> Option<f64> {
    let rates = cell.guest_extras.iter();
    rates
        .map(|extras| Some(extras.get(name)? / extras.get("window_s")?))
        .sum()
}

fn whole(rate: Option<f64>) -> String {
    rate.map_or(NONE.into(), |rate| format!("{rate:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::cell;
    use std::collections::BTreeMap;

    #[test]
    fn a_cell_is_a_line_and_what_was_not_counted_is_a_dash() {
        let mut results = Results::new("contention", BTreeMap::new());
        let mut one = cell("dedup", "stock", 1, 12.5);
        one.window_s = 0.5;
        one.counters = [("spin_exits", 100), ("spin_ns", 250), ("vcpu_run_ns", 1000)]
            .map(|(name, n)| (name.into(), n))
            .into();
        let extras = [("ipi_call", 20.0), ("ipi_tlb", 10.0), ("window_s", 0.5)];
        let extras: BTreeMap<_, _> = extras.map(|(name, n)| (name.into(), n)).into();
        one.guest_extras = vec![extras.clone(), extras];
        results.cells.push(one);
        let table = contention(&results);
        assert!(table.contains("| 200 | 25.0 % | 80 | 40 | - |"), "{table}");
    }
}
