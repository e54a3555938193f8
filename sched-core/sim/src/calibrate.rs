//! The model against the testbed: what each variant gains over stock, measured and
//! simulated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dense_report::md::Table;
use dense_report::results::{Cell, Results};
use dense_report::stats::Estimate;

use crate::policy::{Policy, Variant};
use crate::run;
use crate::scenario::Scenario;
use crate::tables::{self, Setting, setting, values};
use crate::{Error, Result};

/// How far a simulated ratio may be from the measured one.
const TOLERANCE: f64 = 0.15;
/// Ratios closer than this have no order.
const TIE: f64 = 0.03;

/// The cells of several files whose workload has a scenario in `folder`; of equal ones the
/// last.
pub fn merge(all: Vec<Results>, folder: &Path) -> Result<Results> {
    let mut all = all.into_iter();
    let none = || Error::Invalid("nothing that was measured".into());
    let mut merged = all.next().ok_or_else(none)?;
    let rest: Vec<Cell> = all.flat_map(|results| results.cells).collect();
    let first = std::mem::take(&mut merged.cells);
    for cell in first.into_iter().chain(rest) {
        if !scenario(folder, &cell.chosen.workload).exists() {
            continue;
        }
        let which = |c: &Cell| (setting(c), c.chosen.variant.clone(), c.chosen.seed);
        let key = which(&cell);
        merged.cells.retain(|other| which(other) != key);
        merged.cells.push(cell);
    }
    Ok(merged)
}

fn scenario(folder: &Path, workload: &str) -> PathBuf {
    folder.join(format!("{workload}.toml"))
}

/// Runs every measured setting whose workload has a scenario in `folder`, with the measured
/// variants. `done` is told after each setting.
pub fn simulate(measured: &Results, folder: &Path, seeds: u64, done: impl Fn()) -> Result<Results> {
    let mut all: Option<Results> = None;
    for ((workload, layout, guests, vcpus, cpus), variants) in values(measured) {
        let path = scenario(folder, &workload);
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
            what: "read",
            path: path.clone(),
            source,
        })?;
        let text = text
            .replace("@LAYOUT@", if layout.is_empty() { "flat" } else { &layout })
            .replace("@GUESTS@", &guests.to_string())
            .replace("@VCPUS@", &vcpus.to_string())
            .replace("@CPUS@", &cpus.to_string());
        let scenario = Scenario::parse(&text, &path.display().to_string())?;
        let variants = measured_variants(measured, &variants);
        let results = run::run_variants(&scenario, &variants, seeds, || ());
        match &mut all {
            Some(all) => all.cells.extend(results.cells),
            None => all = Some(results),
        }
        done();
    }
    let mut all = all.ok_or_else(|| {
        Error::Invalid(format!(
            "nothing that was measured has a scenario in {}: workload.toml",
            folder.display()
        ))
    })?;
    all.plan = "calibrate".into();
    Ok(all)
}

/// Those of the measured variants whose switches the simulator knows, by what was written to
/// the host's files.
fn measured_variants(
    measured: &Results,
    of: &BTreeMap<&str, BTreeMap<u64, f64>>,
) -> Vec<(Variant, Policy)> {
    let known = |name: &&str| {
        let cell = measured.cells.iter().find(|c| c.chosen.variant == **name)?;
        let variant = Variant::of_cell(&cell.chosen);
        let policy = variant.policy().ok()?;
        Some((variant, policy))
    };
    of.keys().filter_map(known).collect()
}

/// A gain as a ratio, with its 95 % interval and of how many seeds it is.
fn in_words(gain: Estimate, seeds: usize) -> String {
    let ends = gain.interval.map_or(String::new(), |(low, high)| {
        format!(" ({:.2} to {:.2})", ratio(low), ratio(high))
    });
    format!("x{:.2}{ends}, {seeds}", ratio(gain.mean))
}

fn ratio(percent: f64) -> f64 {
    1.0 + percent / 100.0
}

/// A row for each setting and variant that both have.
pub fn table(measured: &Results, simulated: &Results) -> String {
    let (real, model) = (values(measured), values(simulated));
    let mut table = Table::new([
        "VMs x vCPUs on CPUs",
        "variant",
        "measured (95 % interval), seeds",
        "simulated",
        "off by",
    ]);
    let (mut rows, mut close, mut pairs, mut ordered) = (0, 0, 0, 0);
    let (mut known, mut inside) = (0, 0);
    for (setting, variants) in &real {
        let Some(of) = model.get(setting) else {
            continue;
        };
        let mut ratios = vec![(1.0, 1.0)];
        for (variant, seeds) in variants.iter().filter(|(v, _)| **v != "stock") {
            let gains = (
                tables::measured(variants, variant),
                tables::simulated(of, variant),
            );
            let (Some(gain), Some(simulated)) = gains else {
                continue;
            };
            let spread = in_words(gain, seeds.len());
            let (real, model) = (ratio(gain.mean), ratio(simulated.mean));
            let off = model / real - 1.0;
            if let Some((low, high)) = gain.interval {
                known += 1;
                inside += u32::from((ratio(low)..=ratio(high)).contains(&model));
            }
            let miss = if off.abs() > TOLERANCE {
                " **miss**"
            } else {
                ""
            };
            (rows, close) = (rows + 1, close + u32::from(miss.is_empty()));
            let (name, off) = (title(setting), 100.0 * off);
            table.row([
                name,
                variant.to_string(),
                spread,
                format!("x{model:.2}"),
                format!("{off:+.0} %{miss}"),
            ]);
            ratios.push((real, model));
        }
        let (all, right) = order(&ratios);
        (pairs, ordered) = (pairs + all, ordered + right);
    }
    format!(
        "{table}\nWithin 15 %: {close} of {rows}. Inside the measured interval: {inside} of {known}. Pairs of variants of one cell that differ by \
         more than 3 % in the measurement: {pairs}; the model has {ordered} of them in the same \
         order.\n"
    )
}

/// What stock's vCPUs do, measured and simulated: what the scenarios' times are set by at
/// 2:1, and a check of the model elsewhere.
pub fn stock_table(measured: &Results, simulated: &Results) -> String {
    let mut table = Table::new([
        "stock",
        "",
        "spin exits/s",
        "yields tried/s",
        "got a CPU/s",
        "halts/s",
        "time on a CPU",
        "time asleep",
    ]);
    for setting in values(measured).keys() {
        let name = title(setting);
        for (results, whose) in [(measured, "testbed"), (simulated, "model")] {
            let of = |c: &&Cell| c.chosen.variant == "stock" && tables::setting(c) == *setting;
            let cells: Vec<&Cell> = results.cells.iter().filter(of).collect();
            if !cells.is_empty() {
                table.row([&[name.clone(), whose.into()][..], &figures(&cells)].concat());
            }
        }
    }
    table.to_string()
}

fn figures(cells: &[&Cell]) -> [String; 6] {
    let mean = |of: &dyn Fn(&Cell) -> f64| {
        cells.iter().map(|c| of(c)).sum::<f64>() / cells.len().max(1) as f64
    };
    let rate =
        |name: &str| mean(&|c| c.counters.get(name).copied().unwrap_or(0) as f64 / c.window_s);
    let vcpus = mean(&|c| f64::from(c.chosen.guests * c.chosen.vcpus));
    let [run, delay] = ["vcpu_run_ns", "vcpu_delay_ns"].map(|name| rate(name) / 1e9);
    let counts = ["spin_exits", "yield_attempts", "vcpu_runs", "halt_exits"];
    let [exits, tried, got, halts] = counts.map(|name| format!("{:.0}", rate(name)));
    let [run, asleep] = [run, vcpus - run - delay].map(|s| format!("{:.0} %", 100.0 * s / vcpus));
    [exits, tried, got, halts, run, asleep]
}

fn title((workload, layout, guests, vcpus, cpus): &Setting) -> String {
    format!("{workload}, {layout}: {guests} x {vcpus} on {cpus}")
}

/// Pairs that differ in the measurement, and how many of them have the same order here.
fn order(ratios: &[(f64, f64)]) -> (u32, u32) {
    let (mut all, mut right) = (0, 0);
    for (n, a) in ratios.iter().enumerate() {
        for b in &ratios[..n] {
            if (a.0 / b.0 - 1.0).abs() > TIE {
                all += 1;
                right += u32::from((a.0 > b.0) == (a.1 > b.1));
            }
        }
    }
    (all, right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_cells_the_last_counts_and_only_what_can_be_simulated() {
        let run = |workload: &str, value| {
            let text = format!(
                "name = \"t\"\nwindow_ms = 1\nvariants = [\"stock\"]\n[host]\ncpus = 1\n\
                 [[vm]]\nvcpus = 1\nworkload = \"{workload}\"\n\
                 steps = [{{ do = \"compute\", ns = 1000 }}]\n"
            );
            let mut results = run::run(&Scenario::parse(&text, "t").unwrap(), 1, || ());
            results.cells[0].value = value;
            results
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(scenario(folder.path(), "w"), "").unwrap();
        let all = vec![run("w", 1.0), run("unknown", 2.0), run("w", 3.0)];
        let merged = merge(all, folder.path()).unwrap();
        let values: Vec<f64> = merged.cells.iter().map(|c| c.value).collect();
        assert_eq!(values, [3.0]);
        assert!(merge(Vec::new(), folder.path()).is_err());
    }

    #[test]
    fn what_is_neither_on_a_cpu_nor_waiting_is_asleep() {
        let text = "name = \"t\"\nwindow_ms = 100\nwarmup_ms = 20\nvariants = [\"stock\"]\n\
            [host]\ncpus = 2\nhalt_poll_ns = 0\n[[vm]]\nvcpus = 2\nworkload = \"w\"\nsteps = [\
            { do = \"compute\", ns = 3_000_000 }, { do = \"sleep\", ns = 1_000_000 }]\n";
        let results = run::run(&Scenario::parse(text, "t").unwrap(), 1, || ());
        let table = stock_table(&results, &results);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows.len(), 2, "{table}");
        let shares = rows[0].split(" | ").skip(6);
        let shares = shares.map(|s| s.trim_end_matches(['|', ' ', '%']).parse::<f64>().unwrap());
        let [on, asleep] = shares.collect::<Vec<_>>()[..] else {
            panic!("{table}");
        };
        assert!(
            (70.0..80.0).contains(&on) && (20.0..30.0).contains(&asleep),
            "{table}"
        );
    }

    #[test]
    fn a_ratio_has_its_interval_if_there_are_seeds_enough() {
        let gain = |interval| Estimate {
            mean: 50.0,
            interval,
            p: None,
        };
        assert_eq!(in_words(gain(None), 1), "x1.50, 1");
        assert_eq!(
            in_words(gain(Some((-10.0, 150.0))), 2),
            "x1.50 (0.90 to 2.50), 2"
        );
    }

    #[test]
    fn ties_have_no_order_and_wrong_ones_are_counted() {
        let ratios = [(1.0, 1.0), (1.01, 0.9), (1.2, 1.3), (1.5, 1.25)];
        // (1.0, 1.01) is a tie; 1.2 against 1.5 is in the wrong order.
        assert_eq!(order(&ratios), (5, 4));
    }
}
