//! `cargo xtask report`: puts the tables of the published results where people read them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dense_record::cost;
use dense_record::json::read_json;
use dense_report::results::Results;
use dense_report::{ablation, contention, matrix, summary, table, truth, vmm_cost};
use sched_sim::docs;
use testbed::kernel::{Kernel, Variant};
use testbed::workshop::repo;

use crate::Error;

/// Where published results are, each in a file of its plan's name.
const RESULTS: &str = "benches/results";

/// A plan whose results a test runs again, cell by cell; they stand in no page.
const REPLAYED: &str = "replay";

/// A table of a plan's published results in a page.
#[derive(Debug, Clone, Copy)]
struct Page {
    /// The page, from the repository's root.
    page: &'static str,
    /// The plan; the table's name, too.
    plan: &'static str,
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

/// All of them but the simulator's.
const PAGES: &[Page] = &[
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
        render: |path| Ok(dense_report::cost(&load(path)?)),
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
        .partition(|cell| cell.chosen.workload.starts_with("truth-"));
    let part = |cells| Results {
        cells,
        ..results.clone()
    };
    format!("{}\n{}", ablation(&part(work)), truth(&part(hits)))
}

/// A table that stands in a page between two lines with its name.
#[derive(Debug, Clone)]
pub struct Table {
    /// The page, from the repository's root.
    pub page: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What the published results say.
    pub text: String,
}

/// All tables, as the published results have them.
pub fn tables() -> Result<Vec<Table>, Error> {
    let folder = repo().join(RESULTS);
    let measured = PAGES.iter().map(|page| {
        let path = page.results();
        let older = series_of(&path)?;
        Ok(Table {
            page: page.page,
            name: page.plan,
            text: older + &(page.render)(&path)?,
        })
    });
    let mut all: Vec<Table> = measured.collect::<Result<_, Error>>()?;
    let simulated = docs::tables(&folder).map_err(|e| Error::Usage(e.to_string()))?;
    let simulated = simulated.into_iter();
    all.extend(simulated.map(|(page, name, text)| Table { page, name, text }));
    Ok(all)
}

impl Table {
    /// The page's text with this table.
    pub fn put_into(&self, text: &str) -> Result<String, Error> {
        let name = self.name;
        let begin = format!("<!-- {name} table: made by `cargo xtask report`, don't edit -->\n");
        let end = format!("<!-- end of {name} table -->\n");
        let missing = || Error::Usage(format!("{} has no lines {begin}and {end}", self.page));
        let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
        let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
        Ok(format!("{before}{begin}{}{end}{after}", self.text))
    }
}

/// What stands above results of another kernel series than this tree's: nothing above those
/// of this one.
fn series_of(path: &Path) -> Result<String, Error> {
    #[derive(serde::Deserialize)]
    struct Measured {
        versions: BTreeMap<String, String>,
    }
    let measured: Measured = read_json(path).map_err(usage)?;
    let older = older_kernels(&measured.versions, &repo())?;
    Ok(match older.is_empty() {
        true => String::new(),
        false => format!("**Of an older series**: {}.\n\n", older.join(", ")),
    })
}

/// The kernels among these versions that this tree's patches don't make, with the compiler
/// and the source that are among them, too.
pub fn older_kernels(
    versions: &BTreeMap<String, String>,
    repo: &Path,
) -> Result<Vec<String>, Error> {
    let version = |name: &str| versions.get(name).map_or("", String::as_str);
    let (source, compiler) = (version("linux-source-6.12"), version("gcc"));
    let mut older = Vec::new();
    for (name, there) in versions {
        // As kernel_stock; what VMMs cost is of kernel-stock, with the key alone.
        let Some(kernel) = name.strip_prefix("kernel").and_then(|k| k.get(1..)) else {
            continue;
        };
        let variants = [Variant::Stock, Variant::Patched, Variant::Compare];
        let Some(variant) = variants.into_iter().find(|v| v.name() == kernel) else {
            continue;
        };
        let now = Kernel::name(variant, repo, source, compiler)?;
        if !now.ends_with(there.rsplit('-').next().unwrap_or(there)) {
            older.push(format!(
                "{kernel} {}",
                there.rsplit('-').next().unwrap_or(there)
            ));
        }
    }
    Ok(older)
}

/// Publishes `results`, if given, and writes all tables into their pages.
pub fn run(results: Option<&Path>) -> Result<(), Error> {
    if let Some(path) = results {
        publish(path)?;
    }
    for table in tables()? {
        let path = repo().join(table.page);
        let text = fs::read_to_string(&path).map_err(testbed::Error::io("read", &path))?;
        let text = table.put_into(&text)?;
        fs::write(&path, text).map_err(testbed::Error::io("write", &path))?;
    }
    Ok(())
}

/// Copies a results file to where its plan's published results are.
fn publish(path: &Path) -> Result<(), Error> {
    let results = load(path)?;
    if results.plan == REPLAYED {
        let target = repo().join(format!("{RESULTS}/{REPLAYED}.json"));
        return results.save(&target).map_err(usage);
    }
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
    let results = cost::Results::load(path).map_err(usage)?;
    Ok(vmm_cost(&results))
}

fn usage(error: dense_record::Error) -> Error {
    Error::Usage(error.to_string())
}

impl Page {
    fn results(&self) -> PathBuf {
        repo().join(format!("{RESULTS}/{}.json", self.plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_put_between_its_lines_only() {
        let begin = "<!-- x table: made by `cargo xtask report`, don't edit -->\n";
        let page = format!("a\n{begin}old\n<!-- end of x table -->\nb\n");
        let table = |name| Table {
            page: "p",
            name,
            text: "new\n".into(),
        };
        let new = table("x").put_into(&page).unwrap();
        assert_eq!(new, format!("a\n{begin}new\n<!-- end of x table -->\nb\n"));
        let error = table("y").put_into(&page).unwrap_err().to_string();
        assert!(error.starts_with("p has no lines"), "{error}");
    }
}
