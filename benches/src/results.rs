//! What a run leaves behind: `results.json`. docs/results.md describes every field.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::facts::Facts;
use crate::plan::Planned;
use crate::spec::Measured;
use crate::timeline::Timeline;
use crate::{Error, Result};

/// The schema that this program writes. It reads 1 too, which lacks `failures`,
/// `machine` and `timeline`.
pub const SCHEMA_VERSION: u32 = 2;
/// The version that names the commit whose programs gave the figures.
pub const COMMIT: &str = "commit";

/// All cells of a run, with what they have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The plan's name.
    pub plan: String,
    /// Versions of what was used: emulator, kernel source, workloads.
    pub versions: BTreeMap<String, String>,
    /// The cells, in the order in which they ended.
    pub cells: Vec<Cell>,
    /// The cells that gave no result.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// A cell that gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Its key.
    pub key: String,
    /// Why, in one line.
    pub error: String,
    /// Where its console is kept.
    pub console: String,
}

/// One cell: what was run, and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// dbench, tlb-shootdown, compute, ...
    pub workload: String,
    /// stock, vmfirst, or an ablation's name.
    pub variant: String,
    /// Number of VMs.
    pub guests: u32,
    /// vCPUs of each.
    pub vcpus: u32,
    /// The host's CPUs.
    pub pcpus: u32,
    /// The sample's seed.
    pub seed: u64,
    /// The host's kernel.
    pub kernel: String,
    /// Everything else that was chosen: window, memory, knobs, round, ...
    pub options: BTreeMap<String, String>,
    /// "emulated", or the machine's own description.
    pub host: String,
    /// Work per second, all guests together.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Work per second of each guest.
    pub per_guest: Vec<f64>,
    /// What each guest counted in the window.
    pub guest_extras: Vec<BTreeMap<String, f64>>,
    /// What the host counted in the window for all guests.
    pub counters: BTreeMap<String, u64>,
    /// The window in s of the host's clock.
    pub window_s: f64,
    /// From the host's boot to the cell's end, in s of the host's clock.
    pub virtual_s: f64,
    /// What that took on a real clock, in s.
    pub wall_s: f64,
    /// SHA-256 of all that the host's console said: equal runs have equal ones.
    pub console_sha256: String,
    /// What is worth knowing of the host.
    #[serde(default)]
    pub machine: Facts,
    /// What ran where at the window's begin, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
}

/// Where and how a cell ran, beside what its host measured.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// "emulated", or the machine's own description.
    pub host: String,
    /// How long it took on a real clock, in s.
    pub wall_s: f64,
    /// All that the host's console said.
    pub console: &'a [u8],
}

impl Cell {
    /// A cell that ran.
    pub fn new(planned: &Planned, measured: Measured, run: &Run) -> Self {
        let spec = &planned.spec;
        Self {
            workload: spec.workload.clone(),
            variant: planned.variant.name.clone(),
            guests: spec.guests,
            vcpus: spec.vcpus,
            pcpus: planned.pcpus,
            seed: spec.seed,
            kernel: measured.kernel,
            options: planned.options(),
            host: run.host.clone(),
            value: measured.value,
            unit: measured.unit,
            per_guest: measured.per_guest,
            guest_extras: measured.guest_extras,
            counters: measured.counters,
            window_s: measured.window_ns as f64 / 1e9,
            virtual_s: measured.host_ns as f64 / 1e9,
            wall_s: run.wall_s,
            console_sha256: sha256(run.console),
            machine: measured.machine,
            timeline: measured.timeline,
        }
    }

    /// What tells this cell from all others of a run.
    pub fn key(&self) -> String {
        let shape = (self.guests, self.vcpus, self.pcpus);
        key(
            &self.workload,
            shape,
            &self.options,
            &self.variant,
            self.seed,
        )
    }
}

/// Options that are a part of keys when they are not as most plans have them:
/// name, that value, and what stands before it in a key.
const IN_KEYS: &[(&str, &[&str], &str)] = &[
    ("cgroup_layout", &["flat"], "cg-"),
    ("pinning", &["none"], "pin-"),
    ("pv", &["none", "none (nopv)"], "pv-"),
    ("class", &["fair"], "class-"),
    ("third_party", &["none"], "third-"),
    ("timeline_ms", &["0"], "timeline-"),
];

/// A cell's key, as `dbench/2x4on4/q3000/stock/s1`; between round and variant stands
/// what else is unusual, as `dbench/3x4on4/q3000/cg-vcpu/pin-one-to-one/stock/s1`.
pub fn key(
    workload: &str,
    (guests, vcpus, pcpus): (u32, u32, u32),
    options: &BTreeMap<String, String>,
    variant: &str,
    seed: u64,
) -> String {
    let round = options.get("round_ns").map_or("0", String::as_str);
    let unusual: String = unusual(options).map(|o| format!("/{o}")).collect();
    format!("{workload}/{guests}x{vcpus}on{pcpus}/q{round}{unusual}/{variant}/s{seed}")
}

/// The options that are not as most plans have them, as in keys.
pub fn unusual(options: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    IN_KEYS.iter().filter_map(|(name, usual, mark)| {
        let value = options.get(*name)?;
        (!usual.contains(&value.as_str())).then(|| format!("{mark}{value}"))
    })
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Results {
    /// A run without cells yet.
    pub fn new(plan: &str, versions: BTreeMap<String, String>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            plan: plan.into(),
            versions,
            cells: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let wrong = |e| Error::Invalid(format!("{}: not a results file: {e}", path.display()));
        let found: Version = serde_json::from_str(&text).map_err(wrong)?;
        if !(1..=SCHEMA_VERSION).contains(&found.schema_version) {
            return Err(Error::Invalid(format!(
                "{}: schema version {}; this program reads 1 to {SCHEMA_VERSION}",
                path.display(),
                found.schema_version
            )));
        }
        let results: Self = serde_json::from_str(&text).map_err(wrong)?;
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            ..results
        })
    }

    /// Reads files, or folders with a `results.json`, as one: the shards of a run. They
    /// must be of the same plan and versions; a cell may be in one only.
    pub fn load_all(paths: &[PathBuf]) -> Result<Self> {
        let mut all: Option<Self> = None;
        for path in paths {
            let file = match path.is_dir() {
                true => path.join("results.json"),
                false => path.clone(),
            };
            let more = Self::load(&file)?;
            match &mut all {
                None => all = Some(more),
                Some(all) => all
                    .add(more)
                    .map_err(|e| Error::Invalid(format!("{}: {e}", file.display())))?,
            }
        }
        all.ok_or_else(|| Error::Invalid("no results file is given".into()))
    }

    fn add(&mut self, more: Self) -> Result<()> {
        if (&self.plan, &self.versions) != (&more.plan, &more.versions) {
            let what = "of another plan or other versions than the first: compare them instead";
            return Err(Error::Invalid(what.into()));
        }
        if let Some(cell) = more.cells.iter().find(|c| self.has(&c.key())) {
            let key = cell.key();
            return Err(Error::Invalid(format!("{key} is in another file too")));
        }
        self.failures.retain(|f| !more.has(&f.key));
        let failures = more.failures.into_iter().filter(|f| !self.has(&f.key));
        self.failures.extend(failures.collect::<Vec<_>>());
        self.cells.extend(more.cells);
        Ok(())
    }

    /// Writes the file; it is complete or as before, whatever happens meanwhile.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(e.to_string()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".results")
            .tempfile_in(folder)
            .map_err(Error::io("write to", folder))?;
        file.write_all(json.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                file.as_file().set_permissions(mode)
            })
            .map_err(Error::io("write", path))?;
        file.persist(path)
            .map_err(|e| Error::io("write", path)(e.error))?;
        Ok(())
    }

    /// Checks that more cells of a plan can be added: that what is there was made
    /// with the same versions, and the same cells with the same options.
    pub fn check_resume(
        &self,
        versions: &BTreeMap<String, String>,
        planned: &[Planned],
    ) -> Result<()> {
        let advice = "give another --out, or run without --resume";
        let old = &self.versions;
        // A commit that leaves all others as they are changes no figure.
        let names = old.keys().chain(versions.keys()).filter(|n| *n != COMMIT);
        if let Some(name) = names.into_iter().find(|n| old.get(*n) != versions.get(*n)) {
            let say = |v: Option<&String>| v.map_or("absent", String::as_str).to_string();
            return Err(Error::Invalid(format!(
                "the results there are of another {name} ({}, now {}): {advice}",
                say(old.get(name)),
                say(versions.get(name))
            )));
        }
        let differs = |cell: &&Planned| {
            let same_key = |c: &&Cell| c.key() == cell.key();
            let there = self.cells.iter().find(same_key);
            there.is_some_and(|there| there.options != cell.options())
        };
        match planned.iter().find(differs) {
            Some(cell) => Err(Error::Invalid(format!(
                "{} is there with other options: {advice}",
                cell.key()
            ))),
            None => Ok(()),
        }
    }

    /// Whether the cell with this key is there.
    pub fn has(&self, key: &str) -> bool {
        self.cells.iter().any(|cell| cell.key() == key)
    }
}

#[cfg(test)]
pub(crate) mod tests;
