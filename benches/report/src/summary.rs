//! The short table: a line for each setting, a column for each variant, and whether what
//! must not get worse did.

use crate::around::{caveats, failures, headline};
use crate::figures::{
    BASE, Setting, gain, mean, of, others, samples, settings, third_party, value_of, variants,
};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, sure};
use crate::words::{NONE, difference, percent, short, with_interval};

/// Workloads whose vCPUs do not wait for each other.
const CONTROLS: &[&str] = &["compute", "tlb-shootdown"];
/// What a control has to keep of the base's work.
const CONTROL_KEEPS: f64 = 0.995;
/// What a third party has to keep of the CPU time that it gets beside the base.
const THIRD_PARTY_KEEPS: f64 = 0.98;

/// The short table by itself.
pub fn summary(results: &Results) -> String {
    let names = variants(&results.cells);
    format!(
        "{}\n\n{}{}\n{}",
        headline(results, &names),
        failures(results),
        lines(results, &names),
        caveats(results)
    )
}

/// A line for each setting's work, and one for its third party's CPU time.
pub fn lines(results: &Results, names: &[&str]) -> String {
    let settings = settings(results);
    let all: Vec<Line> = settings
        .iter()
        .flat_map(|(setting, cells)| {
            let [work, third] = [work(setting, cells, names), third(setting, cells, names)];
            [work, third].into_iter().flatten()
        })
        .collect();
    let differences: Vec<_> = all.iter().flat_map(|l| l.differences.clone()).collect();
    let mut sure = sure(&differences).into_iter();
    let titles = ["workload", "VMs x vCPUs on CPUs", "what", "seeds", BASE].map(String::from);
    let others = others(names).map(|name| format!("{name} to {BASE}"));
    let mut table = Table::new(titles.into_iter().chain(others));
    for line in all {
        let columns = line.differences.iter().map(|difference| {
            let is_sure = sure.next().unwrap_or(false);
            judged(*difference, is_sure, line.keeps)
        });
        table.row(line.head.into_iter().chain(columns.collect::<Vec<_>>()));
    }
    let mut out = table.to_string();
    if settings.iter().any(|(s, cells)| is_judged(s, cells)) {
        out += &format!(
            "\nControls, whose vCPUs wait for none that has no CPU, have to keep {CONTROL_KEEPS} \
             of {BASE}'s work, third parties {THIRD_PARTY_KEEPS} of their CPU time: **missed** \
             stands where the mean does not.\n"
        );
    }
    out
}

/// A figure of a setting, and what every other variant makes of it.
struct Line {
    head: [String; 5],
    differences: Vec<Option<Estimate>>,
    /// What has to be kept of the base's.
    keeps: Option<f64>,
}

fn is_judged(setting: &Setting, cells: &[&Cell]) -> bool {
    is_control(setting) || mean(cells, BASE, third_party).is_some()
}

fn is_control(setting: &Setting) -> bool {
    let own_cpus = setting.chosen.guests * setting.chosen.vcpus <= setting.chosen.pcpus;
    own_cpus || CONTROLS.contains(&setting.chosen.workload.as_str())
}

/// The line of all VMs' work.
fn work(setting: &Setting, cells: &[&Cell], names: &[&str]) -> Option<Line> {
    let control = is_control(setting);
    let what = if control { "control, " } else { "" };
    let base = mean(cells, BASE, value_of).map(|e| with_interval(e, short));
    Some(Line {
        head: head(setting, &format!("{what}{}", setting.unit), cells, base),
        differences: others(names).map(|name| gain(cells, name)).collect(),
        keeps: control.then_some(CONTROL_KEEPS),
    })
}

/// The line of a third party's CPU time, where there is one.
fn third(setting: &Setting, cells: &[&Cell], names: &[&str]) -> Option<Line> {
    let base = mean(cells, BASE, third_party)?;
    let base = with_interval(base, percent);
    let change = |name| samples(cells, [BASE, name], third_party)?.percent();
    Some(Line {
        head: head(setting, "third party's share of a CPU", cells, Some(base)),
        differences: others(names).map(change).collect(),
        keeps: Some(THIRD_PARTY_KEEPS),
    })
}

fn head(setting: &Setting, what: &str, cells: &[&Cell], base: Option<String>) -> [String; 5] {
    [
        setting.chosen.workload.clone(),
        setting.place(),
        what.to_string(),
        of(cells, BASE).len().to_string(),
        base.unwrap_or(NONE.into()),
    ]
}

/// A difference from the base in percent, and whether it is below what has to be kept.
fn judged(change: Option<Estimate>, sure: bool, keeps: Option<f64>) -> String {
    let kept = change.map(|change| 1.0 + change.mean / 100.0);
    let missed = keeps.zip(kept).is_some_and(|(keeps, kept)| kept < keeps);
    let verdict = if missed { " **missed**" } else { "" };
    difference(change, sure) + verdict
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::tests::cell;

    fn summary_of(workload: &str, ours: f64, third: u64) -> String {
        let mut results = Results::new("controls", BTreeMap::new());
        for (variant, value, third) in [("stock", 100.0, 1000), ("vmfirst", ours, third)] {
            for seed in [1, 2] {
                let mut one = cell(workload, variant, seed, value);
                one.counters.insert("third_party_run_ns".into(), third);
                results.cells.push(one);
            }
        }
        summary(&results)
    }

    #[test]
    fn only_what_gets_worse_than_it_may_is_missed() {
        for (workload, ours, third, missed) in [
            ("compute", 99.6, 990, 0),
            ("compute", 99.4, 990, 1),
            ("compute", 99.4, 970, 2),
            ("dbench", 90.0, 990, 0),
            ("dbench", 90.0, 970, 1),
        ] {
            let table = summary_of(workload, ours, third);
            let rows = table.lines().filter(|l| l.starts_with('|'));
            let found: usize = rows.map(|row| row.matches("**missed**").count()).sum();
            assert_eq!(found, missed, "{workload} {ours} {third}:\n{table}");
        }
    }

    #[test]
    fn a_line_has_the_base_and_the_differences() {
        let table = summary_of("compute", 101.0, 1000);
        let line = "| control, MB/s | 2 | 100.0 ± 0.00 | +1.0 % (+1.0 to +1.0) sure |";
        assert!(table.contains(line), "{table}");
    }
}
