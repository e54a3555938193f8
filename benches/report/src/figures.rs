//! What the cells of a run say: settings, variants, figures and their differences.

use std::collections::{BTreeMap, BTreeSet};

use dense_record::chosen::Chosen;

use crate::results::{Cell, Results};
use crate::stats::{Estimate, Samples};

/// What every other variant is compared with.
pub const BASE: &str = "stock";
/// The host of a model's cells.
const SIMULATED: &str = "simulated";

/// What cells have in common that differ in variant and seed only: what was chosen, what was
/// measured, and on which host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    pub chosen: Chosen,
    pub unit: String,
    pub host: String,
}

impl Setting {
    pub fn of(cell: &Cell) -> Self {
        Self {
            chosen: cell.chosen.setting(),
            unit: cell.unit.clone(),
            host: cell.host.clone(),
        }
    }

    /// Everything but the workload, in words.
    pub fn shape(&self) -> String {
        let Chosen {
            guests,
            vcpus,
            pcpus,
            round_ns,
            ..
        } = self.chosen;
        let mut words = format!("{guests} VMs x {vcpus} vCPUs on {pcpus} CPUs");
        if round_ns > 0 {
            words += &format!(", rounds of {round_ns} ns");
        }
        words + &self.options()
    }

    /// The same in a table's column.
    pub fn place(&self) -> String {
        let Chosen {
            guests,
            vcpus,
            pcpus,
            ..
        } = self.chosen;
        format!("{guests} x {vcpus} on {pcpus}{}", self.options())
    }

    fn options(&self) -> String {
        let unusual = self.chosen.unusual();
        unusual.iter().map(|o| format!(", {o}")).collect()
    }
}

/// The cells of a run that are compared, by setting. Traced ones are drawn only.
pub fn settings(results: &Results) -> BTreeMap<Setting, Vec<&Cell>> {
    let mut settings: BTreeMap<Setting, Vec<&Cell>> = BTreeMap::new();
    for cell in results.cells.iter().filter(|c| c.timeline.is_none()) {
        settings.entry(Setting::of(cell)).or_default().push(cell);
    }
    settings
}

/// The variants that are there, the base first.
pub fn variants(cells: &[Cell]) -> Vec<&str> {
    let names: BTreeSet<&str> = cells.iter().map(|c| c.chosen.variant.as_str()).collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| *name != BASE);
    names
}

/// Those that are compared with the base.
pub fn others<'a>(variants: &[&'a str]) -> impl Iterator<Item = &'a str> {
    variants.iter().copied().filter(|v| *v != BASE)
}

/// A figure of a cell, and how to show and compare it.
pub struct Metric {
    pub title: &'static str,
    pub of: fn(&Cell) -> Option<f64>,
    pub as_share: bool,
}

/// The rows below a block's throughput. An unknown counter is unknown, never 0.
pub const METRICS: &[Metric] = &[
    Metric {
        title: "slowest/fastest VM",
        of: |c| evenness(&c.per_guest),
        as_share: true,
    },
    Metric {
        title: "third party's share of a CPU",
        of: third_party,
        as_share: true,
    },
    Metric {
        title: "spin exits/s",
        of: |c| rate(c, "spin_exits"),
        as_share: false,
    },
    Metric {
        title: "CPU time in pause loops, at least",
        of: |c| Some(rate(c, "spin_ns")? / 1e9 / f64::from(c.chosen.pcpus)),
        as_share: true,
    },
    Metric {
        title: "yields tried/s",
        of: |c| rate(c, "yield_attempts"),
        as_share: false,
    },
    Metric {
        title: "hit/s for a pending IPI",
        of: |c| rate(c, "yield_hits_ipi"),
        as_share: false,
    },
    Metric {
        title: "hit/s for another interrupt",
        of: |c| rate(c, "yield_hits_irq"),
        as_share: false,
    },
    Metric {
        title: "hit/s preempted in the kernel",
        of: |c| rate(c, "yield_hits_kernel"),
        as_share: false,
    },
    Metric {
        title: "hit/s any other preempted",
        of: |c| rate(c, "yield_hits_relaxed"),
        as_share: false,
    },
    Metric {
        title: "hits whose target was on another CPU",
        of: |c| {
            let other = rate(c, "yield_other_cpu")?;
            share(other, other + rate(c, "yield_same_cpu")?)
        },
        as_share: true,
    },
    Metric {
        title: "hits on the vCPU that was waited for",
        of: |c| {
            let right = rate(c, "truth_right")?;
            share(right, right + rate(c, "truth_wrong")?)
        },
        as_share: true,
    },
    Metric {
        title: "yield to run, mean us",
        of: |c| {
            share(
                rate(c, "yield_to_run_ns")? / 1e3,
                rate(c, "yield_to_run_count")?,
            )
        },
        as_share: false,
    },
    Metric {
        title: "transfers/s",
        of: |c| rate(c, "transfers"),
        as_share: false,
    },
    Metric {
        title: "advances/s",
        of: |c| rate(c, "advances"),
        as_share: false,
    },
    Metric {
        title: "handoffs/s",
        of: |c| rate(c, "handoffs"),
        as_share: false,
    },
    Metric {
        title: "host's context switches/s",
        of: |c| rate(c, "host_context_switches"),
        as_share: false,
    },
    Metric {
        title: "vCPU migrations/s",
        of: |c| rate(c, "vcpu_migrations"),
        as_share: false,
    },
];

/// A counter a second.
pub fn rate(cell: &Cell, counter: &str) -> Option<f64> {
    Some(*cell.counters.get(counter)? as f64 / cell.window_s)
}

/// The third party's share of a CPU.
pub fn third_party(cell: &Cell) -> Option<f64> {
    Some(rate(cell, "third_party_run_ns")? / 1e9)
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Slowest over fastest; 1 when all are equal.
fn evenness(values: &[f64]) -> Option<f64> {
    let slowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = values.iter().copied().fold(0.0, f64::max);
    share(slowest, fastest)
}

/// Work per second of all guests.
pub fn value_of(cell: &Cell) -> Option<f64> {
    Some(cell.value)
}

/// A variant's cells, by seed.
pub fn of<'a>(cells: &[&'a Cell], variant: &str) -> BTreeMap<u64, &'a Cell> {
    cells
        .iter()
        .filter(|cell| cell.chosen.variant == variant)
        .map(|cell| (cell.chosen.seed, *cell))
        .collect()
}

/// A figure's mean over a variant's seeds, if all cells have it.
pub fn mean(cells: &[&Cell], variant: &str, figure: fn(&Cell) -> Option<f64>) -> Option<Estimate> {
    let values: Option<Vec<f64>> = of(cells, variant).values().map(|c| figure(c)).collect();
    Estimate::of(&values?)
}

/// A figure's samples of two variants, if all their cells have it. Those of a seed belong
/// together where both variants began with the same: at one saved host, or in a model. What
/// boots by itself has chances of its own, and is compared as a whole.
pub fn samples(
    cells: &[&Cell],
    [base, other]: [&str; 2],
    figure: fn(&Cell) -> Option<f64>,
) -> Option<Samples> {
    let [base, other] = [base, other].map(|variant| of(cells, variant));
    let pairs: Vec<_> = base
        .iter()
        .filter_map(|(seed, cell)| Some((*cell, *other.get(seed)?)))
        .collect();
    if !pairs.is_empty() && pairs.iter().all(|(a, b)| begin_alike(a, b)) {
        let both = pairs.iter().map(|(a, b)| Some((figure(a)?, figure(b)?)));
        return both.collect::<Option<_>>().map(Samples::Pairs);
    }
    let all = |cells: BTreeMap<u64, &Cell>| cells.into_values().map(figure).collect();
    let (base, other): (Option<Vec<f64>>, Option<Vec<f64>>) = (all(base), all(other));
    Some(Samples::Apart(base?, other?))
}

fn begin_alike(a: &Cell, b: &Cell) -> bool {
    a.host == SIMULATED || (a.chosen.is_emulated() && a.chosen.boot() == b.chosen.boot())
}

/// The throughput's difference from the base, in percent.
pub fn gain(cells: &[&Cell], variant: &str) -> Option<Estimate> {
    samples(cells, [BASE, variant], value_of)?.percent()
}

/// A metric's difference from the base: of shares in points, else in percent.
pub fn change(metric: &Metric, cells: &[&Cell], variant: &str) -> Option<Estimate> {
    let samples = samples(cells, [BASE, variant], metric.of)?;
    match metric.as_share {
        true => Some(samples.difference()?.times(100.0)),
        false => samples.percent(),
    }
}

#[cfg(test)]
mod tests {
    use dense_record::chosen::HostKernel;

    use super::*;
    use crate::results::tests::cell;

    #[test]
    fn only_what_began_with_the_same_is_paired() {
        let mut cells = vec![
            cell("dedup", "a", 1, 10.0),
            cell("dedup", "a", 2, 20.0),
            cell("dedup", "b", 2, 22.0),
            cell("dedup", "b", 1, 11.0),
            cell("dedup", "b", 3, 33.0),
        ];
        let of = |cells: &[Cell]| {
            let cells: Vec<&Cell> = cells.iter().collect();
            samples(&cells, ["a", "b"], value_of).unwrap()
        };
        let pairs = Samples::Pairs(vec![(10.0, 11.0), (20.0, 22.0)]);
        assert_eq!(of(&cells), pairs);
        cells[3].chosen.host_kernel = HostKernel::Patched;
        let apart = Samples::Apart(vec![10.0, 20.0], vec![11.0, 22.0, 33.0]);
        assert_eq!(of(&cells), apart);
        cells.iter_mut().for_each(|c| c.host = SIMULATED.into());
        assert_eq!(of(&cells), pairs);
        // On a real host every cell has boots of its own.
        for cell in &mut cells {
            (cell.host, cell.chosen.round_ns) = ("AMD EPYC".into(), 0);
        }
        assert_eq!(of(&cells), apart);
    }
}
