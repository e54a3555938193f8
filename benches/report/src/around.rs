//! What stands above and below the tables of a run.

use std::collections::BTreeSet;

use dense_record::chosen::word;

use crate::results::{Cell, Failure, Results};

/// What the line above the table names when all cells agree on it.
#[expect(clippy::type_complexity, reason = "a table of functions")]
const SHARED: &[(&str, fn(&Cell) -> Option<String>)] = &[
    ("cgroup layout", |c| Some(word(&c.chosen.cgroups))),
    ("pinning", |c| Some(word(&c.chosen.pinning))),
    ("PV", |c| Some(word(&c.chosen.pv))),
    ("HZ", |c| c.machine.get("hz").cloned()),
    ("instructions/ns a CPU", |c| {
        c.machine.get("instructions_per_ns").cloned()
    }),
];

/// A line for each cell without a result.
pub fn failures(results: &Results) -> String {
    let lines = results.failures.iter().map(|failure| {
        let Failure {
            key,
            error,
            console,
        } = failure;
        format!("- no result: `{key}`: {error} (console: {console})\n")
    });
    let lines: String = lines.collect();
    match lines.is_empty() {
        true => lines,
        false => lines + "\n",
    }
}

/// The line above the table: what the figures were measured on.
pub fn headline(results: &Results, variants: &[&str]) -> String {
    let distinct = |of: &dyn Fn(&Cell) -> &str| -> Vec<String> {
        let all: BTreeSet<&str> = results.cells.iter().map(of).collect();
        all.into_iter().map(String::from).collect()
    };
    let mut parts = vec![format!(
        "Host: {}",
        distinct(&|c| c.host.as_str()).join(" and ")
    )];
    for (title, value) in SHARED {
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
            .filter(|c| c.chosen.variant == *variant)
            .map(|c| c.kernel.as_str())
            .collect();
        let kernels: Vec<&str> = kernels.into_iter().collect();
        parts.push(format!("{variant}: {}", kernels.join(" and ")));
    }
    format!("{}.", parts.join("; "))
}

/// What stands under the table.
pub fn caveats(results: &Results) -> String {
    let mut out = String::new();
    if results.cells.iter().any(|c| c.host == "emulated") {
        let commits: BTreeSet<&str> = results
            .cells
            .iter()
            .filter_map(|c| Some(c.commit.as_deref()?.get(..12).unwrap_or("?")))
            .collect();
        let commits: Vec<&str> = commits.into_iter().collect();
        let at = match commits[..] {
            [] => String::new(),
            _ => format!(", at commit {},", commits.join(" and ")),
        };
        out += &format!(
            "Emulated ratios are not metal: CPUs here have no caches and no pipelines. \
             `cargo xtask bench --plan {}`{at} gives these digits where packages and compilers are the same; \
             `dense-bench run` measures the same on your own KVM host (docs/measuring.md).\n",
            results.plan
        );
    }
    out += "± is half of a mean's 95 % interval over the seeds (Student's t). Differences are of \
            geometric means; in brackets is their 95 % interval (Welch's test; pairs where both \
            began at one saved host). sure: it counts with all of the table's differences taken \
            together (Holm's correction).\n";
    out
}
