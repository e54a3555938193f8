//! The short table: a line for each setting, a column for each variant, and whether what
//! must not get worse did.

use crate::around::{caveats, failures, headline};
use crate::figures::{
    BASE, Setting, gain, mean, of, pairs, settings, third_party, value_of, variants,
};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, paired_percent};
use crate::words::{NONE, percent, short, signed, with_interval};

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
    let mut titles: Vec<String> = ["workload", "VMs x vCPUs on CPUs", "what", "seeds"]
        .map(String::from)
        .into();
    titles.extend(names.iter().map(|name| match *name {
        BASE => BASE.to_string(),
        other => format!("{other} to {BASE}"),
    }));
    let mut table = Table::new(titles);
    let settings = settings(results);
    for (setting, cells) in &settings {
        for line in [work(setting, cells, names), third(setting, cells, names)] {
            line.into_iter().for_each(|line| table.row(line));
        }
    }
    let mut out = table.to_string();
    if settings.iter().any(|(s, cells)| is_judged(s, cells)) {
        out += &format!(
            "\nControls, where nobody waits for who has no CPU, have to keep {CONTROL_KEEPS} of \
             {BASE}'s work, third parties {THIRD_PARTY_KEEPS} of their CPU time: **missed** \
             stands where the mean does not.\n"
        );
    }
    out
}

fn is_judged(setting: &Setting, cells: &[&Cell]) -> bool {
    is_control(setting) || mean(cells, BASE, third_party).is_some()
}

fn is_control(setting: &Setting) -> bool {
    let own_cpus = setting.chosen.guests * setting.chosen.vcpus <= setting.chosen.pcpus;
    own_cpus || CONTROLS.contains(&setting.chosen.workload.as_str())
}

/// The line of all VMs' work.
fn work(setting: &Setting, cells: &[&Cell], names: &[&str]) -> Option<Vec<String>> {
    let unit = cells.first()?.unit.as_str();
    let control = is_control(setting);
    let columns = names.iter().map(|name| match *name {
        BASE => mean(cells, name, value_of).map(|e| with_interval(e, short)),
        _ => gain(cells, name).map(|e| judged(e, control.then_some(CONTROL_KEEPS))),
    });
    let what = if control { "control, " } else { "" };
    Some(line(setting, &format!("{what}{unit}"), cells, columns))
}

/// The line of a third party's CPU time, where there is one.
fn third(setting: &Setting, cells: &[&Cell], names: &[&str]) -> Option<Vec<String>> {
    mean(cells, BASE, third_party)?;
    let columns = names.iter().map(|name| match *name {
        BASE => mean(cells, name, third_party).map(|e| with_interval(e, percent)),
        _ => paired_percent(&pairs(cells, name, third_party))
            .map(|e| judged(e, Some(THIRD_PARTY_KEEPS))),
    });
    Some(line(
        setting,
        "third party's share of a CPU",
        cells,
        columns,
    ))
}

fn line(
    setting: &Setting,
    what: &str,
    cells: &[&Cell],
    columns: impl Iterator<Item = Option<String>>,
) -> Vec<String> {
    let mut line = vec![
        setting.chosen.workload.clone(),
        setting.place(),
        what.to_string(),
        of(cells, BASE).len().to_string(),
    ];
    line.extend(columns.map(|c| c.unwrap_or(NONE.into())));
    line
}

/// A difference from the base in percent, and whether it is below what has to be kept.
fn judged(change: Estimate, keeps: Option<f64>) -> String {
    let missed = keeps.is_some_and(|keeps| 1.0 + change.mean / 100.0 < keeps);
    let verdict = if missed { " **missed**" } else { "" };
    format!("{} %{verdict}", signed(change))
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
        let line = "| control, MB/s | 2 | 100.0 ± 0.00 | +1.0 ± 0.0 % |";
        assert!(table.contains(line), "{table}");
    }
}
