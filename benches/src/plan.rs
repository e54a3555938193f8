//! Which cells to run: plans/*.toml, or a file of the user's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use glob::Pattern;
use serde::{Deserialize, Serialize};

use crate::spec::{CellSpec, Layout, Paths, Pinning, Pv, ThirdParty, fair};
use crate::{Error, Result, results};

mod file;
mod replay;

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
    ("cost", include_str!("../plans/cost.toml")),
    ("storm", include_str!("../plans/storm.toml")),
    ("contention", include_str!("../plans/contention.toml")),
    ("truth", include_str!("../plans/truth.toml")),
];

/// What guests' kernels are told.
const GUEST_CMDLINE: &str = "console=ttyS0 quiet tsc=reliable nokaslr panic=-1";
/// The same, and to use no paravirtual feature of KVM's.
const GUEST_CMDLINE_NOPV: &str = "console=ttyS0 quiet nopv tsc=reliable nokaslr panic=-1";
/// Loops a jiffy, where the TSC is known to run at 1 GHz and HZ is 250: measuring it takes
/// each vCPU, and one that waits for it, some 50 ms of the boot.
const EMULATED_LPJ: &str = " lpj=4000000";
/// Guests that are not ready by then never will be.
const READY_TIMEOUT_MS: u64 = 60_000;
/// On top of warm-up and window.
const FINISH_TIMEOUT_MS: u64 = 60_000;

/// The variants that every plan knows.
const VARIANTS: &str = include_str!("../plans/variants.toml");

/// The kernel that a variant's host boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKernel {
    /// Nothing but counters.
    Stock,
    /// The whole series.
    Patched,
    /// The series, and designs of others to compare it with.
    Compare,
}

impl HostKernel {
    /// Those that are ours to ship.
    pub const OURS: [Self; 2] = [Self::Stock, Self::Patched];

    /// Whether a host that runs this kernel can run variants of `wanted`.
    pub fn serves(self, wanted: Self) -> bool {
        self == wanted || (self, wanted) == (Self::Compare, Self::Patched)
    }

    /// Its name in plans and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Patched => "patched",
            Self::Compare => "compare",
        }
    }
}

/// Which host kernel, and how it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its name in results.
    pub name: String,
    /// The kernel.
    pub kernel: HostKernel,
    /// Files under /sys and /proc/sys, and what is written to them.
    pub sysfs: Vec<(PathBuf, String)>,
}

/// A cell to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which kernel, and how it is set.
    pub variant: Variant,
    /// CPUs of the host.
    pub pcpus: u32,
    /// Mean length of a round of the emulator in ns; 0 on a real host.
    pub round_ns: u64,
    /// The cell as the host gets it.
    pub spec: CellSpec,
}

impl Planned {
    /// The key of its results.
    pub fn key(&self) -> String {
        self.key_of(&self.variant.name)
    }

    /// The key of the same cell of another variant.
    pub fn key_of(&self, variant: &str) -> String {
        let spec = &self.spec;
        let shape = (spec.guests, spec.vcpus, self.pcpus);
        results::key(&spec.workload, shape, &self.options(), variant, spec.seed)
    }

    /// Whether it is for the emulated host: a real one has no rounds.
    pub fn is_emulated(&self) -> bool {
        self.round_ns > 0
    }

    /// The cell of which the host is saved when its guests have booted: the same for all
    /// of a seed that differ only in what comes later.
    pub fn boot(&self) -> Self {
        let mut boot = self.clone();
        boot.variant.name = format!("boot-{}", self.variant.kernel.name());
        boot.variant.sysfs.clear();
        boot.spec = CellSpec {
            warmup_ms: 0,
            window_ms: 1,
            finish_timeout_ms: FINISH_TIMEOUT_MS,
            cgroups: Layout::default(),
            pinning: Pinning::default(),
            third_party: ThirdParty::default(),
            timeline_ms: 0,
            sysfs: Vec::new(),
            ..boot.spec
        };
        boot
    }

    /// Memory in MiB that the host needs: guests, their disks, and itself.
    pub fn host_mem_mib(&self) -> u32 {
        768 + self.spec.guests * (self.spec.mem_mib + self.spec.disk_mib)
    }

    /// What was chosen beside the fields that results have, for their `options`.
    pub fn options(&self) -> BTreeMap<String, String> {
        let spec = &self.spec;
        let mut options: BTreeMap<String, String> = [
            ("cgroup_layout", spec.cgroups.name().to_string()),
            ("pinning", spec.pinning.name().into()),
            ("pv", spec.pv.name().into()),
            ("class", spec.class.clone()),
            ("host_kernel", self.variant.kernel.name().into()),
            ("third_party", spec.third_party.name().into()),
            ("timeline_ms", spec.timeline_ms.to_string()),
            ("guest_cmdline", spec.guest_cmdline.clone()),
            ("mem_mib", spec.mem_mib.to_string()),
            ("disk_mib", spec.disk_mib.to_string()),
            ("warmup_ms", spec.warmup_ms.to_string()),
            ("window_ms", spec.window_ms.to_string()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .into();
        if self.is_emulated() {
            let emulated = [("hz", "250"), ("instructions_per_ns", "1")];
            options.extend(emulated.map(|(name, value)| (name.into(), value.into())));
            options.insert("round_ns".into(), self.round_ns.to_string());
        }
        for (path, value) in &spec.sysfs {
            options.insert(path.display().to_string(), value.clone());
        }
        options
    }
}

/// The cells of a plan, in the order to run them: seed by seed, so that an
/// interrupted run has pairs to compare. `name` is a plan that comes with the
/// program, or the path of a file, `*.toml`.
pub fn cells(name: &str, seeds: Option<u64>, only: Option<&str>) -> Result<Vec<Planned>> {
    let all = expand(name, &text(name)?, seeds)?;
    let Some(only) = only else { return Ok(all) };
    let pattern = Pattern::new(only).map_err(|e| Error::Invalid(format!("--only {only}: {e}")))?;
    let keys: Vec<String> = all.iter().map(Planned::key).collect();
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
    let names: Vec<_> = PLANS.iter().map(|(plan, _)| *plan).collect();
    Err(Error::Invalid(format!(
        "no plan is called {name}; there are: {}, or give a file that ends in .toml",
        names.join(", ")
    )))
}

/// The variants that come with the program.
fn known() -> Result<Vec<Variant>> {
    Ok(file::parse("variants", VARIANTS, &[])?.variants)
}

fn expand(name: &str, text: &str, seeds: Option<u64>) -> Result<Vec<Planned>> {
    let groups = file::parse(name, text, &known()?)?.groups;
    let most = groups.iter().map(|g| seeds.unwrap_or(g.seeds)).max();
    let mut cells = Vec::new();
    for seed in 1..=most.unwrap_or(0) {
        for group in &groups {
            if seed <= seeds.unwrap_or(group.seeds) {
                group.cells(seed, &mut cells);
            }
        }
    }
    if cells.is_empty() {
        return Err(Error::Invalid(format!("plan {name} has no [[group]]")));
    }
    let mut keys = BTreeSet::new();
    match cells
        .iter()
        .map(Planned::key)
        .find(|k| !keys.insert(k.clone()))
    {
        Some(key) => Err(Error::Invalid(format!(
            "plan {name} has {key} twice: a key tells workload, shape, round, cgroups, pinning, \
             PV, class, variant and seed"
        ))),
        None => Ok(cells),
    }
}

impl Group {
    /// Adds a seed's cells: all combinations, variants next to one another.
    fn cells(&self, seed: u64, cells: &mut Vec<Planned>) {
        for (workload, guests) in product(&self.workloads, &self.guests) {
            for (round_ns, cgroups) in product(&self.round_ns, &self.cgroups) {
                for (pinning, pv) in product(&self.pinning, &self.pv) {
                    for (class, third_party) in product(&self.classes, &self.third_party) {
                        for variant in &self.variants {
                            let mut cell = self.cell(workload, *guests, variant);
                            cell.round_ns = *round_ns;
                            cell.spec.seed = seed;
                            cell.spec.cgroups = *cgroups;
                            cell.spec.pinning = *pinning;
                            cell.spec.class.clone_from(class);
                            cell.spec.third_party = *third_party;
                            cell.spec.pv = *pv;
                            cell.spec.guest_cmdline = guest_cmdline(*pv, *round_ns > 0);
                            cells.push(cell);
                        }
                    }
                }
            }
        }
    }

    fn cell(&self, workload: &str, guests: u32, variant: &Variant) -> Planned {
        Planned {
            variant: variant.clone(),
            pcpus: self.pcpus,
            round_ns: 0,
            spec: CellSpec {
                workload: workload.into(),
                guests,
                vcpus: self.vcpus,
                mem_mib: self.mem_mib,
                disk_mib: self.disk_mib,
                seed: 0,
                warmup_ms: self.warmup_ms,
                window_ms: self.window_ms,
                ready_timeout_ms: READY_TIMEOUT_MS,
                finish_timeout_ms: self.warmup_ms + self.window_ms + FINISH_TIMEOUT_MS,
                guest_cmdline: String::new(),
                cgroups: Layout::default(),
                pinning: Pinning::default(),
                pv: Pv::default(),
                class: fair(),
                third_party: ThirdParty::default(),
                timeline_ms: self.timeline_ms,
                sysfs: variant.sysfs.clone(),
                paths: Paths::default(),
            },
        }
    }
}

fn guest_cmdline(pv: Pv, emulated: bool) -> String {
    let line = match pv {
        Pv::None => GUEST_CMDLINE_NOPV,
        Pv::Qemu | Pv::All => GUEST_CMDLINE,
    };
    let lpj = if emulated { EMULATED_LPJ } else { "" };
    format!("{line}{lpj}")
}

/// All pairs of two lists.
fn product<'a, A, B>(a: &'a [A], b: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    a.iter().flat_map(move |x| b.iter().map(move |y| (x, y)))
}

#[cfg(test)]
mod tests;
