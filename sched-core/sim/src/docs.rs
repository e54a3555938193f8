//! Keeps the tables of docs/simulator.md equal to what was committed.

use std::path::Path;

use dense_bench::results::Results;

use crate::scale::{self, Point};
use crate::{Error, Result, calibrate, tables};

/// The page.
const PAGE: &str = "docs/simulator.md";
/// Where the results are.
const RESULTS: &str = "benches/results";
/// What was measured and what the model made of it.
const MEASURED: &str = "first-figures.json";
const SIMULATED: &str = "sim-calibrate.json";
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

/// Writes the page with its tables anew; with `check` only compares.
pub fn write(root: &Path, check: bool) -> Result<()> {
    let page = root.join(PAGE);
    let before = read(&page)?;
    let after = render(root, &before)?;
    if before == after {
        return Ok(());
    }
    if check {
        let what = format!("{PAGE} differs from its results: run `sched-sim docs`");
        return Err(Error::Invalid(what));
    }
    std::fs::write(&page, after).map_err(|source| Error::Io {
        what: "write",
        path: page.clone(),
        source,
    })
}

fn render(root: &Path, page: &str) -> Result<String> {
    let folder = root.join(RESULTS);
    let load =
        |name: &str| Results::load(&folder.join(name)).map_err(|e| Error::Invalid(e.to_string()));
    let table = calibrate::table(&load(MEASURED)?, &load(SIMULATED)?);
    let mut page = tables::replace(page, "calibration", &table)?;
    for name in FINDINGS {
        let results = load(&format!("sim-{name}.json"))?;
        page = tables::replace(&page, name, &tables::compare(&results))?;
    }
    let points = read(&folder.join(SCALE))?;
    let points: Vec<Point> =
        serde_json::from_str(&points).map_err(|e| Error::Invalid(format!("{SCALE}: {e}")))?;
    tables::replace(&page, "scale", &scale::table(&points))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io {
        what: "read",
        path: path.into(),
        source,
    })
}
