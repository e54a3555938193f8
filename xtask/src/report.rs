//! `cargo xtask report`: puts the tables of the published results where people read them.

use std::fs;
use std::path::{Path, PathBuf};

use dense_bench::report::{self, ablation, contention, cost, matrix, summary, table, truth};
use dense_bench::results::Results;
use dense_bench::vmm_cost;

use crate::Error;
use crate::parts::repo;

/// A page with a table of published results.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The page, from the repository's root.
    pub page: &'static str,
    /// The plan, whose results are in `benches/results/<plan>.json`.
    pub plan: &'static str,
    render: fn(&Path) -> Result<String, Error>,
}

/// A line for each setting.
const fn short(page: &'static str, plan: &'static str) -> Page {
    let render = |path: &Path| Ok(summary(&load(path)?));
    Page { page, plan, render }
}

/// All that was counted.
const fn long(page: &'static str, plan: &'static str) -> Page {
    let render = |path: &Path| Ok(table(&load(path)?));
    Page { page, plan, render }
}

/// A table for each setting, the variant that does most work first.
const fn by_gain(page: &'static str, plan: &'static str) -> Page {
    let render = |path: &Path| Ok(ablation(&load(path)?));
    Page { page, plan, render }
}

/// A table for each workload: a row for each variant, a column for each setting.
const fn rows(page: &'static str, plan: &'static str) -> Page {
    let render = |path: &Path| Ok(matrix(&load(path)?));
    Page { page, plan, render }
}

/// All of them.
pub const PAGES: &[Page] = &[
    short("README.md", "quick"),
    short("README.md", "controls"),
    short("README.md", "fairness"),
    short("README.md", "article"),
    long("docs/tables.md", "quick"),
    long("docs/tables.md", "controls"),
    long("docs/tables.md", "fairness"),
    long("docs/tables.md", "article"),
    by_gain("docs/directed-yield.md", "calibrated"),
    rows("docs/directed-yield.md", "ablation"),
    by_gain("docs/tables.md", "ablation"),
    rows("docs/directed-yield.md", "windows"),
    by_gain("docs/tables.md", "windows"),
    long("docs/measuring.md", "rounds"),
    Page {
        page: "docs/measuring.md",
        plan: "cost",
        render: |path| Ok(cost(&load(path)?)),
    },
    Page {
        page: "docs/vmm-cost.md",
        plan: "vmm-cost",
        render: costs,
    },
    Page {
        page: "docs/vmm-cost.md",
        plan: "vmm-cost-here",
        render: costs,
    },
    Page {
        page: "docs/directed-yield.md",
        plan: "ipi",
        render: |path| Ok(ipi(&load(path)?)),
    },
    Page {
        page: "docs/workloads.md",
        plan: "contention",
        render: |path| Ok(contention(&load(path)?)),
    },
    Page {
        page: "docs/workloads.md",
        plan: "truth",
        render: |path| Ok(truth(&load(path)?)),
    },
];

/// Work and who is hit, each where it was measured.
fn ipi(results: &Results) -> String {
    let (hits, work): (Vec<_>, Vec<_>) = results
        .cells
        .iter()
        .cloned()
        .partition(|cell| cell.workload.starts_with("truth-"));
    let part = |cells| Results {
        cells,
        ..results.clone()
    };
    format!("{}\n{}", ablation(&part(work)), truth(&part(hits)))
}

/// Publishes `results`, if given, and writes all tables into their pages.
pub fn run(results: Option<&Path>) -> Result<(), Error> {
    if let Some(path) = results {
        publish(path)?;
    }
    for page in PAGES {
        let path = repo().join(page.page);
        let text = fs::read_to_string(&path).map_err(testbed::Error::io("read", &path))?;
        let text = page.with_table(&text)?;
        fs::write(&path, text).map_err(testbed::Error::io("write", &path))?;
    }
    Ok(())
}

/// Copies a results file to where its plan's published results are.
fn publish(path: &Path) -> Result<(), Error> {
    let results = load(path)?;
    let Some(page) = PAGES.iter().find(|page| page.plan == results.plan) else {
        return Err(Error::Usage(format!(
            "{}: nothing is published of plan {}",
            path.display(),
            results.plan
        )));
    };
    let target = page.results();
    let folder = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(testbed::Error::io("create", folder))?;
    results
        .save(&target)
        .map_err(|e| Error::Usage(e.to_string()))
}

fn load(path: &Path) -> Result<Results, Error> {
    Results::load(path).map_err(usage)
}

fn costs(path: &Path) -> Result<String, Error> {
    let results = vmm_cost::Results::load(path).map_err(usage)?;
    Ok(report::vmm_cost(&results))
}

fn usage(error: dense_bench::Error) -> Error {
    Error::Usage(error.to_string())
}

impl Page {
    fn results(&self) -> PathBuf {
        repo().join(format!("benches/results/{}.json", self.plan))
    }

    /// The page's text with this table as the published results have it.
    pub fn with_table(&self, text: &str) -> Result<String, Error> {
        let begin = format!(
            "<!-- {} table: made by `cargo xtask report`, don't edit -->\n",
            self.plan
        );
        let end = format!("<!-- end of {} table -->\n", self.plan);
        let missing = || Error::Usage(format!("{} has no lines {begin}and {end}", self.page));
        let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
        let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
        let table = (self.render)(&self.results())?;
        Ok(format!("{before}{begin}{table}{end}{after}"))
    }
}
