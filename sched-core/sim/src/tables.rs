//! Tables of docs/simulator.md: small ones, generated from committed results.

use std::collections::BTreeMap;

use dense_record::chosen::word;
use dense_report::md::Table;
use dense_report::results::{Cell, Results};
use dense_report::stats::{Estimate, Samples};
use dense_report::words::{NONE, percents};

/// What a variant is compared with.
const BASE: &str = "stock";

/// Cells that differ in variant and seed only: workload, layout, VMs, vCPUs, CPUs.
pub type Setting = (String, String, u32, u32, u32);

/// A cell's setting.
pub fn setting(cell: &Cell) -> Setting {
    let chosen = &cell.chosen;
    (
        chosen.workload.clone(),
        word(&chosen.cgroups),
        chosen.guests,
        chosen.vcpus,
        chosen.pcpus,
    )
}

/// The values of a variant by seed, of each setting.
pub fn values(results: &Results) -> BTreeMap<Setting, BTreeMap<&str, BTreeMap<u64, f64>>> {
    let mut all: BTreeMap<Setting, BTreeMap<&str, BTreeMap<u64, f64>>> = BTreeMap::new();
    for cell in &results.cells {
        let of = all.entry(setting(cell)).or_default();
        let of = of.entry(cell.chosen.variant.as_str()).or_default();
        of.insert(cell.chosen.seed, cell.value);
    }
    all
}

/// What a variant does more than stock, in percent of geometric means: of a model, where
/// equal seeds are equal beginnings.
pub fn simulated(of: &BTreeMap<&str, BTreeMap<u64, f64>>, variant: &str) -> Option<Estimate> {
    Samples::Pairs(pairs(of, variant)).percent()
}

/// The same of hosts, each with boots of its own.
pub fn measured(of: &BTreeMap<&str, BTreeMap<u64, f64>>, variant: &str) -> Option<Estimate> {
    let all = |variant| Some(of.get(variant)?.values().copied().collect());
    Samples::Apart(all(BASE)?, all(variant)?).percent()
}

/// Stock's value and `variant`'s, of each seed that both have.
fn pairs(of: &BTreeMap<&str, BTreeMap<u64, f64>>, variant: &str) -> Vec<(f64, f64)> {
    let (Some(base), Some(other)) = (of.get(BASE), of.get(variant)) else {
        return Vec::new();
    };
    let both = base
        .iter()
        .filter_map(|(seed, b)| Some((*b, *other.get(seed)?)));
    both.collect()
}

/// A row for each setting, a column for each variant: stock's rounds/s, the others against
/// it in % of geometric means with the 95 % interval over the model's seeds; after the comma
/// the slowest VM's work
/// against the fastest's, or, where they run different things, the least CPU time of one
/// against an equal share.
pub fn compare(results: &Results) -> String {
    let mut variants: Vec<&str> = Vec::new();
    for cell in &results.cells {
        if cell.chosen.variant != BASE && !variants.contains(&cell.chosen.variant.as_str()) {
            variants.push(&cell.chosen.variant);
        }
    }
    let titles = ["VMs x vCPUs on CPUs", BASE]
        .into_iter()
        .chain(variants.iter().copied());
    let mut table = Table::new(titles);
    let all = values(results);
    let mut order: Vec<&Setting> = all.keys().collect();
    order.sort_by_key(|s| (&s.0, &s.1, s.4, s.2, s.3));
    for setting in order {
        let of = &all[setting];
        let (workload, layout, guests, vcpus, cpus) = setting;
        let base: Vec<f64> = of
            .get(BASE)
            .map_or(Vec::new(), |v| v.values().copied().collect());
        let mean = base.iter().sum::<f64>() / base.len().max(1) as f64;
        let fair = fairness(results, setting, BASE);
        let mut row = vec![
            format!("{workload}, {layout}: {guests} x {vcpus} on {cpus}"),
            format!("{mean:.0}, {fair}"),
        ];
        for variant in &variants {
            let text = simulated(of, variant).map_or(NONE.into(), percents);
            row.push(format!("{text}, {}", fairness(results, setting, variant)));
        }
        table.row(row);
    }
    table.to_string()
}

/// Work of the slowest VM against the fastest's, the mean over the seeds; of VMs that run
/// different things the least CPU time of one against an equal share.
fn fairness(results: &Results, of: &Setting, variant: &str) -> String {
    let cells = results
        .cells
        .iter()
        .filter(|c| c.chosen.variant == variant && setting(c) == *of);
    let each: Vec<f64> = cells
        .filter_map(|c| {
            if c.chosen.workload.contains('+') {
                let share =
                    f64::from(c.chosen.pcpus) * c.window_s * 1e9 / f64::from(c.chosen.guests);
                return Some(*c.counters.get("sim_least_vm_run_ns")? as f64 / share);
            }
            let least = c.per_guest.iter().copied().reduce(f64::min)?;
            let most = c.per_guest.iter().copied().reduce(f64::max)?;
            (most > 0.0).then_some(least / most)
        })
        .collect();
    format!("{:.2}", each.iter().sum::<f64>() / each.len().max(1) as f64)
}
