//! A cell as a results file has it, planned again.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::{Error as WordError, StrDeserializer};

use super::{FINISH_TIMEOUT_MS, HostKernel, Planned, READY_TIMEOUT_MS, Variant};
use crate::results::Cell;
use crate::spec::{CellSpec, Paths, Pv, fair};
use crate::{Error, Result};

impl Cell {
    /// The cell to run once more, from its key fields and options alone.
    pub fn planned(&self) -> Result<Planned> {
        let warmup_ms = self.number("warmup_ms")?;
        let window_ms = self.number("window_ms")?;
        let knobs = self
            .options
            .iter()
            .filter(|(name, _)| name.starts_with('/'));
        let sysfs: Vec<_> = knobs.map(|(p, v)| (PathBuf::from(p), v.clone())).collect();
        let planned = Planned {
            variant: Variant {
                name: self.variant.clone(),
                kernel: self.host_kernel()?,
                sysfs: sysfs.clone(),
            },
            pcpus: self.pcpus,
            round_ns: self.number_or("round_ns", 0)?,
            spec: CellSpec {
                workload: self.workload.clone(),
                guests: self.guests,
                vcpus: self.vcpus,
                mem_mib: self.number("mem_mib")?,
                disk_mib: self.number("disk_mib")?,
                seed: self.seed,
                warmup_ms,
                window_ms,
                ready_timeout_ms: READY_TIMEOUT_MS,
                finish_timeout_ms: warmup_ms + window_ms + FINISH_TIMEOUT_MS,
                guest_cmdline: self.option("guest_cmdline")?.into(),
                cgroups: self.word("cgroup_layout")?,
                pinning: self.word("pinning")?,
                pv: match self.option("pv")? {
                    "none (nopv)" => Pv::None,
                    _ => self.word("pv")?,
                },
                class: self.options.get("class").cloned().unwrap_or_else(fair),
                third_party: match self.options.get("third_party") {
                    Some(_) => self.word("third_party")?,
                    None => Default::default(),
                },
                timeline_ms: self.number_or("timeline_ms", 0)?,
                sysfs,
                paths: Paths::default(),
            },
        };
        planned.spec.check_values()?;
        Ok(planned)
    }

    /// The kernel; results of schema 1 tell it by the variant's name only.
    fn host_kernel(&self) -> Result<HostKernel> {
        match (self.options.get("host_kernel"), self.variant.as_str()) {
            (Some(_), _) => self.word("host_kernel"),
            (None, "stock") => Ok(HostKernel::Stock),
            (None, _) => Ok(HostKernel::Patched),
        }
    }

    fn option(&self, name: &str) -> Result<&str> {
        let value = self.options.get(name).map(String::as_str);
        value.ok_or_else(|| self.wrong(name, "is not there"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let parsed = self.option(name)?.parse();
        parsed.map_err(|_| self.wrong(name, "is no number"))
    }

    fn number_or<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.options.contains_key(name) {
            true => self.number(name),
            false => Ok(default),
        }
    }

    /// A value that plans have as a word.
    fn word<'de, T: Deserialize<'de>>(&'de self, name: &str) -> Result<T> {
        T::deserialize(StrDeserializer::<WordError>::new(self.option(name)?))
            .map_err(|e| self.wrong(name, &e.to_string()))
    }

    fn wrong(&self, name: &str, what: &str) -> Error {
        let key = self.key();
        Error::Invalid(format!(
            "{key}: its option {name} {what}: it can't be run again"
        ))
    }
}
