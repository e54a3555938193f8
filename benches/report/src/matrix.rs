//! What each variant gains where: a table for each workload, a row for each variant, a
//! column for each setting.

use std::collections::BTreeMap;

use crate::around::caveats;
use crate::figures::{BASE, Setting, gain, mean, settings, value_of};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::words::{NONE, short, with_interval};

/// The base's work, and in percent of it what the others do more; the most in bold.
pub fn matrix(results: &Results) -> String {
    let settings = settings(results);
    let mut workloads: BTreeMap<&str, Vec<Column>> = BTreeMap::new();
    for (setting, cells) in &settings {
        let columns = workloads.entry(&setting.chosen.workload).or_default();
        columns.push(Column::new(setting, cells));
    }
    let tables = workloads
        .into_iter()
        .map(|(workload, c)| table(workload, &c));
    format!("{}\n{}", tables.collect::<String>(), caveats(results))
}

/// A setting, and what was measured there.
struct Column<'a> {
    setting: &'a Setting,
    cells: &'a [&'a Cell],
    /// The most that a variant gains, or 0.
    most: f64,
}

impl<'a> Column<'a> {
    fn new(setting: &'a Setting, cells: &'a [&'a Cell]) -> Self {
        let gains = names(cells)
            .into_iter()
            .filter_map(|name| gain(cells, name));
        Self {
            setting,
            cells,
            most: gains.map(|g| g.mean).fold(0.0, f64::max),
        }
    }

    /// What is written in the row of `variant`.
    fn entry(&self, variant: &str) -> String {
        if variant == BASE {
            let value = mean(self.cells, variant, value_of);
            return value.map_or(NONE.into(), |v| short(v.mean));
        }
        let Some(gained) = gain(self.cells, variant) else {
            return NONE.into();
        };
        // Adding 0 makes of -0 a 0.
        let words = with_interval(gained, |v| format!("{:+.0}", v.round() + 0.0));
        if gained.mean > 0.0 && gained.mean >= self.most {
            format!("**{words}**")
        } else {
            words
        }
    }
}

fn table(workload: &str, columns: &[Column]) -> String {
    let all: Vec<&Cell> = columns.iter().flat_map(|c| c.cells).copied().collect();
    let unit = all.first().map_or("", |c| c.unit.as_str());
    let heads = columns.iter().map(|c| c.setting.place());
    let mut table = Table::new(std::iter::once(String::new()).chain(heads));
    for name in names(&all) {
        let entries = columns.iter().map(|c| c.entry(name));
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

    #[test]
    fn the_most_is_bold_and_what_was_not_measured_is_left_out() {
        let mut cells = vec![
            cell("dbench", "stock", 1, 100.0),
            cell("dbench", "vmfirst", 1, 120.0),
            cell("dbench", "v2", 1, 90.0),
            cell("dbench", "stock", 1, 10.0),
            cell("dbench", "vmfirst", 1, 9.0),
        ];
        for other in &mut cells[3..] {
            other.chosen.guests += 1;
        }
        let mut results = Results::new("ablation", BTreeMap::new());
        results.cells = cells;
        let table = matrix(&results);
        for row in [
            "| stock | 100.0 | 10.00 |",
            "| vmfirst | **+20** | -10 |",
            "| v2 | -10 | - |",
        ] {
            assert!(table.contains(row), "{row}: {table}");
        }
    }
}
