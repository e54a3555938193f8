//! The table of many variants beside each other: a row for each.

use crate::around::{caveats, headline};
use crate::figures::{
    BASE, METRICS, Setting, gain, mean, of, others, settings, value_of, variants,
};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, sure};
use crate::words::{NONE, difference, percent, short, with_interval};

/// The metrics that get a column, by their title.
const COLUMNS: &[&str] = &[
    "slowest/fastest VM",
    "spin exits/s",
    "yield to run, mean us",
    "vCPU migrations/s",
];

/// A table for each setting, the variant that does most work first.
pub fn ablation(results: &Results) -> String {
    let names = variants(&results.cells);
    let mut out = format!("{}\n", headline(results, &names));
    let settings = settings(results);
    let gains = settings.values();
    let gains = gains.flat_map(|cells| others(&names).map(|name| gain(cells, name)));
    let mut sure = sure(&gains.collect::<Vec<_>>()).into_iter();
    for (setting, cells) in &settings {
        out += &block(setting, cells, &names, &mut sure);
    }
    format!("{out}\n{}", caveats(results))
}

fn block(
    setting: &Setting,
    cells: &[&Cell],
    names: &[&str],
    sure: &mut impl Iterator<Item = bool>,
) -> String {
    let titles = ["variant".to_string(), format!("{}, all VMs", setting.unit)];
    let titles = titles
        .into_iter()
        .chain([format!("to {BASE}"), "by seed".into()]);
    let mut table = Table::new(titles.chain(COLUMNS.iter().map(|c| c.to_string())));
    let rows = names.iter().filter_map(|name| {
        let is_sure = *name != BASE && sure.next().unwrap_or(false);
        let value = mean(cells, name, value_of)?;
        Some((value.mean, row(cells, name, value, is_sure)))
    });
    let mut rows: Vec<(f64, Vec<String>)> = rows.collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows.into_iter().for_each(|(_, row)| table.row(row));
    format!(
        "\n**{}**, {}\n\n{table}",
        setting.chosen.workload,
        setting.shape()
    )
}

fn row(cells: &[&Cell], name: &str, value: Estimate, sure: bool) -> Vec<String> {
    let gained = match name {
        BASE => NONE.into(),
        _ => difference(gain(cells, name), sure),
    };
    let seeds: Vec<String> = of(cells, name).values().map(|c| short(c.value)).collect();
    let metrics = METRICS.iter().filter(|m| COLUMNS.contains(&m.title));
    let metrics = metrics.map(|metric| {
        let show = if metric.as_share { percent } else { short };
        let mean = mean(cells, name, metric.of).map(|e| show(e.mean));
        mean.unwrap_or(NONE.into())
    });
    let cells = [
        name.to_string(),
        with_interval(value, short),
        gained,
        seeds.join(" "),
    ];
    cells.into_iter().chain(metrics).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::tests::cell;

    #[test]
    fn the_best_variant_comes_first_and_is_compared_by_seed() {
        let cells = [
            cell("dbench", "stock", 1, 100.0),
            cell("dbench", "stock", 2, 200.0),
            cell("dbench", "v2", 1, 90.0),
            cell("dbench", "v2", 2, 180.0),
            cell("dbench", "vmfirst", 1, 120.0),
            cell("dbench", "vmfirst", 2, 220.0),
        ];
        let mut results = Results::new("ablation", BTreeMap::new());
        results.cells.extend(cells);
        let table = ablation(&results);
        let at = |text: &str| {
            table
                .find(text)
                .unwrap_or_else(|| panic!("{text}: {table}"))
        };
        assert!(at("| vmfirst | 170.0") < at("| stock | 150.0"), "{table}");
        assert!(at("| stock | 150.0") < at("| v2 | 135.0"), "{table}");
        // By pairs: +20 and +10 %, so the root of 1.2 * 1.1; and twice the same.
        at("| +14.9 % (-33.9 to +99.7) | 120.0 220.0 |");
        at("| -10.0 % (-10.0 to -10.0) sure | 90.00 180.0 |");
    }
}
