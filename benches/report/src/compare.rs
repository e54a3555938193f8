//! Two results files, such as of two kernels, and a verdict for CI.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dense_record::{Error, Result};
use serde_json::Value;

use crate::figures::Setting;
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, Samples, holm};
use crate::words::{percents, short, with_interval};

/// The chance with which a run is called slower that isn't, in 1.
const CHANCE: f64 = 0.025;

/// The options of a comparison.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CompareArgs {
    /// Compare the throughput of two results files, A before and B after. Exit status: 0 if no
    /// cell of B is slower, 1 if one surely is or gave no result, 3 if that is unclear
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["results", "out"])]
    pub compare: Vec<PathBuf>,
    /// How much slower, in percent, a cell may be
    #[arg(
        long,
        default_value_t = 0.5,
        value_name = "PERCENT",
        requires = "compare"
    )]
    pub tolerance: f64,
    /// Fail if a cell of A is not in B
    #[arg(long, requires = "compare")]
    pub require_all: bool,
}

/// What a difference says; of a run that which is said last counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As fast, or faster.
    Passed,
    /// The interval holds both "as fast" and "slower than tolerated".
    Unclear,
    /// Surely slower than tolerated, or without a result.
    Failed,
}

impl Verdict {
    /// The exit status by which a CI knows it.
    pub fn status(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Unclear => 3,
        }
    }
}

/// A cell's samples in both files, and what they say.
struct Row {
    name: String,
    before: Vec<f64>,
    after: Vec<f64>,
    difference: Option<Estimate>,
    /// How probable samples as low are by chance, if it is as slow as is tolerated.
    p: Option<f64>,
}

impl Row {
    fn of(name: String, before: &BySeed, after: &BySeed, tolerance: f64) -> Self {
        let values = |cells: &BySeed| cells.values().map(|c| c.value).collect();
        let (before, after): (Vec<f64>, Vec<f64>) = (values(before), values(after));
        let samples = Samples::Apart(before.clone(), after.clone());
        Self {
            name,
            difference: samples.percent(),
            p: samples.p_of_less_than(-tolerance),
            before,
            after,
        }
    }

    /// `p` is corrected for the number of cells.
    fn verdict(&self, p: Option<f64>, tolerance: f64) -> (Verdict, &'static str) {
        let ends = self.difference.and_then(|d| d.interval);
        match ends {
            _ if self.before == self.after => (Verdict::Passed, "the same"),
            _ if p.is_some_and(|p| p < CHANCE) => (Verdict::Failed, "SLOWER"),
            Some((low, _)) if low > 0.0 => (Verdict::Passed, "faster"),
            Some((low, _)) if low >= -tolerance => (Verdict::Passed, "not slower"),
            _ => (Verdict::Unclear, "unclear: too few seeds"),
        }
    }
}

/// A variant's cells in a setting, by seed.
type BySeed<'a> = BTreeMap<u64, &'a Cell>;

/// The comparison in words, and its verdict.
pub fn compare(args: &CompareArgs) -> Result<(String, Verdict)> {
    let [a, b] = &args.compare[..] else {
        return Err(Error::Invalid("--compare takes two files".into()));
    };
    let files = [a.clone(), b.clone()];
    let [before, after] = [&files[..1], &files[1..]].map(Results::load_all);
    in_words(&before?, &after?, args)
}

fn in_words(before: &Results, after: &Results, args: &CompareArgs) -> Result<(String, Verdict)> {
    let tolerance = args.tolerance;
    check_alike(before, after)?;
    let (old, new) = (by_variant(before), by_variant(after));
    let rows: Vec<Row> = old
        .iter()
        .filter_map(|((setting, variant), a)| {
            let b = new.get(&(setting.clone(), variant))?;
            let name = format!(
                "{}, {}, {variant}",
                setting.chosen.workload,
                setting.shape()
            );
            Some(Row::of(name, a, b, tolerance))
        })
        .collect();
    if rows.is_empty() {
        return Err(Error::Invalid(
            "the two files have no cell in common".into(),
        ));
    }
    let p: Vec<Option<f64>> = rows.iter().map(|row| row.p).collect();
    let mut table = Table::new(["cell", "seeds", "A", "B", "B to A", "verdict"]);
    let mut verdicts = Vec::new();
    for (row, p) in rows.iter().zip(holm(&p)) {
        let (verdict, words) = row.verdict(p, tolerance);
        verdicts.push(verdict);
        let mean = |values| Estimate::of(values).map_or(String::new(), |e| with_interval(e, short));
        table.row([
            row.name.clone(),
            format!("{}, {}", row.before.len(), row.after.len()),
            mean(&row.before),
            mean(&row.after),
            row.difference.map_or(String::new(), percents),
            words.to_string(),
        ]);
    }
    let mut out = table.to_string();
    for failure in &after.failures {
        verdicts.push(Verdict::Failed);
        out += &format!("\nfailed in B: {}: {}\n", failure.key, failure.error);
    }
    for cell in before.cells.iter().filter(|c| !after.has(&c.key())) {
        verdicts.extend(args.require_all.then_some(Verdict::Failed));
        out += &format!("\nnot in B: {}\n", cell.key());
    }
    let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
    let (failed, unclear) = (count(Verdict::Failed), count(Verdict::Unclear));
    let verdict = verdicts.iter().max().copied().unwrap_or(Verdict::Passed);
    out += &match verdict {
        Verdict::Passed => "\nnothing is slower".to_string(),
        Verdict::Unclear => format!("\nunclear of {unclear} cells: more seeds tell"),
        Verdict::Failed => format!("\n{failed} are slower, failed or missing; {unclear} unclear"),
    };
    out += &format!(
        " (95 % intervals of the ratio of geometric means by Welch, corrected for {} cells by \
         Holm; {tolerance} % tolerated)\n",
        rows.len()
    );
    Ok((out, verdict))
}

/// The cells of each variant in each setting. Traced ones are drawn only.
fn by_variant(results: &Results) -> BTreeMap<(Setting, &str), BySeed<'_>> {
    let mut all: BTreeMap<(Setting, &str), BySeed> = BTreeMap::new();
    for cell in results.cells.iter().filter(|c| c.timeline.is_none()) {
        let variant = (Setting::of(cell), cell.chosen.variant.as_str());
        all.entry(variant)
            .or_default()
            .insert(cell.chosen.seed, cell);
    }
    all
}

/// Refuses files in which a cell of one key was measured in two ways: in another unit, for
/// another time, on another host.
fn check_alike(before: &Results, after: &Results) -> Result<()> {
    for a in &before.cells {
        let key = a.key();
        let Some(b) = after.cells.iter().find(|b| b.key() == key) else {
            continue;
        };
        if let Some((name, a, b)) = differing(a, b)? {
            return Err(Error::Invalid(format!(
                "{key} can't be compared: its {name} is {a} in A and {b} in B"
            )));
        }
    }
    Ok(())
}

/// The first of what two cells' figures depend on that differs: its name, and both values.
fn differing(a: &Cell, b: &Cell) -> Result<Option<(String, String, String)>> {
    let values = |cell: &Cell| -> Result<serde_json::Map<String, Value>> {
        let chosen = serde_json::to_value(cell.chosen.setting());
        let mut values = match chosen.map_err(|e| Error::Invalid(e.to_string()))? {
            Value::Object(values) => values,
            _ => serde_json::Map::new(),
        };
        values.insert("unit".into(), cell.unit.clone().into());
        values.insert("host".into(), cell.host.clone().into());
        Ok(values)
    };
    let (a, b) = (values(a)?, values(b)?);
    let mut all = a.iter().zip(b.values());
    let found = all.find(|((_, a), b)| a != b);
    Ok(found.map(|((name, a), b)| (name.clone(), a.to_string(), b.to_string())))
}

/// What became of a cell that was run once more.
pub fn replayed(before: &Cell, now: Option<&Cell>) -> String {
    let Some(now) = now else {
        return "replayed: it failed".into();
    };
    if same(before, now) {
        return format!("replayed: equal to the digit ({} {})", now.value, now.unit);
    }
    format!(
        "replayed: {} {}, in the file {} {}",
        now.value, now.unit, before.value, before.unit
    )
}

/// Whether two runs of a cell gave the same: figures, counters and console.
pub fn same(a: &Cell, b: &Cell) -> bool {
    a.value == b.value
        && a.per_guest == b.per_guest
        && a.counters == b.counters
        && a.console_sha256 == b.console_sha256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Failure;
    use crate::results::tests::cell;

    fn results(values: &[f64]) -> Results {
        let mut results = Results::new("quick", BTreeMap::new());
        for (seed, value) in (1..).zip(values) {
            results.cells.push(cell("dbench", "stock", seed, *value));
        }
        results
    }

    fn args(require_all: bool) -> CompareArgs {
        CompareArgs {
            tolerance: 0.5,
            require_all,
            ..CompareArgs::default()
        }
    }

    fn verdict(after: &[f64]) -> (String, Verdict) {
        let before = results(&[100.0, 101.0, 102.0]);
        in_words(&before, &results(after), &args(false)).unwrap()
    }

    #[test]
    fn what_is_slower_fails_and_what_may_be_does_not_pass() {
        for (after, expected, words) in [
            (&[90.0, 90.5, 92.0][..], Verdict::Failed, "| SLOWER |"),
            (&[110.0, 111.0, 112.0], Verdict::Passed, "| faster |"),
            (&[100.0, 101.0, 102.0], Verdict::Passed, "| the same |"),
            (&[103.0, 103.1, 103.2], Verdict::Passed, "| not slower |"),
            (&[100.1, 101.0, 102.0], Verdict::Unclear, "| unclear"),
            (&[70.0, 130.0, 100.0], Verdict::Unclear, "| unclear"),
            (&[50.0], Verdict::Unclear, "| unclear"),
        ] {
            let (text, verdict) = verdict(after);
            assert_eq!(verdict, expected, "{text}");
            assert!(text.contains(words), "{words}: {text}");
        }
        let statuses = [Verdict::Passed, Verdict::Failed, Verdict::Unclear];
        assert_eq!(statuses.map(Verdict::status), [0, 1, 3]);
    }

    #[test]
    fn the_more_cells_the_surer_each_has_to_be() {
        let of = |cells: u32, values: &[f64]| {
            let mut results = Results::new("quick", BTreeMap::new());
            for guests in 1..=cells {
                // All but the first are as they were.
                let same = [100.0, 101.0, 102.0];
                let values = if guests == 1 { values } else { &same };
                for (seed, value) in (1..).zip(values) {
                    let mut one = cell("dbench", "stock", seed, *value);
                    one.chosen.guests = guests;
                    results.cells.push(one);
                }
            }
            results
        };
        let verdict = |cells| {
            let (before, after) = ([100.0, 101.0, 102.0], [96.0, 97.5, 98.5]);
            let (before, after) = (of(cells, &before), of(cells, &after));
            in_words(&before, &after, &args(false)).unwrap().1
        };
        assert_eq!(verdict(1), Verdict::Failed);
        assert_eq!(verdict(40), Verdict::Unclear);
    }

    #[test]
    fn cells_that_are_gone_or_failed_are_told() {
        let mut before = results(&[100.0, 101.0]);
        before.cells.push(cell("vips", "stock", 1, 1.0));
        let mut after = results(&[100.0, 101.0]);
        for (require_all, expected) in [(false, Verdict::Passed), (true, Verdict::Failed)] {
            let (text, verdict) = in_words(&before, &after, &args(require_all)).unwrap();
            assert!(
                text.contains("not in B: vips/2x4on4/q3000/stock/s1"),
                "{text}"
            );
            assert_eq!(verdict, expected, "{text}");
        }
        after.failures.push(Failure {
            key: "vips".into(),
            error: "hung".into(),
            console: String::new(),
        });
        let (text, verdict) = in_words(&before, &after, &args(false)).unwrap();
        assert!(text.contains("failed in B: vips: hung"), "{text}");
        assert_eq!(verdict, Verdict::Failed);
    }

    #[test]
    fn files_that_were_measured_otherwise_are_refused() {
        let refused = |change: fn(&mut Cell)| {
            let mut other = results(&[1.0]);
            change(&mut other.cells[0]);
            let error = in_words(&results(&[1.0]), &other, &args(false)).unwrap_err();
            error.to_string()
        };
        for (change, words) in [
            (
                (|c| c.unit = "k ops/s".into()) as fn(&mut Cell),
                "its unit is \"MB/s\" in A",
            ),
            (
                |c| c.chosen.window_ms = 7,
                "its window_ms is 0 in A and 7 in B",
            ),
            (|c| c.chosen.mem_mib = 7, "its mem_mib is"),
            (
                |c| c.host = "AMD EPYC".into(),
                "its host is \"emulated\" in A",
            ),
            (|c| c.chosen.workload = "vips".into(), "no cell in common"),
        ] {
            let error = refused(change);
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_replay_is_equal_to_the_digit_or_not() {
        let (before, mut now) = (
            cell("dbench", "stock", 1, 1.5),
            cell("dbench", "stock", 1, 1.5),
        );
        assert!(replayed(&before, Some(&now)).contains("equal to the digit"));
        now.counters.insert("exits".into(), 1);
        assert!(replayed(&before, Some(&now)).contains("in the file 1.5 MB/s"));
        assert!(replayed(&before, None).contains("failed"));
    }
}
