//! The table of how many directed yields went to the vCPU that was waited for.

use std::fmt::Write;

use super::figures::{Setting, of, settings, variants};
use super::table::{caveats, headline};
use super::words::percent;
use crate::results::{Cell, Results};

const HEAD: &str = "\
| workload | VMs x vCPUs on CPUs | variant | yields of waiting vCPUs | to whom they waited for | by seed | yields of others |
|---|---|---|---|---|---|---|
";

/// A line for each variant of each setting, all seeds added up.
pub fn truth(results: &Results) -> String {
    let names = variants(&results.cells);
    let mut out = format!("{}\n\n{HEAD}", headline(results, &names));
    for (setting, cells) in &settings(results) {
        for name in &names {
            let cells: Vec<&Cell> = of(cells, name).into_values().collect();
            if !cells.is_empty() {
                // Writing to a String does not fail.
                let _ = writeln!(out, "{}", line(setting, name, &cells));
            }
        }
    }
    format!("{out}\n{}", caveats(results))
}

fn line(setting: &Setting, name: &str, cells: &[&Cell]) -> String {
    let sum = |counter: &str| cells.iter().map(|c| count(c, counter)).sum::<u64>();
    let (right, wrong) = (sum("truth_right"), sum("truth_wrong"));
    let share = |right: u64, wrong: u64| match right + wrong {
        0 => "-".to_string(),
        all => percent(right as f64 / all as f64),
    };
    let by_seed = cells
        .iter()
        .map(|c| share(count(c, "truth_right"), count(c, "truth_wrong")));
    format!(
        "| {} | {} x {} on {} | {name} | {} | {} | {} | {} |",
        setting.workload,
        setting.guests,
        setting.vcpus,
        setting.pcpus,
        right + wrong,
        share(right, wrong),
        by_seed.collect::<Vec<_>>().join(", "),
        sum("truth_unknown"),
    )
}

fn count(cell: &Cell, name: &str) -> u64 {
    cell.counters.get(name).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::tests::cell;

    #[test]
    fn seeds_are_added_up_and_what_never_yielded_is_a_dash() {
        let mut results = Results::new("truth", BTreeMap::new());
        for (seed, right, wrong) in [(1, 90, 10), (2, 30, 70)] {
            let mut one = cell("truth-call", "vmfirst", seed, 1.0);
            one.counters = [
                ("truth_right", right),
                ("truth_wrong", wrong),
                ("truth_unknown", 1),
            ]
            .map(|(name, n)| (name.into(), n))
            .into();
            results.cells.push(one);
        }
        let mut idle = cell("truth-call", "stock", 1, 1.0);
        idle.counters = BTreeMap::new();
        results.cells.push(idle);
        let table = truth(&results);
        assert!(
            table.contains("| vmfirst | 200 | 60.0 % | 90.0 %, 30.0 % | 2 |"),
            "{table}"
        );
        assert!(table.contains("| stock | 0 | - | - | 0 |"), "{table}");
    }
}
