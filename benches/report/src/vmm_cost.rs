//! What VMMs cost by themselves, side by side.

use dense_record::cost::{Cost, Results};

use crate::md::Table;
use crate::words::short;

/// A row: its title, a goal that is ours alone if there is one, and the figure.
type Row = (&'static str, Option<f64>, fn(&Cost) -> f64);

/// Of a guest that has a first process.
const INIT: &str = "exec to the guest's init, ms";

const ROWS: &[Row] = &[
    ("exec to first guest instruction, ms", None, |c| {
        c.first_instruction_us as f64 / 1000.0
    }),
    ("CPU before first guest instruction, ms", Some(8.0), |c| {
        c.first_instruction_cpu_us as f64 / 1000.0
    }),
    (INIT, None, |c| c.init_us as f64 / 1000.0),
    ("RSS without guest memory, MiB", Some(5.0), |c| {
        c.rss_kib as f64 / 1024.0
    }),
    ("of it anonymous, MiB", None, |c| {
        c.anonymous_kib as f64 / 1024.0
    }),
    ("threads", None, |c| c.threads as f64),
    ("idle: wake-ups/s of the VMM", Some(0.0), |c| {
        c.idle_vmm_wakeups
    }),
    (
        "idle: wake-ups/s of vCPUs (the guest's timers)",
        None,
        |c| c.idle_vcpu_wakeups,
    ),
    ("idle: CPU, us/s", None, |c| c.idle_cpu_us),
];

/// A row a figure, a column a VMM: the median, and the range of all launches.
pub fn vmm_cost(results: &Results) -> String {
    let names = results.costs.keys().cloned();
    let titles = std::iter::once(String::new()).chain(names);
    let mut table = Table::new(titles.chain(["goal".into()]));
    let mut words = results.spec.vmms.iter().flat_map(|(_, command)| command);
    let has_init = words.any(|word| word == "--initrd");
    for (title, goal, of) in ROWS {
        if *title == INIT && !has_init {
            continue;
        }
        let spreads = results.costs.values();
        let spreads = spreads.map(|costs| spread(costs.iter().map(of).collect()));
        let goal = goal.map_or(String::new(), |g| format!("at most {g}"));
        let row = std::iter::once(title.to_string()).chain(spreads);
        table.row(row.chain([goal]));
    }
    let launches = results.costs.values().map(Vec::len).max().unwrap_or(0);
    format!(
        "{table}\nMedian (least to most) of {launches} launches of each; 1 vCPU, {} MiB; {}.\n",
        results.spec.mem_mib, results.host
    )
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    match values[..] {
        [] => String::new(),
        [one] => short(one),
        [least, .., most] if least == most => short(least),
        [least, .., most] => format!(
            "{} ({} to {})",
            short(f64::midpoint(
                values[(values.len() - 1) / 2],
                values[values.len() / 2]
            )),
            short(least),
            short(most)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_shown_only_where_there_is_one() {
        assert_eq!(spread(vec![]), "");
        assert_eq!(spread(vec![2.0, 2.0]), "2.00");
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), "2.00 (1.00 to 3.00)");
        assert_eq!(spread(vec![2.0, 1.0]), "1.50 (1.00 to 2.00)");
    }
}
