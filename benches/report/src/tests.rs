use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::results::Failure;
use crate::results::tests::cell;
use dense_record::measured::{Span, Timeline};

fn results() -> Results {
    let mut results = Results::new("quick", BTreeMap::new());
    for (seed, stock, ours) in [(1, 100.0, 110.0), (2, 200.0, 210.0)] {
        results.cells.push(cell("dbench", "vmfirst", seed, ours));
        results.cells.push(cell("dbench", "stock", seed, stock));
    }
    results
}

/// The table's row of this title, as cells.
fn row(results: &Results, title: &str) -> Vec<String> {
    let table = table(results);
    let line = table
        .lines()
        .find(|l| l.starts_with(&format!("| {title} ")));
    let line = line.unwrap_or_else(|| panic!("no row {title}:\n{table}"));
    let cells = line.trim_matches('|').split('|').skip(1);
    cells.map(|c| c.trim().to_string()).collect()
}

#[test]
fn figures_have_intervals_samples_and_a_verdict() {
    let results = results();
    // stock: deviation 70.71; vmfirst: the same; t(0.975, 1) = 12.7062. Of one kernel, so
    // pairs: +10 and +5 %, whose logarithms deviate by 0.03289.
    assert_eq!(
        row(&results, "MB/s, all VMs"),
        ["150.0 ± 635.3", "160.0 ± 635.3", "+7.5 % (-20.0 to +44.4)"]
    );
    assert_eq!(
        row(&results, "samples by seed"),
        ["100.0 200.0", "110.0 210.0", "-"]
    );
}

#[test]
fn counters_are_rates_and_shares() {
    let results = results();
    let first = |title: &str| row(&results, title)[0].clone();
    assert_eq!(first("spin exits/s"), "500.0 ± 0.00");
    assert_eq!(first("CPU time in pause loops, at least"), "5.0 % ± 0.0 %");
    assert_eq!(first("hit/s any other preempted"), "150.0 ± 0.00");
    assert_eq!(
        first("hits whose target was on another CPU"),
        "75.0 % ± 0.0 %"
    );
    assert_eq!(first("slowest/fastest VM"), "100.0 % ± 0.0 %");
}

#[test]
fn what_was_not_counted_is_not_zero() {
    let results = results();
    assert!(!table(&results).contains("yield to run"));
    // Nothing to compare a difference with.
    assert_eq!(row(&results, "hit/s for a pending IPI")[2], "-");
}

#[test]
fn one_sample_gets_no_interval() {
    let mut results = results();
    results.cells.retain(|c| c.chosen.seed == 1);
    assert_eq!(
        row(&results, "MB/s, all VMs"),
        ["100.0", "110.0", "+10.0 %"]
    );
}

#[test]
fn a_variant_without_cells_or_base_leaves_gaps() {
    let mut results = results();
    results.cells.push(cell("compute", "vmfirst-off", 1, 5.0));
    let table = table(&results);
    assert!(table.contains("**compute**"), "{table}");
    assert_eq!(
        row(&results, "samples by seed"),
        ["-", "-", "5.00", "-", "-"]
    );
}

#[test]
fn the_lines_around_say_what_it_is_worth() {
    let table = table(&results());
    assert!(
        table.starts_with("Host: emulated; cgroup layout: flat; pinning: none; PV: none; stock: 6"),
        "{table}"
    );
    let mut below = table.lines().skip_while(|l| !l.starts_with('|'));
    let below = below
        .find(|l| !l.starts_with('|') && !l.is_empty())
        .unwrap();
    assert!(
        below.starts_with("Emulated ratios are not metal"),
        "{below}"
    );
    assert!(below.contains("cargo xtask bench --plan quick"), "{below}");
}

#[test]
fn cost_is_wall_over_virtual_time() {
    let row = "| dbench | 2 x 4 on 4 | 8.0 | 60 | 7.5 |";
    assert!(cost(&results()).contains(row), "{}", cost(&results()));
}

#[test]
fn columns_line_up() {
    let table = table(&results());
    let long = table.split("\n\n").find(|part| part.contains("**"));
    let widths: BTreeSet<usize> = long
        .unwrap()
        .lines()
        .filter(|l| l.starts_with('|'))
        .map(|l| l.chars().count())
        .collect();
    assert_eq!(widths.len(), 1, "{table}");
}

#[test]
fn the_page_has_every_picture_and_stands_alone() {
    let mut results = results();
    for cell in &mut results.cells {
        cell.counters
            .insert("third_party_run_ns".into(), 500_000_000);
    }
    results.failures.push(Failure {
        key: "dbench/<x>".into(),
        error: "guest 0: hung".into(),
        console: "consoles/x.txt".into(),
    });
    let mut traced = cell("dbench", "stock", 1, 1.0);
    traced.timeline = Some(Timeline {
        spans: vec![Span {
            cpu: 0,
            from_us: 0,
            to_us: 900,
            who: "0.1".into(),
        }],
        yields: Vec::new(),
    });
    results.cells.push(traced);
    let table = table(&results);
    let line = "- no result: `dbench/<x>`: guest 0: hung (console: consoles/x.txt)";
    assert!(table.contains(line), "{table}");
    let page = page(&results);
    // The summary; throughput, gain, spread, third party; the timeline.
    assert_eq!(page.matches("<svg class=\"chart\"").count(), 5, "{page}");
    assert_eq!(page.matches("<svg class=\"timeline\"").count(), 1);
    assert!(page.contains("dbench/&lt;x&gt;") && page.contains("guest 0: hung"));
    assert!(page.contains("25.0 %"), "{page}");
    for outside in ["http:", "https:", "<script", "<link", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}
