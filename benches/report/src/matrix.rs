//! What each variant gains where: a table for each workload, a row for each variant, a
//! column for each setting.

use std::collections::BTreeMap;

use crate::around::caveats;
use crate::figures::{BASE, Setting, gain, mean, samples, settings, value_of};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, sure};
use crate::words::{NONE, short};

/// The base's work, and in percent of it what the others do more. What does most is bold
/// where the next one surely does less.
pub fn matrix(results: &Results) -> String {
    let settings = settings(results);
    let columns: Vec<Column> = settings
        .iter()
        .map(|(setting, cells)| Column::new(setting, cells))
        .collect();
    let leads: Vec<_> = columns.iter().map(Column::lead).collect();
    let mut workloads: BTreeMap<&str, Vec<(Column, bool)>> = BTreeMap::new();
    for (column, is_sure) in columns.into_iter().zip(sure(&leads)) {
        let workload = column.setting.chosen.workload.as_str();
        workloads
            .entry(workload)
            .or_default()
            .push((column, is_sure));
    }
    let tables = workloads.into_iter();
    let tables: String = tables.map(|(workload, c)| table(workload, &c)).collect();
    format!("{tables}\n{}", caveats(results))
}

/// A setting, and what was measured there.
struct Column<'a> {
    setting: &'a Setting,
    cells: &'a [&'a Cell],
    /// The variants, what does most first.
    order: Vec<&'a str>,
}

impl<'a> Column<'a> {
    fn new(setting: &'a Setting, cells: &'a [&'a Cell]) -> Self {
        let gained = |name: &&str| match *name {
            BASE => 0.0,
            name => gain(cells, name).map_or(f64::NEG_INFINITY, |gain| gain.mean),
        };
        let mut order = names(cells);
        order.sort_by(|a, b| gained(b).total_cmp(&gained(a)));
        Self {
            setting,
            cells,
            order,
        }
    }

    /// How much more the first does than the second.
    fn lead(&self) -> Option<Estimate> {
        let [first, second, ..] = self.order[..] else {
            return None;
        };
        samples(self.cells, [second, first], value_of)?.percent()
    }

    /// What is written in the row of `variant`.
    fn entry(&self, variant: &str, lead_is_sure: bool) -> String {
        if variant == BASE {
            let value = mean(self.cells, variant, value_of);
            return value.map_or(NONE.into(), |v| short(v.mean));
        }
        let Some(gained) = gain(self.cells, variant) else {
            return NONE.into();
        };
        // Adding 0 makes of -0 a 0.
        let show = |v: f64| format!("{:+.0}", v.round() + 0.0);
        let words = match gained.interval {
            Some((low, high)) => format!("{} ({} to {})", show(gained.mean), show(low), show(high)),
            None => show(gained.mean),
        };
        match lead_is_sure && self.order.first() == Some(&variant) {
            true => format!("**{words}**"),
            false => words,
        }
    }
}

fn table(workload: &str, columns: &[(Column, bool)]) -> String {
    let cells = columns.iter().flat_map(|(column, _)| column.cells);
    let all: Vec<&Cell> = cells.copied().collect();
    let unit = all.first().map_or("", |c| c.unit.as_str());
    let heads = columns.iter().map(|(column, _)| column.setting.place());
    let mut table = Table::new(std::iter::once(String::new()).chain(heads));
    for name in names(&all) {
        let entries = columns
            .iter()
            .map(|(column, sure)| column.entry(name, *sure));
        table.row(std::iter::once(name.to_string()).chain(entries));
    }
    format!("\n**{workload}**: {BASE} in {unit}, the others in % more\n\n{table}")
}

/// The variants in the plan's order, which is that of the first sample.
fn names<'a>(cells: &[&'a Cell]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for cell in cells {
        if !names.contains(&cell.chosen.variant.as_str()) {
            names.push(&cell.chosen.variant);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::cell;

    /// Two seeds of each variant, one of them 1 % more than the other.
    fn matrix_of(means: &[(&str, f64)]) -> String {
        let mut results = Results::new("ablation", BTreeMap::new());
        for (variant, mean) in means {
            for (seed, factor) in [(1, 1.0), (2, 1.01)] {
                let value = mean * factor;
                results.cells.push(cell("dbench", variant, seed, value));
            }
        }
        matrix(&results)
    }

    #[test]
    fn the_most_is_bold_where_the_next_surely_does_less() {
        let table = matrix_of(&[("stock", 100.0), ("vmfirst", 120.0), ("v2", 90.0)]);
        for row in [
            "| stock | 100.5 |",
            "| vmfirst | **+20 (+20 to +20)** |",
            "| v2 | -10 (-10 to -10) |",
        ] {
            assert!(table.contains(row), "{row}: {table}");
        }
        let tie = matrix_of(&[("stock", 100.0), ("a", 120.0), ("b", 120.0)]);
        assert!(!tie.contains("**+"), "{tie}");
        let loss = matrix_of(&[("stock", 100.0), ("a", 80.0)]);
        assert!(!loss.contains("**-"), "{loss}");
    }

    #[test]
    fn of_one_seed_nothing_is_bold_and_what_was_not_measured_is_a_dash() {
        let mut results = Results::new("ablation", BTreeMap::new());
        results.cells = vec![
            cell("dbench", "stock", 1, 100.0),
            cell("dbench", "vmfirst", 1, 120.0),
            cell("dbench", "v2", 1, 90.0),
            cell("dbench", "stock", 1, 10.0),
            cell("dbench", "vmfirst", 1, 9.0),
        ];
        for other in &mut results.cells[3..] {
            other.chosen.guests += 1;
        }
        let table = matrix(&results);
        for row in [
            "| stock | 100.0 | 10.00 |",
            "| vmfirst | +20 | -10 |",
            "| v2 | -10 | - |",
        ] {
            assert!(table.contains(row), "{row}: {table}");
        }
    }
}
