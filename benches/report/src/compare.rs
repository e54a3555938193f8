//! Two results files, such as of two kernels, and a verdict for CI.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::figures::{Setting, of, settings, variants};
use crate::md::Table;
use crate::results::{Cell, Results};
use crate::stats::{Estimate, paired_percent};
use crate::words::{short, signed, with_interval};
use dense_record::{Error, Result};

/// The options of a comparison.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CompareArgs {
    /// Compare the throughput of two results files, A before and B after; fails if a cell
    /// of B is surely slower
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["results", "out"])]
    pub compare: Vec<PathBuf>,
    /// How much slower, in percent, a cell may be without failing
    #[arg(
        long,
        default_value_t = 0.5,
        value_name = "PERCENT",
        requires = "compare"
    )]
    pub tolerance: f64,
}

/// What a difference says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Faster,
    Slower,
    /// The interval holds both "as fast" and "slower than tolerated".
    Unclear,
    Same,
}

impl Verdict {
    fn of(difference: Estimate, tolerance: f64) -> Self {
        let Some(half) = difference.half_width else {
            return Self::Unclear;
        };
        let (low, high) = (difference.mean - half, difference.mean + half);
        match () {
            () if high < -tolerance => Self::Slower,
            () if low > 0.0 => Self::Faster,
            () if low >= -tolerance => Self::Same,
            () => Self::Unclear,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "SLOWER",
            Self::Unclear => "unclear: too few seeds",
            Self::Same => "not slower",
        }
    }
}

/// The comparison in words, and whether anything is surely slower.
pub fn compare(args: &CompareArgs) -> Result<(String, bool)> {
    let [a, b] = &args.compare[..] else {
        return Err(Error::Invalid("--compare takes two files".into()));
    };
    let files = [a.clone(), b.clone()];
    let [before, after] = [&files[..1], &files[1..]].map(Results::load_all);
    in_words(&before?, &after?, args.tolerance)
}

fn in_words(before: &Results, after: &Results, tolerance: f64) -> Result<(String, bool)> {
    let (old, new) = (settings(before), settings(after));
    let mut table = Table::new(["cell", "seeds", "A", "B", "B to A", "verdict"]);
    let (mut rows, mut worse, mut gone) = (0, 0, 0);
    for (setting, cells) in &old {
        let others = new.get(setting).map_or(&[][..], Vec::as_slice);
        for variant in variants(&before.cells) {
            let (a, b) = (of(cells, variant), of(others, variant));
            gone += usize::from(!a.is_empty() && b.is_empty());
            let Some(difference) = paired_percent(&pairs(&a, &b)) else {
                continue;
            };
            let verdict = Verdict::of(difference, tolerance);
            rows += 1;
            worse += usize::from(verdict == Verdict::Slower);
            table.row(row(setting, variant, [&a, &b], difference, verdict));
        }
    }
    if rows == 0 {
        return Err(Error::Invalid(
            "the two files have no cell in common".into(),
        ));
    }
    let mut out = table.to_string();
    for failure in &after.failures {
        worse += 1;
        out += &format!("\nfailed in B: {}: {}\n", failure.key, failure.error);
    }
    if gone > 0 {
        out += &format!("\nnot in B: {gone} cells of A\n");
    }
    let verdict = match worse {
        0 => "nothing is surely slower".to_string(),
        _ => format!("{worse} of {rows} cells are slower or failed"),
    };
    out += &format!(
        "\n{verdict} (95 % intervals of differences paired by seed, {tolerance} % tolerated)\n"
    );
    Ok((out, worse > 0))
}

type BySeed<'a> = BTreeMap<u64, &'a Cell>;

fn pairs(a: &BySeed, b: &BySeed) -> Vec<(f64, f64)> {
    let pair = |(seed, cell): (&u64, &&Cell)| Some((cell.value, b.get(seed)?.value));
    a.iter().filter_map(pair).collect()
}

fn row(
    setting: &Setting,
    variant: &str,
    sides: [&BySeed; 2],
    difference: Estimate,
    verdict: Verdict,
) -> [String; 6] {
    let mean = |side: &BySeed| {
        let values: Vec<f64> = side.values().map(|c| c.value).collect();
        Estimate::of(&values).map_or(String::new(), |e| with_interval(e, short))
    };
    let [a, b] = sides;
    [
        format!(
            "{}, {}, {variant}",
            setting.chosen.workload,
            setting.shape()
        ),
        pairs(a, b).len().to_string(),
        mean(a),
        mean(b),
        format!("{} %", signed(difference)),
        verdict.words().into(),
    ]
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
    use crate::results::tests::cell;

    fn results(values: &[f64]) -> Results {
        let mut results = Results::new("quick", BTreeMap::new());
        for (seed, value) in (1..).zip(values) {
            results.cells.push(cell("dbench", "stock", seed, *value));
        }
        results
    }

    fn verdict(after: &[f64]) -> (String, bool) {
        in_words(&results(&[100.0, 101.0, 102.0]), &results(after), 0.5).unwrap()
    }

    #[test]
    fn only_what_is_surely_slower_fails() {
        let (text, worse) = verdict(&[90.0, 90.5, 92.0]);
        assert!(worse && text.contains("| SLOWER |"), "{text}");
        let (text, worse) = verdict(&[110.0, 111.0, 112.0]);
        assert!(!worse && text.contains("| faster |"), "{text}");
        let (text, worse) = verdict(&[100.0, 101.0, 102.0]);
        assert!(!worse && text.contains("| not slower |"), "{text}");
        let (text, worse) = verdict(&[70.0, 130.0, 100.0]);
        assert!(!worse && text.contains("unclear"), "{text}");
        let (text, worse) = verdict(&[50.0]);
        assert!(!worse && text.contains("unclear"), "{text}");
    }

    #[test]
    fn cells_that_are_gone_are_told() {
        let mut before = results(&[100.0, 101.0]);
        before.cells.push(cell("vips", "stock", 1, 1.0));
        let (text, worse) = in_words(&before, &results(&[100.0, 101.0]), 0.5).unwrap();
        assert!(!worse && text.contains("not in B: 1 cells of A"), "{text}");
    }

    #[test]
    fn files_of_other_cells_are_refused() {
        let mut other = results(&[1.0]);
        other.cells[0].chosen.workload = "vips".into();
        let error = in_words(&results(&[1.0]), &other, 0.5).unwrap_err();
        assert!(error.to_string().contains("no cell in common"));
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
