//! The table in Markdown that can be read as it is.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::figures::{
    BASE, METRICS, Metric, Setting, change, gain, mean, of, others, pairs, settings, value_of,
    variants,
};
use super::summary::lines;
use super::words::{NONE, or_none, percent, short, signed, verdict, with_interval};
use crate::results::{COMMIT, Cell, Results};
use crate::stats::paired_percent;

/// Options that the line above the table names when all cells agree on them.
const SHARED: &[(&str, &str)] = &[
    ("cgroup_layout", "cgroup layout"),
    ("pinning", "pinning"),
    ("pv", "PV"),
    ("hz", "HZ"),
    ("instructions_per_ns", "instructions/ns a CPU"),
];

/// The tables of a run as Markdown that can be read as it is: a line for each setting,
/// then a block of rows for each, a column for each variant, a column for each comparison.
pub fn table(results: &Results) -> String {
    if results.cells.is_empty() {
        return format!("{}No cell has a result.\n", failures(results));
    }
    let variants = variants(&results.cells);
    let mut rows = vec![titles(&variants)];
    for (setting, cells) in &settings(results) {
        rows.extend(block(setting, cells, &variants));
    }
    format!(
        "{}\n\n{}\n{}\n{}{}",
        headline(results, &variants),
        lines(results, &variants),
        aligned(&rows),
        failures(results),
        caveats(results)
    )
}

/// A line for each cell without a result.
pub(super) fn failures(results: &Results) -> String {
    let mut out = String::new();
    for failure in &results.failures {
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "- no result: `{}`: {} (console: {})",
            failure.key, failure.error, failure.console
        );
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// What each cell cost: real time for time of the emulated host.
pub fn cost(results: &Results) -> String {
    let mut out = String::from(
        "| workload | VMs x vCPUs on CPUs | virtual s | wall s | wall s per virtual s |\n|---|---|---|---|---|\n",
    );
    for cell in &results.cells {
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "| {} | {} x {} on {} | {:.1} | {:.0} | {:.1} |",
            cell.workload,
            cell.guests,
            cell.vcpus,
            cell.pcpus,
            cell.virtual_s,
            cell.wall_s,
            cell.wall_s / cell.virtual_s
        );
    }
    out
}

/// The line above the table: what the figures were measured on.
pub(super) fn headline(results: &Results, variants: &[&str]) -> String {
    let distinct = |of: &dyn Fn(&Cell) -> &str| -> Vec<String> {
        let all: BTreeSet<&str> = results.cells.iter().map(of).collect();
        all.into_iter().map(String::from).collect()
    };
    let mut parts = vec![format!(
        "Host: {}",
        distinct(&|c| c.host.as_str()).join(" and ")
    )];
    for (name, title) in SHARED {
        let value = |c: &Cell| c.options.get(*name).cloned();
        if let Some(Some(first)) = results.cells.first().map(value)
            && results
                .cells
                .iter()
                .all(|c| value(c).as_ref() == Some(&first))
        {
            parts.push(format!("{title}: {first}"));
        }
    }
    if let Some(source) = results.versions.get("linux-source-6.12") {
        parts.push(format!("Linux {source}"));
    }
    for variant in variants {
        let kernels: BTreeSet<&str> = results
            .cells
            .iter()
            .filter(|c| c.variant == *variant)
            .map(|c| c.kernel.as_str())
            .collect();
        let kernels: Vec<&str> = kernels.into_iter().collect();
        parts.push(format!("{variant}: {}", kernels.join(" and ")));
    }
    format!("{}.", parts.join("; "))
}

/// What stands under the table.
pub(super) fn caveats(results: &Results) -> String {
    let mut out = String::new();
    if results.cells.iter().any(|c| c.host == "emulated") {
        let commit = results
            .versions
            .get(COMMIT)
            .map(|c| c.get(..12).unwrap_or(c));
        let at = commit.map_or(String::new(), |c| format!(", at commit {c},"));
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "Emulated ratios are not metal: CPUs here have no caches and no pipelines. \
             `cargo xtask bench --plan {}`{at} gives these digits on any machine; \
             `dense-bench run` measures the same on your own KVM host (docs/measuring.md).",
            results.plan
        );
    }
    out += "± is half a 95 % interval by Student's t over the seeds; differences are paired \
            by seed, and one counts when its interval excludes 0; d is Cohen's d for pairs: \
            the mean difference in its standard deviations.\n";
    out
}

fn titles(variants: &[&str]) -> Vec<String> {
    let mut row = vec![String::new()];
    row.extend(variants.iter().map(|v| v.to_string()));
    row.extend(others(variants).map(|v| format!("{v} to {BASE}")));
    row
}

/// The rows of one setting.
fn block(setting: &Setting, cells: &[&Cell], variants: &[&str]) -> Vec<Vec<String>> {
    let columns = 1 + variants.len() + others(variants).count();
    let mut title = vec![format!("**{}**, {}", setting.workload, setting.shape())];
    title.resize(columns, String::new());
    let unit = cells.first().map_or("", |c| c.unit.as_str());

    let mut value = vec![format!("{unit}, all VMs")];
    value.extend(variants.iter().map(|v| {
        let mean = mean(cells, v, value_of);
        mean.map_or(NONE.into(), |e| with_interval(e, short))
    }));
    value.extend(others(variants).map(|v| verdict(gain(cells, v))));
    let mut samples = vec!["samples by seed".to_string()];
    samples.extend(variants.iter().map(|v| {
        let all: Vec<String> = of(cells, v).values().map(|c| short(c.value)).collect();
        or_none(all.join(" "))
    }));
    samples.extend(others(variants).map(|v| {
        let pairs = pairs(cells, v, value_of);
        let all: Vec<String> = pairs
            .iter()
            .filter_map(|p| paired_percent(&[*p]))
            .map(|e| format!("{:+.1}", e.mean))
            .collect();
        or_none(all.join(" "))
    }));

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
    let unit = if metric.as_share { "points" } else { "%" };
    let mut row = vec![metric.title.to_string()];
    let in_words = |e: Option<_>| e.map_or(NONE.into(), |e| with_interval(e, show));
    row.extend(means.into_iter().map(in_words));
    row.extend(others(variants).map(|v| {
        let change = change(metric, cells, v);
        change.map_or(NONE.into(), |e| format!("{} {unit}", signed(e)))
    }));
    Some(row)
}

/// Rows as a Markdown table whose columns line up as text too; the first row
/// holds the titles.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (text, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {text:width$} ");
        }
        out += "|\n";
        if number == 0 {
            for width in &widths {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out += "|\n";
        }
    }
    out
}
