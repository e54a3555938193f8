//! The table of many variants beside each other: a row for each.

use crate::around::{caveats, headline};
use crate::figures::{BASE, METRICS, Setting, gain, mean, of, pairs, settings, value_of, variants};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::paired_percent;
use crate::words::{NONE, or_none, percent, short, signed, with_interval};

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
    for (setting, cells) in &settings(results) {
        out += &block(setting, cells, &names);
    }
    format!("{out}\n{}", caveats(results))
}

fn block(setting: &Setting, cells: &[&Cell], names: &[&str]) -> String {
    let unit = cells.first().map_or("", |c| c.unit.as_str());
    let titles = ["variant".to_string(), format!("{unit}, all VMs")];
    let titles = titles
        .into_iter()
        .chain([format!("to {BASE}"), "by seed".into()]);
    let mut table = Table::new(titles.chain(COLUMNS.iter().map(|c| c.to_string())));
    let mut there: Vec<(&str, f64)> = names
        .iter()
        .filter_map(|name| Some((*name, mean(cells, name, value_of)?.mean)))
        .collect();
    there.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (name, _) in there {
        table.row(row(cells, name));
    }
    format!(
        "\n**{}**, {}\n\n{table}",
        setting.chosen.workload,
        setting.shape()
    )
}

fn row(cells: &[&Cell], name: &str) -> Vec<String> {
    let value = mean(cells, name, value_of).map(|e| with_interval(e, short));
    let gained = match name {
        BASE => None,
        _ => gain(cells, name).map(|e| format!("{} %", signed(e))),
    };
    let seeds: Vec<String> = match name {
        BASE => of(cells, name).values().map(|c| short(c.value)).collect(),
        _ => pairs(cells, name, value_of)
            .iter()
            .filter_map(|pair| Some(format!("{:+.1}", paired_percent(&[*pair])?.mean)))
            .collect(),
    };
    let metrics = METRICS.iter().filter(|m| COLUMNS.contains(&m.title));
    let metrics = metrics.map(|metric| {
        let show = if metric.as_share { percent } else { short };
        let mean = mean(cells, name, metric.of).map(|e| show(e.mean));
        mean.unwrap_or(NONE.into())
    });
    let cells = [
        name.to_string(),
        value.unwrap_or(NONE.into()),
        gained.unwrap_or(NONE.into()),
        or_none(seeds.join(" ")),
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
        at("| +15.0 ± 63.5 % | +20.0 +10.0 |");
        at("| -10.0 ± 0.0 % | -10.0 -10.0 |");
    }
}
