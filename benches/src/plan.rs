//! Which cells to run: plans/*.toml, or a file of the user's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use glob::Pattern;
use serde::Deserialize;

use crate::spec::{CellSpec, Paths};
use crate::{Error, Result, results};

/// The plans that come with the program.
const PLANS: &[(&str, &str)] = &[
    ("quick", include_str!("../plans/quick.toml")),
    ("smoke", include_str!("../plans/smoke.toml")),
    ("rounds", include_str!("../plans/rounds.toml")),
    ("cost", include_str!("../plans/cost.toml")),
];

/// What guests get on top of a plan's own words. `nopv` hides KVM's paravirtual
/// features; what is left of them is the same for every guest.
const GUEST_CMDLINE: &str = "console=ttyS0 quiet nopv tsc=reliable nokaslr panic=-1";
/// Guests that are not ready by then never will be.
const READY_TIMEOUT_MS: u64 = 60_000;
/// On top of warm-up and window.
const FINISH_TIMEOUT_MS: u64 = 60_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    group: Vec<Group>,
}

/// Cells that differ in variant, round and seed only.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    workload: String,
    guests: u32,
    vcpus: u32,
    pcpus: u32,
    mem_mib: u32,
    disk_mib: u32,
    warmup_ms: u64,
    window_ms: u64,
    variants: Vec<Variant>,
    round_ns: Vec<u64>,
    seeds: u64,
}

/// Which host kernel, and how it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The kernel with nothing but counters.
    Stock,
    /// The whole series with its defaults.
    Vmfirst,
    /// The whole series with everything off: must behave as stock.
    VmfirstOff,
}

impl Variant {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Vmfirst => "vmfirst",
            Self::VmfirstOff => "vmfirst-off",
        }
    }

    fn sysfs(self) -> Vec<(std::path::PathBuf, String)> {
        let tracking = |on: &str| {
            vec![(
                "/sys/module/kvm/parameters/ipi_tracking".into(),
                on.to_string(),
            )]
        };
        match self {
            Self::Stock => Vec::new(),
            Self::Vmfirst => tracking("Y"),
            Self::VmfirstOff => tracking("N"),
        }
    }
}

/// A cell to run in the emulated host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which kernel, and how it is set.
    pub variant: Variant,
    /// CPUs of the host.
    pub pcpus: u32,
    /// Mean length of a round of the emulator in ns.
    pub round_ns: u64,
    /// The cell as the host gets it.
    pub spec: CellSpec,
}

impl Planned {
    /// The key of its results.
    pub fn key(&self) -> String {
        results::key(
            &self.spec.workload,
            (self.spec.guests, self.spec.vcpus, self.pcpus),
            &self.round_ns.to_string(),
            self.variant.name(),
            self.spec.seed,
        )
    }

    /// Memory in MiB that the host needs: guests, their disks, and itself.
    pub fn host_mem_mib(&self) -> u32 {
        768 + self.spec.guests * (self.spec.mem_mib + self.spec.disk_mib)
    }

    /// What was chosen beside the fields that results have, for their `options`.
    pub fn options(&self) -> BTreeMap<String, String> {
        let spec = &self.spec;
        let mut options: BTreeMap<String, String> = [
            ("cgroup_layout", "flat".to_string()),
            ("pinning", "none".into()),
            ("pv", "none (nopv)".into()),
            ("guest_cmdline", spec.guest_cmdline.clone()),
            ("hz", "250".into()),
            ("instructions_per_ns", "1".into()),
            ("round_ns", self.round_ns.to_string()),
            ("mem_mib", spec.mem_mib.to_string()),
            ("disk_mib", spec.disk_mib.to_string()),
            ("warmup_ms", spec.warmup_ms.to_string()),
            ("window_ms", spec.window_ms.to_string()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .into();
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

fn expand(name: &str, text: &str, seeds: Option<u64>) -> Result<Vec<Planned>> {
    let file: File = toml::from_str(text)
        .map_err(|e| Error::Invalid(format!("plan {name}: {}", e.to_string().trim())))?;
    for (number, group) in (1..).zip(&file.group) {
        let wrong = |e| Error::Invalid(format!("plan {name}, group {number}: {e}"));
        group.check().map_err(wrong)?;
    }
    let most = file.group.iter().map(|g| seeds.unwrap_or(g.seeds)).max();
    let mut cells = Vec::new();
    for seed in 1..=most.unwrap_or(0) {
        for group in &file.group {
            if seed <= seeds.unwrap_or(group.seeds) {
                cells.extend(group.cells(seed));
            }
        }
    }
    let mut keys = BTreeSet::new();
    match cells
        .iter()
        .map(Planned::key)
        .find(|k| !keys.insert(k.clone()))
    {
        Some(key) => Err(Error::Invalid(format!(
            "plan {name} has {key} twice: cells differ in workload, shape, round, variant or seed"
        ))),
        None => Ok(cells),
    }
}

impl Group {
    /// Checks all numbers, so that whatever is computed from them is in range.
    fn check(&self) -> Result<()> {
        for (name, value, most) in [
            ("pcpus", u64::from(self.pcpus), 255),
            ("seeds", self.seeds, 1000),
            ("variants", self.variants.len() as u64, 16),
            ("round_ns", self.round_ns.len() as u64, 16),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::Invalid(format!(
                    "{name}: from 1 to {most}, not {value}"
                )));
            }
        }
        if let Some(round) = self
            .round_ns
            .iter()
            .find(|r| !(100..=1_000_000).contains(*r))
        {
            return Err(Error::Invalid(format!(
                "round_ns = {round}: it is from 100 to 1000000"
            )));
        }
        self.cells(1).try_for_each(|cell| {
            cell.spec.check_values()?;
            let host = u64::from(cell.spec.guests)
                * (u64::from(cell.spec.mem_mib) + u64::from(cell.spec.disk_mib));
            if host > 1 << 20 {
                return Err(Error::Invalid(format!(
                    "the guests' memory and disks are {host} MiB: a host has at most 1048576"
                )));
            }
            Ok(())
        })
    }

    fn cells(&self, seed: u64) -> impl Iterator<Item = Planned> {
        self.round_ns.iter().flat_map(move |&round_ns| {
            let variants = self.variants.iter();
            variants.map(move |&variant| self.cell(variant, round_ns, seed))
        })
    }

    fn cell(&self, variant: Variant, round_ns: u64, seed: u64) -> Planned {
        Planned {
            variant,
            pcpus: self.pcpus,
            round_ns,
            spec: CellSpec {
                workload: self.workload.clone(),
                guests: self.guests,
                vcpus: self.vcpus,
                mem_mib: self.mem_mib,
                disk_mib: self.disk_mib,
                seed,
                warmup_ms: self.warmup_ms,
                window_ms: self.window_ms,
                ready_timeout_ms: READY_TIMEOUT_MS,
                finish_timeout_ms: self
                    .warmup_ms
                    .saturating_add(self.window_ms)
                    .saturating_add(FINISH_TIMEOUT_MS),
                guest_cmdline: GUEST_CMDLINE.into(),
                sysfs: variant.sysfs(),
                paths: Paths::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_expands_to_cells_of_different_keys() {
        for (name, _) in PLANS {
            let cells = cells(name, None, None).unwrap();
            assert!(!cells.is_empty());
            let mut keys: Vec<_> = cells.iter().map(Planned::key).collect();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), cells.len(), "{name}");
        }
    }

    #[test]
    fn cells_can_be_chosen() {
        let chosen = cells("quick", Some(2), Some("dbench/*/stock/*")).unwrap();
        let keys: Vec<_> = chosen.iter().map(Planned::key).collect();
        assert_eq!(
            keys,
            [
                "dbench/2x4on4/q3000/stock/s1",
                "dbench/2x4on4/q3000/stock/s2"
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let error = cells("nope", None, None).unwrap_err().to_string();
        assert!(error.contains("quick"), "{error}");
        let error = cells("smoke", None, Some("nope*")).unwrap_err().to_string();
        assert!(error.contains("/stock/s1"), "{error}");
    }

    #[test]
    fn a_wrong_plan_is_told_with_its_place() {
        let error = expand("x", "[[group]]\nworkload = 1\n", None).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        let error = expand("x", "[[group]]\nnonsense = 1\n", None).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        let smoke = text("smoke").unwrap();
        for (from, to, words) in [
            ("\"stock\"", "\"stok\"", "unknown variant `stok`"),
            ("guests = 2", "guests = 0", "group 1: guests = 0"),
            ("guests = 2", "guests = -1", "line"),
            ("seeds = 2", "seeds = 0", "seeds: from 1"),
            ("[3000]", "[3000, 3000]", "/q3000/stock/s1 twice"),
            ("[3000]", "[1]", "round_ns = 1:"),
            ("mem_mib = 128", "mem_mib = 1000000", "at most 1048576"),
            (
                "window_ms = 100",
                "window_ms = 9223372036854775807",
                "window_ms",
            ),
        ] {
            assert!(smoke.contains(from), "{from}");
            let error = expand("x", &smoke.replace(from, to), None).unwrap_err();
            assert!(error.to_string().contains(words), "{to}: {error}");
        }
    }

    #[test]
    fn a_plan_can_be_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        fs::write(&path, text("smoke").unwrap()).unwrap();
        let mine = cells(path.to_str().unwrap(), None, None).unwrap();
        assert_eq!(mine, cells("smoke", None, None).unwrap());
        let error = cells("/nowhere/mine.toml", None, None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/mine.toml"), "{error}");
    }
}
