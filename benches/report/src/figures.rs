//! What the cells of a run say: settings, variants, figures and their differences.

use std::collections::{BTreeMap, BTreeSet};

use dense_record::chosen::Chosen;

use crate::results::{Cell, Results};
use crate::stats::{Estimate, paired_difference, paired_percent};

/// What every other variant is compared with.
pub const BASE: &str = "stock";

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

/// A figure of the base and of a variant, for the seeds that both have.
pub fn pairs(cells: &[&Cell], variant: &str, figure: fn(&Cell) -> Option<f64>) -> Vec<(f64, f64)> {
    let base = of(cells, BASE);
    of(cells, variant)
        .iter()
        .filter_map(|(seed, cell)| Some((figure(base.get(seed)?)?, figure(cell)?)))
        .collect()
}

/// The throughput's difference from the base, in percent.
pub fn gain(cells: &[&Cell], variant: &str) -> Option<Estimate> {
    paired_percent(&pairs(cells, variant, value_of))
}

/// A metric's difference from the base: of shares in points, else in percent.
pub fn change(metric: &Metric, cells: &[&Cell], variant: &str) -> Option<Estimate> {
    let pairs = pairs(cells, variant, metric.of);
    if !metric.as_share {
        return paired_percent(&pairs);
    }
    let points = pairs.iter().map(|(a, b)| (100.0 * a, 100.0 * b));
    paired_difference(&points.collect::<Vec<_>>())
}
