//! Which cells to run: plans/*.toml, or a file of the user's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dense_record::chosen::{Chosen, Pv};
use dense_record::{Error, Result};
use glob::Pattern;

mod file;

use file::Group;

/// The plans that come with the program.
const PLANS: &[(&str, &str)] = &[
    ("quick", include_str!("../plans/quick.toml")),
    ("article", include_str!("../plans/article.toml")),
    ("fairness", include_str!("../plans/fairness.toml")),
    ("ablation", include_str!("../plans/ablation.toml")),
    ("windows", include_str!("../plans/windows.toml")),
    ("ipi", include_str!("../plans/ipi.toml")),
    ("controls", include_str!("../plans/controls.toml")),
    ("timeline", include_str!("../plans/timeline.toml")),
    ("smoke", include_str!("../plans/smoke.toml")),
    ("layouts", include_str!("../plans/layouts.toml")),
    ("rounds", include_str!("../plans/rounds.toml")),
    ("replay", include_str!("../plans/replay.toml")),
    ("cost", include_str!("../plans/cost.toml")),
    ("storm", include_str!("../plans/storm.toml")),
    ("contention", include_str!("../plans/contention.toml")),
    ("truth", include_str!("../plans/truth.toml")),
    ("debian", include_str!("../plans/debian.toml")),
];

/// What guests' kernels are told.
const GUEST_CMDLINE: &str = "console=ttyS0 quiet tsc=reliable nokaslr panic=-1";
/// The same, and to use no paravirtual feature of KVM's.
const GUEST_CMDLINE_NOPV: &str = "console=ttyS0 quiet nopv tsc=reliable nokaslr panic=-1";
/// Loops a jiffy, where the TSC is known to run at 1 GHz and HZ is 250: measuring it takes
/// each vCPU, and one that waits for it, some 50 ms of the boot.
const EMULATED_LPJ: &str = " lpj=4000000";
/// The variants that every plan knows.
const VARIANTS: &str = include_str!("../plans/variants.toml");

/// The cells of a plan, in the order to run them: seed by seed, so that an
/// interrupted run has pairs to compare. `name` is a plan that comes with the
/// program, or the path of a file, `*.toml`.
pub fn cells(name: &str, seeds: Option<u64>, only: Option<&str>) -> Result<Vec<Chosen>> {
    let all = expand(name, &text(name)?, seeds)?;
    let Some(only) = only else { return Ok(all) };
    let pattern = Pattern::new(only).map_err(|e| Error::Invalid(format!("--only {only}: {e}")))?;
    let keys: Vec<String> = all.iter().map(Chosen::key).collect();
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|c| pattern.matches(&c.key()))
        .collect();
    if chosen.is_empty() {
        return Err(Error::Invalid(format!(
            "--only {only} matches no cell of plan {name}; there are: {}",
            keys.join(", ")
        )));
    }
    Ok(chosen)
}

fn text(name: &str) -> Result<String> {
    if let Some((_, text)) = PLANS.iter().find(|(plan, _)| *plan == name) {
        return Ok((*text).to_string());
    }
    if Path::new(name).extension().is_some_and(|e| e == "toml") {
        return fs::read_to_string(name).map_err(Error::io("read", name));
    }
    Err(Error::Invalid(format!(
        "no plan is called {name}; there are: {}, or give a file that ends in .toml",
        names()
    )))
}

/// The names of all plans that come with the program.
pub fn names() -> String {
    let names: Vec<&str> = PLANS.iter().map(|(plan, _)| *plan).collect();
    names.join(", ")
}

/// What a command's help says of its plan.
pub fn help() -> String {
    format!(
        "The plan: {}, or a .toml file like those in benches/plans",
        names()
    )
}

fn expand(name: &str, text: &str, seeds: Option<u64>) -> Result<Vec<Chosen>> {
    let known = file::parse("variants", VARIANTS, &[])?.variant;
    let plan = file::parse(name, text, &known)?;
    let seeds_of = |group: &Group| seeds.unwrap_or(group.seeds.get());
    let mut cells = Vec::new();
    for seed in 1..=plan.group.iter().map(seeds_of).max().unwrap_or(0) {
        for group in plan.group.iter().filter(|g| seed <= seeds_of(g)) {
            cells.extend(group.cells(seed, &plan.variant));
        }
    }
    for cell in &mut cells {
        cell.guest_cmdline = guest_cmdline(cell);
    }
    if cells.is_empty() {
        return Err(Error::Invalid(format!("plan {name} has no [[group]]")));
    }
    let mut keys = BTreeSet::new();
    let mut all = cells.iter().map(Chosen::key);
    match all.find(|key| !keys.insert(key.clone())) {
        Some(key) => Err(Error::Invalid(format!(
            "plan {name} has {key} twice: a key tells workload, shape, round, cgroups, pinning, \
             PV, class, third party, timeline, variant and seed"
        ))),
        None => Ok(cells),
    }
}

fn guest_cmdline(cell: &Chosen) -> String {
    let line = match cell.pv {
        Pv::None => GUEST_CMDLINE_NOPV,
        Pv::Qemu | Pv::All => GUEST_CMDLINE,
    };
    let lpj = if cell.is_emulated() { EMULATED_LPJ } else { "" };
    format!("{line}{lpj}")
}

#[cfg(test)]
mod tests;
