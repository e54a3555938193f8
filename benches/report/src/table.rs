//! The table in Markdown that can be read as it is.

use crate::around::{caveats, failures, headline};
use crate::figures::{
    BASE, METRICS, Metric, Setting, change, gain, mean, of, others, settings, value_of, variants,
};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, sure};
use crate::summary::lines;
use crate::words::{NONE, difference, or_none, percent, percents, points, short, with_interval};

/// The tables of a run as Markdown that can be read as it is: a line for each setting,
/// then a block of rows for each, a column for each variant, a column for each comparison.
pub fn table(results: &Results) -> String {
    if results.cells.is_empty() {
        return format!("{}No cell has a result.\n", failures(results));
    }
    let variants = variants(&results.cells);
    let mut rows = Table::new(titles(&variants));
    let settings = settings(results);
    let all = settings.values().flat_map(|cells| gains(cells, &variants));
    let mut sure = sure(&all.collect::<Vec<_>>()).into_iter();
    for (setting, cells) in &settings {
        for row in block(setting, cells, &variants, &mut sure) {
            rows.row(row);
        }
    }
    format!(
        "{}\n\n{}\n{}\n{}{}",
        headline(results, &variants),
        lines(results, &variants),
        rows.aligned(),
        failures(results),
        caveats(results)
    )
}

/// What each cell cost: real time for time of the emulated host.
pub fn cost(results: &Results) -> String {
    let mut table = Table::new([
        "workload",
        "VMs x vCPUs on CPUs",
        "virtual s",
        "wall s",
        "wall s per virtual s",
    ]);
    for cell in &results.cells {
        table.row([
            cell.chosen.workload.clone(),
            Setting::of(cell).place(),
            format!("{:.1}", cell.virtual_s),
            format!("{:.0}", cell.wall_s),
            format!("{:.1}", cell.wall_s / cell.virtual_s),
        ]);
    }
    table.to_string()
}

fn titles(variants: &[&str]) -> Vec<String> {
    let mut row = vec![String::new()];
    row.extend(variants.iter().map(|v| v.to_string()));
    row.extend(others(variants).map(|v| format!("{v} to {BASE}")));
    row
}

fn gains(cells: &[&Cell], variants: &[&str]) -> Vec<Option<Estimate>> {
    others(variants).map(|v| gain(cells, v)).collect()
}

/// The rows of one setting; `sure` says of each of its gains whether it counts.
fn block(
    setting: &Setting,
    cells: &[&Cell],
    variants: &[&str],
    sure: &mut impl Iterator<Item = bool>,
) -> Vec<Vec<String>> {
    let columns = 1 + variants.len() + others(variants).count();
    let mut title = vec![format!(
        "**{}**, {}",
        setting.chosen.workload,
        setting.shape()
    )];
    title.resize(columns, String::new());

    let mut value = vec![format!("{}, all VMs", setting.unit)];
    value.extend(variants.iter().map(|v| {
        let mean = mean(cells, v, value_of);
        mean.map_or(NONE.into(), |e| with_interval(e, short))
    }));
    let gains = gains(cells, variants).into_iter().zip(sure);
    value.extend(gains.map(|(gain, sure)| difference(gain, sure)));
    let mut samples = vec!["samples by seed".to_string()];
    samples.extend(variants.iter().map(|v| {
        let all: Vec<String> = of(cells, v).values().map(|c| short(c.value)).collect();
        or_none(all.join(" "))
    }));
    samples.resize(columns, NONE.into());

    let mut rows = vec![title, value, samples];
    rows.extend(
        METRICS
            .iter()
            .filter_map(|m| metric_row(m, cells, variants)),
    );
    rows
}

/// A metric's row, if any variant has it.
fn metric_row(metric: &Metric, cells: &[&Cell], variants: &[&str]) -> Option<Vec<String>> {
    let means: Vec<_> = variants.iter().map(|v| mean(cells, v, metric.of)).collect();
    if means.iter().all(Option::is_none) {
        return None;
    }
    let show = if metric.as_share { percent } else { short };
    let mut row = vec![metric.title.to_string()];
    let in_words = |e: Option<_>| e.map_or(NONE.into(), |e| with_interval(e, show));
    row.extend(means.into_iter().map(in_words));
    row.extend(others(variants).map(|v| {
        let change = change(metric, cells, v);
        change.map_or(NONE.into(), if metric.as_share { points } else { percents })
    }));
    Some(row)
}
