//! The tables of docs/simulator.md and docs/sched-core.md.

use std::path::Path;

use dense_report::md::Table;
use dense_report::results::Results;
use serde::Deserialize;

use crate::scale::{self, Scale};
use crate::{Error, Result, calibrate, tables};

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

/// The page of the model and its findings.
pub const PAGE: &str = "docs/simulator.md";
/// The page of what sched-core's functions cost.
pub const COST_PAGE: &str = "docs/sched-core.md";

/// A table: its page, its name there, and what it says by the results in a folder.
pub type Rendered = (&'static str, &'static str, String);

/// All tables of the two pages, from the results in `folder`.
pub fn tables(folder: &Path) -> Result<Vec<Rendered>> {
    let load =
        |name: &str| Results::load(&folder.join(name)).map_err(|e| Error::Invalid(e.to_string()));
    let [measured, simulated] = CALIBRATED;
    let (measured, simulated) = (load(measured)?, load(simulated)?);
    let scale: Scale = read_json(&folder.join(SCALE))?;
    let cost: Cost = read_json(&folder.join(COST))?;
    let mut all = vec![
        (PAGE, "calibration", calibrate::table(&measured, &simulated)),
        (PAGE, "stock", calibrate::stock_table(&measured, &simulated)),
        (PAGE, "scale", scale::table(&scale.points)),
        (PAGE, "minutes", scale::minutes_table(&scale.minutes)),
        (COST_PAGE, "cost", cost.table()),
    ];
    for name in FINDINGS {
        let results = load(&format!("sim-{name}.json"))?;
        all.push((PAGE, name, tables::compare(&results)));
    }
    Ok(all)
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
        let mut table = Table::new(["what", "instructions", "ns"]);
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
            table.row([work.name.clone(), spread, ns]);
        }
        let cpu = self.cpu.as_deref().unwrap_or("unknown");
        format!("{table}\nTimes on: {cpu}.\n")
    }
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    dense_record::json::read_json(path).map_err(|e| Error::Invalid(e.to_string()))
}
