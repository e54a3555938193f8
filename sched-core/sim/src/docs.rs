//! Keeps the tables of docs/simulator.md and docs/sched-core.md equal to what was committed.

use std::fmt::Write;
use std::path::Path;

use dense_bench::results::Results;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::scale::{self, Scale};
use crate::{Error, Result, calibrate, tables};

/// Where the results are.
const RESULTS: &str = "benches/results";
/// What was measured, and what the model made of it.
const CALIBRATED: [&str; 2] = ["calibrated.json", "sim-calibrate.json"];
/// What an event costs.
const SCALE: &str = "sim-scale.json";
/// Tables of variants: each from `sim-NAME.json`.
const FINDINGS: [&str; 7] = [
    "size",
    "overcommit",
    "beside",
    "layout",
    "pinned",
    "windows",
    "cores",
];
/// What sched-core's functions cost, from its benchmarks.
const COST: &str = "sched-core.json";

/// Writes the pages with their tables anew; with `check` only compares.
pub fn write(root: &Path, check: bool) -> Result<()> {
    let folder = root.join(RESULTS);
    page(root, "docs/simulator.md", check, |text| {
        simulator(&folder, text)
    })?;
    page(root, "docs/sched-core.md", check, |text| {
        let cost: Cost = json(&folder.join(COST))?;
        tables::replace(text, "cost", &cost.table())
    })
}

fn page(
    root: &Path,
    name: &str,
    check: bool,
    render: impl Fn(&str) -> Result<String>,
) -> Result<()> {
    let page = root.join(name);
    let before = read(&page)?;
    let after = render(&before)?;
    if before == after {
        return Ok(());
    }
    if check {
        let what = format!("{name} differs from its results: run `sched-sim docs`");
        return Err(Error::Invalid(what));
    }
    std::fs::write(&page, after).map_err(|source| Error::Io {
        what: "write",
        path: page.clone(),
        source,
    })
}

fn simulator(folder: &Path, page: &str) -> Result<String> {
    let load =
        |name: &str| Results::load(&folder.join(name)).map_err(|e| Error::Invalid(e.to_string()));
    let [measured, simulated] = CALIBRATED;
    let (measured, simulated) = (load(measured)?, load(simulated)?);
    let table = calibrate::table(&measured, &simulated);
    let page = tables::replace(page, "calibration", &table)?;
    let table = calibrate::stock_table(&measured, &simulated);
    let mut page = tables::replace(&page, "stock", &table)?;
    for name in FINDINGS {
        let results = load(&format!("sim-{name}.json"))?;
        page = tables::replace(&page, name, &tables::compare(&results))?;
    }
    let scale: Scale = json(&folder.join(SCALE))?;
    let page = tables::replace(&page, "scale", &scale::table(&scale.points))?;
    tables::replace(&page, "minutes", &scale::minutes_table(&scale.minutes))
}

/// What `cargo bench -p sched-core --bench instructions` leaves.
#[derive(Debug, Deserialize)]
struct Cost {
    cpu: Option<String>,
    work: Vec<Work>,
}

#[derive(Debug, Deserialize)]
struct Work {
    name: String,
    /// Of each seed, the least first.
    instructions: Vec<f64>,
    /// Median between the ends of its 95 % interval.
    ns: Option<[f64; 3]>,
}

impl Cost {
    fn table(&self) -> String {
        let mut out = String::from("| what | instructions | ns |\n|---|---|---|\n");
        for work in &self.work {
            let each = &work.instructions;
            let [least, median, most] =
                [0, each.len() / 2, each.len().saturating_sub(1)].map(|at| each.get(at).copied());
            let (least, median, most) = (
                least.unwrap_or(0.0),
                median.unwrap_or(0.0),
                most.unwrap_or(0.0),
            );
            let spread = match (most - least).round() > 0.0 {
                true => format!("{median:.0} ({least:.0} to {most:.0})"),
                false => format!("{median:.0}"),
            };
            let ns = work.ns.map_or("-".into(), |[low, median, high]| {
                format!("{median:.1} ({low:.1} to {high:.1})")
            });
            // Writing to a String does not fail.
            let _ = writeln!(out, "| {} | {spread} | {ns} |", work.name);
        }
        let cpu = self.cpu.as_deref().unwrap_or("unknown");
        let _ = writeln!(out, "\nTimes on: {cpu}.");
        out
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let wrong = |e| Error::Invalid(format!("{}: {e}", path.display()));
    serde_json::from_str(&read(path)?).map_err(wrong)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io {
        what: "read",
        path: path.into(),
        source,
    })
}
