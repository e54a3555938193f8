//! The table: what was measured, with its spread, and what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::results::{Cell, Results};
use crate::stats::{Estimate, paired_percent};

/// What every other variant is compared with.
const BASE: &str = "stock";

/// Cells that differ in variant and seed only.
type Setting = (String, u32, u32, u32, String);

/// The table of a run as Markdown: figures, then what the kernel counted.
pub fn table(results: &Results) -> String {
    let mut out = String::new();
    let mut settings: BTreeMap<Setting, Vec<&Cell>> = BTreeMap::new();
    for cell in &results.cells {
        settings.entry(setting(cell)).or_default().push(cell);
    }
    let hosts: BTreeSet<&str> = results.cells.iter().map(|c| c.host.as_str()).collect();
    let hosts: Vec<&str> = hosts.into_iter().collect();
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "Host: {}. {}\n",
        hosts.join(" and "),
        shared_options(results)
    );
    out += "| workload | VMs x vCPUs on CPUs | round | variant | mean ± 95 % | samples by seed | paired difference to stock | slowest/fastest VM |\n";
    out += "|---|---|---|---|---|---|---|---|\n";
    for cells in settings.values() {
        for variant in variants(cells) {
            out += &figures(cells, &variant);
        }
    }
    out += "\n| workload | VMs x vCPUs on CPUs | round | variant | spin exits/s | CPU time in pause loops, at least | yields tried/s | hit/s: IPI, IRQ, kernel, relaxed | target on another CPU | yield to run, mean |\n";
    out += "|---|---|---|---|---|---|---|---|---|---|\n";
    for cells in settings.values() {
        for variant in variants(cells) {
            out += &counted(cells, &variant);
        }
    }
    out
}

fn setting(cell: &Cell) -> Setting {
    let round = cell.options.get("round_ns").cloned().unwrap_or_default();
    (
        cell.workload.clone(),
        cell.guests,
        cell.vcpus,
        cell.pcpus,
        round,
    )
}

/// Options that are the same in all cells, less the rounds, which have a column.
fn shared_options(results: &Results) -> String {
    let Some(first) = results.cells.first() else {
        return "No cells.".into();
    };
    let shown = [
        "cgroup_layout",
        "pinning",
        "pv",
        "hz",
        "instructions_per_ns",
    ];
    let mut parts: Vec<String> = shown
        .iter()
        .filter_map(|name| {
            let value = first.options.get(*name)?;
            let same = |cell: &Cell| cell.options.get(*name) == Some(value);
            results
                .cells
                .iter()
                .all(same)
                .then(|| format!("{}: {value}", name.replace('_', " ")))
        })
        .collect();
    if let Some(source) = results.versions.get("linux-source-6.12") {
        parts.push(format!("Linux {source}"));
    }
    format!("{}.", parts.join("; "))
}

/// The variants that are there, the base first.
fn variants(cells: &[&Cell]) -> Vec<String> {
    let mut names: Vec<String> = cells.iter().map(|c| c.variant.clone()).collect();
    names.sort_by_key(|name| (name != BASE, name.clone()));
    names.dedup();
    names
}

/// A variant's cells, by seed.
fn of<'a>(cells: &[&'a Cell], variant: &str) -> BTreeMap<u64, &'a Cell> {
    cells
        .iter()
        .filter(|cell| cell.variant == variant)
        .map(|cell| (cell.seed, *cell))
        .collect()
}

fn head(cell: &Cell) -> String {
    let round = cell.options.get("round_ns").map_or("", String::as_str);
    format!(
        "| {} | {} x {} on {} | {round} ns | {} ",
        cell.workload, cell.guests, cell.vcpus, cell.pcpus, cell.variant
    )
}

fn figures(cells: &[&Cell], variant: &str) -> String {
    let chosen = of(cells, variant);
    let Some(first) = chosen.values().next() else {
        return String::new();
    };
    let values: Vec<f64> = chosen.values().map(|c| c.value).collect();
    let samples: Vec<String> = values.iter().map(|v| short(*v)).collect();
    let mean = Estimate::of(&values).map_or(String::new(), |e| with_interval(e, short));
    let spread: Vec<f64> = chosen.values().map(|c| evenness(&c.per_guest)).collect();
    let spread = Estimate::of(&spread).map_or(String::new(), |e| format!("{:.2}", e.mean));
    format!(
        "{}| {mean} {} | {} | {} | {spread} |\n",
        head(first),
        first.unit,
        samples.join(" "),
        difference(cells, variant, &chosen),
    )
}

/// The paired difference of a variant to the base, over the seeds that both have.
fn difference(cells: &[&Cell], variant: &str, chosen: &BTreeMap<u64, &Cell>) -> String {
    if variant == BASE {
        return "-".into();
    }
    let base = of(cells, BASE);
    let pairs: Vec<(f64, f64)> = chosen
        .iter()
        .filter_map(|(seed, cell)| Some((base.get(seed)?.value, cell.value)))
        .collect();
    let Some(estimate) = paired_percent(&pairs) else {
        return "no pair".into();
    };
    let verdict = match estimate.excludes_zero() {
        Some(true) => "excludes 0",
        Some(false) => "includes 0",
        None => "one pair: no interval",
    };
    let text = with_interval(estimate, |v| format!("{v:+.1}"));
    format!("{text} % ({verdict})")
}

fn counted(cells: &[&Cell], variant: &str) -> String {
    let chosen = of(cells, variant);
    let Some(first) = chosen.values().next() else {
        return String::new();
    };
    let cells: Vec<&Cell> = chosen.values().copied().collect();
    // Unknown counters are said to be unknown, never 0.
    let mean = |of: &dyn Fn(&Cell) -> Option<f64>| -> Option<f64> {
        let values: Option<Vec<f64>> = cells.iter().map(|c| of(c)).collect();
        Estimate::of(&values?).map(|e| e.mean)
    };
    let counter = |cell: &Cell, name: &str| cell.counters.get(name).map(|n| *n as f64);
    let rate = |name: &str| {
        let rate = mean(&|c| Some(counter(c, name)? / c.window_s));
        rate.map_or("?".into(), short)
    };
    let share = mean(&|c| Some(counter(c, "spin_ns")? / (c.window_s * 1e9 * f64::from(c.pcpus))));
    let other = mean(&|c| {
        let other = counter(c, "yield_other_cpu")?;
        let all = other + counter(c, "yield_same_cpu")?;
        Some(if all > 0.0 { other / all } else { 0.0 })
    });
    let to_run = mean(&|c| {
        let count = counter(c, "yield_to_run_count")?;
        let time = counter(c, "yield_to_run_ns")?;
        Some(if count > 0.0 {
            time / count / 1000.0
        } else {
            0.0
        })
    });
    let percent = |v: Option<f64>| v.map_or("?".into(), |v| format!("{:.1} %", 100.0 * v));
    let hits = ["ipi", "irq", "kernel", "relaxed"].map(|r| rate(&format!("yield_hits_{r}")));
    format!(
        "{}| {} | {} | {} | {} | {} | {} |\n",
        head(first),
        rate("spin_exits"),
        percent(share),
        rate("yield_attempts"),
        hits.join(", "),
        percent(other),
        to_run.map_or("?".into(), |v| format!("{} us", short(v))),
    )
}

/// Slowest over fastest; 1 when all are equal.
fn evenness(values: &[f64]) -> f64 {
    let slowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = values.iter().copied().fold(0.0, f64::max);
    if fastest > 0.0 {
        slowest / fastest
    } else {
        1.0
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::cell;

    fn results() -> Results {
        let mut results = Results::new("quick", BTreeMap::new());
        for (seed, stock, ours) in [(1, 100.0, 110.0), (2, 200.0, 210.0)] {
            results.cells.push(cell("dbench", "vmfirst", seed, ours));
            results.cells.push(cell("dbench", "stock", seed, stock));
        }
        results
    }

    #[test]
    fn the_table_has_figures_intervals_and_a_verdict() {
        let table = table(&results());
        assert!(table.starts_with("Host: emulated."), "{table}");
        assert!(
            table.contains("| stock | 150.0 ± 635.3 MB/s | 100.0 200.0 | - | 1.00 |"),
            "{table}"
        );
        assert!(table.contains("+7.5 ± 31.8 % (includes 0)"), "{table}");
    }

    #[test]
    fn counters_are_rates_and_shares() {
        let table = table(&results());
        let row = "| vmfirst | 500.0 | 5.0 % | 400.0 | 0.00, 0.00, 50.00, 150.0 | 75.0 % | ? |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn one_sample_gets_no_interval() {
        let mut results = results();
        results.cells.retain(|c| c.seed == 1);
        let table = table(&results);
        assert!(table.contains("| stock | 100.0 MB/s |"), "{table}");
        assert!(table.contains("+10.0 % (one pair: no interval)"), "{table}");
    }
}
