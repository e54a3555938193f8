//! What a run leaves behind: `results.json`. docs/results.md describes every field.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use dense_record::chosen::Chosen;
use dense_record::json::sha256;
use dense_record::measured::{Facts, Measured, Timeline};
use dense_record::{Error, Result};
use serde::{Deserialize, Serialize};

/// The schema that this program writes and reads.
pub const SCHEMA_VERSION: u32 = 3;

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
pub struct Cell {
    /// What was run.
    #[serde(flatten)]
    pub chosen: Chosen,
    /// Release and version of the host's kernel.
    pub kernel: String,
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
    /// What was checked out when it ran; none outside of git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
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
    /// What is known of the host from outside.
    pub facts: Facts,
    /// What is checked out; none outside of git.
    pub commit: Option<String>,
}

impl Cell {
    /// A cell that ran.
    pub fn new(chosen: &Chosen, measured: Measured, run: Run) -> Self {
        let mut machine = measured.machine;
        machine.extend(run.facts);
        Self {
            chosen: chosen.clone(),
            kernel: measured.kernel,
            host: run.host,
            value: measured.value,
            unit: measured.unit,
            per_guest: measured.per_guest,
            guest_extras: measured.guest_extras,
            counters: measured.counters,
            window_s: measured.window_ns as f64 / 1e9,
            virtual_s: measured.host_ns as f64 / 1e9,
            wall_s: run.wall_s,
            console_sha256: sha256(run.console),
            commit: run.commit,
            machine,
            timeline: measured.timeline,
        }
    }

    /// What tells this cell from all others of a run.
    pub fn key(&self) -> String {
        self.chosen.key()
    }
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
        if found.schema_version != SCHEMA_VERSION {
            return Err(Error::Invalid(format!(
                "{}: schema version {}; this program reads {SCHEMA_VERSION}",
                path.display(),
                found.schema_version
            )));
        }
        serde_json::from_str(&text).map_err(wrong)
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
        planned: &[Chosen],
    ) -> Result<()> {
        let advice = "give another --out, or run without --resume";
        let old = &self.versions;
        let mut names = old.keys().chain(versions.keys());
        if let Some(name) = names.find(|n| old.get(*n) != versions.get(*n)) {
            let say = |v: Option<&String>| v.map_or("absent", String::as_str).to_string();
            return Err(Error::Invalid(format!(
                "the results there are of another {name} ({}, now {}): {advice}",
                say(old.get(name)),
                say(versions.get(name))
            )));
        }
        let differs = |cell: &&Chosen| {
            let same_key = |c: &&Cell| c.key() == cell.key();
            let there = self.cells.iter().find(same_key);
            there.is_some_and(|there| there.chosen != **cell)
        };
        match planned.iter().find(differs) {
            Some(cell) => Err(Error::Invalid(format!(
                "{} is there with other values of its plan: {advice}",
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
