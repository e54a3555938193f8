//! The table of how many directed yields went to the vCPU that was waited for.

use crate::around::{caveats, headline};
use crate::figures::{Setting, of, settings, variants};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::words::{NONE, percent};

/// A line for each variant of each setting, all seeds added up.
pub fn truth(results: &Results) -> String {
    let names = variants(&results.cells);
    let mut table = Table::new([
        "workload",
        "VMs x vCPUs on CPUs",
        "variant",
        "yields of waiting vCPUs",
        "to whom they waited for",
        "by seed",
        "yields of others",
    ]);
    for (setting, cells) in &settings(results) {
        for name in &names {
            let cells: Vec<&Cell> = of(cells, name).into_values().collect();
            if !cells.is_empty() {
                table.row(line(setting, name, &cells));
            }
        }
    }
    format!(
        "{}\n\n{table}\n{}",
        headline(results, &names),
        caveats(results)
    )
}

fn line(setting: &Setting, name: &str, cells: &[&Cell]) -> [String; 7] {
    let sum = |counter: &str| cells.iter().map(|c| count(c, counter)).sum::<u64>();
    let (right, wrong) = (sum("truth_right"), sum("truth_wrong"));
    let share = |right: u64, wrong: u64| match right + wrong {
        0 => NONE.to_string(),
        all => percent(right as f64 / all as f64),
    };
    let by_seed = cells
        .iter()
        .map(|c| share(count(c, "truth_right"), count(c, "truth_wrong")));
    [
        setting.chosen.workload.clone(),
        setting.place(),
        name.to_string(),
        (right + wrong).to_string(),
        share(right, wrong),
        by_seed.collect::<Vec<_>>().join(", "),
        sum("truth_unknown").to_string(),
    ]
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
