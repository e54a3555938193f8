//! The table: what was measured, with its spread, what differs, and what the
//! kernel counted meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::results::{Cell, Results, unusual};
use crate::stats::{Estimate, paired_difference, paired_percent};

mod contention;

pub use contention::contention;

/// What every other variant is compared with.
const BASE: &str = "stock";
/// Stands for what is not there.
const NONE: &str = "-";

/// Options that the line above the table names when all cells agree on them.
const SHARED: &[(&str, &str)] = &[
    ("cgroup_layout", "cgroup layout"),
    ("pinning", "pinning"),
    ("pv", "PV"),
    ("hz", "HZ"),
    ("instructions_per_ns", "instructions/ns a CPU"),
];

/// Cells that differ in variant and seed only.
type Setting = (String, u32, u32, u32, u64, Vec<String>);

/// The table of a run as Markdown that can be read as it is: a block of rows for
/// each workload, a column for each variant, a column for each comparison.
pub fn table(results: &Results) -> String {
    let variants = variants(&results.cells);
    let mut settings: BTreeMap<Setting, Vec<&Cell>> = BTreeMap::new();
    for cell in &results.cells {
        settings.entry(setting(cell)).or_default().push(cell);
    }
    let mut rows = vec![titles(&variants)];
    for (setting, cells) in &settings {
        rows.extend(block(setting, cells, &variants));
    }
    format!(
        "{}\n\n{}\n{}",
        headline(results, &variants),
        aligned(&rows),
        caveats(results)
    )
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

fn setting(cell: &Cell) -> Setting {
    let round = cell.options.get("round_ns").and_then(|r| r.parse().ok());
    (
        cell.workload.clone(),
        cell.guests,
        cell.vcpus,
        cell.pcpus,
        round.unwrap_or(0),
        unusual(&cell.options).collect(),
    )
}

/// The variants that are there, the base first.
fn variants(cells: &[Cell]) -> Vec<&str> {
    let names: BTreeSet<&str> = cells.iter().map(|c| c.variant.as_str()).collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| *name != BASE);
    names
}

/// Those that are compared with the base.
fn others<'a>(variants: &[&'a str]) -> impl Iterator<Item = &'a str> {
    variants.iter().copied().filter(|v| *v != BASE)
}

/// The line above the table: what the figures were measured on.
fn headline(results: &Results, variants: &[&str]) -> String {
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
fn caveats(results: &Results) -> String {
    let mut out = String::new();
    if results.cells.iter().any(|c| c.host == "emulated") {
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "Emulated ratios are not metal: CPUs here have no caches and no pipelines. \
             `cargo xtask bench --plan {}` gives these digits on any machine; \
             `dense-bench cell` measures the same on your own KVM host (docs/measuring.md).",
            results.plan
        );
    }
    out += "± is half a 95 % interval by Student's t over the seeds; differences are paired \
            by seed, and one counts when its interval excludes 0.\n";
    out
}

fn titles(variants: &[&str]) -> Vec<String> {
    let mut row = vec![String::new()];
    row.extend(variants.iter().map(|v| v.to_string()));
    row.extend(others(variants).map(|v| format!("{v} to {BASE}")));
    row
}

/// A figure of a cell, and how to show and compare it.
struct Metric {
    title: &'static str,
    of: fn(&Cell) -> Option<f64>,
    as_share: bool,
}

/// The rows below a block's throughput. An unknown counter is unknown, never 0.
const METRICS: &[Metric] = &[
    Metric {
        title: "slowest/fastest VM",
        of: |c| evenness(&c.per_guest),
        as_share: true,
    },
    Metric {
        title: "spin exits/s",
        of: |c| rate(c, "spin_exits"),
        as_share: false,
    },
    Metric {
        title: "CPU time in pause loops, at least",
        of: |c| Some(rate(c, "spin_ns")? / 1e9 / f64::from(c.pcpus)),
        as_share: true,
    },
    Metric {
        title: "yields tried/s",
        of: |c| rate(c, "yield_attempts"),
        as_share: false,
    },
    Metric {
        title: "hit/s for a pending IPI",
        of: |c| rate(c, "yield_hits_ipi"),
        as_share: false,
    },
    Metric {
        title: "hit/s for another interrupt",
        of: |c| rate(c, "yield_hits_irq"),
        as_share: false,
    },
    Metric {
        title: "hit/s preempted in the kernel",
        of: |c| rate(c, "yield_hits_kernel"),
        as_share: false,
    },
    Metric {
        title: "hit/s any other preempted",
        of: |c| rate(c, "yield_hits_relaxed"),
        as_share: false,
    },
    Metric {
        title: "hits whose target was on another CPU",
        of: |c| {
            let other = rate(c, "yield_other_cpu")?;
            share(other, other + rate(c, "yield_same_cpu")?)
        },
        as_share: true,
    },
    Metric {
        title: "yield to run, mean us",
        of: |c| {
            share(
                rate(c, "yield_to_run_ns")? / 1e3,
                rate(c, "yield_to_run_count")?,
            )
        },
        as_share: false,
    },
    Metric {
        title: "host's context switches/s",
        of: |c| rate(c, "host_context_switches"),
        as_share: false,
    },
    Metric {
        title: "vCPU migrations/s",
        of: |c| rate(c, "vcpu_migrations"),
        as_share: false,
    },
];

fn rate(cell: &Cell, counter: &str) -> Option<f64> {
    Some(*cell.counters.get(counter)? as f64 / cell.window_s)
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Slowest over fastest; 1 when all are equal.
fn evenness(values: &[f64]) -> Option<f64> {
    let slowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = values.iter().copied().fold(0.0, f64::max);
    share(slowest, fastest)
}

/// The rows of one setting.
fn block(setting: &Setting, cells: &[&Cell], variants: &[&str]) -> Vec<Vec<String>> {
    let (workload, guests, vcpus, pcpus, round, unusual) = setting;
    let columns = 1 + variants.len() + others(variants).count();
    let unusual: String = unusual.iter().map(|o| format!(", {o}")).collect();
    let mut title = vec![format!(
        "**{workload}**, {guests} VMs x {vcpus} vCPUs on {pcpus} CPUs, rounds of {round} ns{unusual}"
    )];
    title.resize(columns, String::new());
    let unit = cells.first().map_or("", |c| c.unit.as_str());

    let mut value = vec![format!("{unit}, all VMs")];
    value.extend(variants.iter().map(|v| mean(cells, v, value_of, short)));
    value.extend(others(variants).map(|v| verdict(cells, v)));
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
    rows.extend(METRICS.iter().map(|m| metric_row(m, cells, variants)));
    rows
}

fn metric_row(metric: &Metric, cells: &[&Cell], variants: &[&str]) -> Vec<String> {
    let show = if metric.as_share { percent } else { short };
    let mut row = vec![metric.title.to_string()];
    row.extend(variants.iter().map(|v| mean(cells, v, metric.of, show)));
    row.extend(others(variants).map(|v| {
        let pairs = pairs(cells, v, metric.of);
        let (estimate, unit) = if metric.as_share {
            let points = pairs.iter().map(|(a, b)| (100.0 * a, 100.0 * b));
            (paired_difference(&points.collect::<Vec<_>>()), "points")
        } else {
            (paired_percent(&pairs), "%")
        };
        estimate.map_or(NONE.into(), |e| format!("{} {unit}", signed(e)))
    }));
    row
}

fn value_of(cell: &Cell) -> Option<f64> {
    Some(cell.value)
}

/// A variant's cells, by seed.
fn of<'a>(cells: &[&'a Cell], variant: &str) -> BTreeMap<u64, &'a Cell> {
    cells
        .iter()
        .filter(|cell| cell.variant == variant)
        .map(|cell| (cell.seed, *cell))
        .collect()
}

/// A figure's mean over a variant's seeds, if all cells have it.
fn mean(
    cells: &[&Cell],
    variant: &str,
    figure: fn(&Cell) -> Option<f64>,
    show: fn(f64) -> String,
) -> String {
    let values: Option<Vec<f64>> = of(cells, variant).values().map(|c| figure(c)).collect();
    let estimate = values.and_then(|values| Estimate::of(&values));
    estimate.map_or(NONE.into(), |e| with_interval(e, show))
}

/// A figure of the base and of a variant, for the seeds that both have.
fn pairs(cells: &[&Cell], variant: &str, figure: fn(&Cell) -> Option<f64>) -> Vec<(f64, f64)> {
    let base = of(cells, BASE);
    of(cells, variant)
        .iter()
        .filter_map(|(seed, cell)| Some((figure(base.get(seed)?)?, figure(cell)?)))
        .collect()
}

/// The throughput's difference, and whether it counts.
fn verdict(cells: &[&Cell], variant: &str) -> String {
    let Some(estimate) = paired_percent(&pairs(cells, variant, value_of)) else {
        return NONE.into();
    };
    let verdict = match estimate.excludes_zero() {
        Some(true) => "excludes 0",
        Some(false) => "includes 0",
        None => "one pair: no interval",
    };
    format!("{} % ({verdict})", signed(estimate))
}

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.into() } else { text }
}

fn signed(estimate: Estimate) -> String {
    with_interval(estimate, |v| format!("{v:+.1}"))
}

fn with_interval(estimate: Estimate, show: impl Fn(f64) -> String) -> String {
    match estimate.half_width {
        Some(half) => {
            let half = show(half);
            format!("{} ± {}", show(estimate.mean), half.trim_start_matches('+'))
        }
        None => show(estimate.mean),
    }
}

fn percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

/// Three or four digits that count.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        format!("{value:.0}")
    } else if magnitude >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
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

#[cfg(test)]
mod tests;
