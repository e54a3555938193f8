//! The table of why each workload contends: docs/workloads.md.

use std::fmt::Write;

use crate::results::{Cell, Results};

const HEAD: &str = "\
| workload | VMs x vCPUs on CPUs | work, all VMs | spin exits/s | CPU time spinning, at least | function-call IPIs/s | of them TLB shootdowns | reschedule IPIs/s |
|---|---|---|---|---|---|---|---|
";

/// A line for each cell. IPIs are those that the guests' kernels counted as taken.
pub fn contention(results: &Results) -> String {
    let mut out = String::from(HEAD);
    let mut cells: Vec<&Cell> = results.cells.iter().collect();
    cells.sort_by_key(|c| (&c.workload, c.guests, c.vcpus, c.seed));
    for cell in cells {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{}", line(cell));
    }
    out
}

fn line(cell: &Cell) -> String {
    let counted = |name: &str| cell.counters.get(name).map(|&n| n as f64);
    let spinning = counted("spin_ns").zip(counted("vcpu_run_ns"));
    format!(
        "| {} | {} x {} on {} | {:.3} {} | {} | {} | {} | {} | {} |",
        cell.workload,
        cell.guests,
        cell.vcpus,
        cell.pcpus,
        cell.value,
        cell.unit,
        whole(counted("spin_exits").map(|n| n / cell.window_s)),
        spinning.map_or("-".into(), |(spin, run)| format!(
            "{:.1} %",
            100.0 * spin / run
        )),
        whole(guests_rate(cell, "ipi_call")),
        whole(guests_rate(cell, "ipi_tlb")),
        whole(guests_rate(cell, "ipi_reschedule")),
    )
}

/// What all guests counted a second; none if one did not count it.
fn guests_rate(cell: &Cell, name: &str) -> Option<f64> {
    let rates = cell.guest_extras.iter();
    rates
        .map(|extras| Some(extras.get(name)? / extras.get("window_s")?))
        .sum()
}

fn whole(rate: Option<f64>) -> String {
    rate.map_or("-".into(), |rate| format!("{rate:.0}"))
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
