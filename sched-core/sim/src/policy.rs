//! What the host's kernel does with a spinning vCPU: its files under /sys, as far as they
//! bear on that.
//!
//! A variant is said as in the plans of the harness, `benches/plans/*.toml`: which kernel,
//! and what is written to its files. Their names are known here too, from the same files.

use std::collections::BTreeMap;

use dense_record::chosen::{Chosen, HostKernel};
use sched_core::debooster::{self, Tunables};
use sched_core::ipi;
use serde::Deserialize;
use toml::Spanned;

/// Plans whose variants are known by name.
const PLANS: [&str; 4] = [
    include_str!("../../../benches/plans/variants.toml"),
    include_str!("../../../benches/plans/ablation.toml"),
    include_str!("../../../benches/plans/windows.toml"),
    include_str!("../../../benches/plans/ipi.toml"),
];

/// `/sys/kernel/directed_yield/mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As stock.
    Off,
    /// One of the series.
    Ours(debooster::Mode),
    /// Comparison: penalty at the common level, limited per runqueue.
    V2,
    /// Comparison: bounded credit along the target's ancestors.
    V3,
    /// Comparison: a forfeit on each of the yielder's levels.
    Hier,
}

/// `yield_compare` of module kvm: the search of the comparison variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// The EOI of any vector answers an IPI.
    V2,
    /// The EOI of its own vector does.
    V3,
}

/// All switches of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How yielder and target settle.
    pub mode: Mode,
    /// The other files of `/sys/kernel/directed_yield`.
    pub tunables: Tunables,
    /// The receivers of a vCPU's last IPI are remembered, and yielded to first.
    pub ipi_tracking: bool,
    /// ... for so long, ns. A constant in the kernel, which only the simulator can change.
    pub ipi_window_ns: u64,
    /// The stock kernel's scan, with its fault.
    pub stock_scan: bool,
    /// Another design's search instead.
    pub compare: Option<Compare>,
}

/// A kernel and what is written to its files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name in results.
    pub name: Spanned<String>,
    /// The kernel.
    pub kernel: HostKernel,
    /// Files, and what is written to them.
    #[serde(default)]
    pub sysfs: BTreeMap<Spanned<String>, String>,
}

/// Of a plan only its variants.
#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    variant: Vec<Variant>,
}

impl Policy {
    /// A kernel as it boots.
    pub fn of(kernel: HostKernel) -> Self {
        let tunables = Tunables::default();
        let series = Self {
            mode: Mode::Ours(tunables.mode),
            tunables,
            ipi_tracking: true,
            ipi_window_ns: ipi::WINDOW_NS,
            stock_scan: false,
            compare: None,
        };
        match kernel {
            HostKernel::Stock | HostKernel::Debian => Self {
                mode: Mode::Off,
                ipi_tracking: false,
                stock_scan: true,
                ..series
            },
            HostKernel::Patched | HostKernel::Compare | HostKernel::DebianPatched => series,
        }
    }

    /// Writes `value` to the file `path`; says what is wrong with either.
    pub fn write(&mut self, path: &str, value: &str) -> Result<(), String> {
        let unknown = || format!("the simulator knows no file {path}");
        let refused = || format!("{path} does not take \"{value}\"");
        let (folder, file) = path.rsplit_once('/').ok_or_else(unknown)?;
        match folder {
            "/sys/kernel/directed_yield" => match file {
                "mode" => self.mode = mode(value).ok_or_else(refused)?,
                _ => {
                    let number = match file {
                        "granularity_ns" => &mut self.tunables.granularity_ns,
                        "pair_window_ns" => &mut self.tunables.pair_window_ns,
                        "rate_window_ns" => &mut self.tunables.rate_window_ns,
                        _ => return Err(unknown()),
                    };
                    *number = value.parse().map_err(|_| refused())?;
                    self.tunables.check()?;
                }
            },
            "/sys/kernel/debug/sched" if file == "features" => match value {
                "NO_DIRECTED_YIELD" => self.mode = Mode::Off,
                _ => return Err(refused()),
            },
            "/sys/module/kvm/parameters" => match file {
                "ipi_tracking" => self.ipi_tracking = switch(value).ok_or_else(refused)?,
                "ipi_window_ns" => {
                    let ns = value.parse().ok();
                    let ns = ns.filter(|ns| (1..=1_000_000_000).contains(ns));
                    self.ipi_window_ns = ns.ok_or_else(refused)?;
                }
                "yield_compare" => {
                    self.compare = match value {
                        "0" => None,
                        "2" => Some(Compare::V2),
                        "3" => Some(Compare::V3),
                        _ => return Err(refused()),
                    }
                }
                _ => return Err(unknown()),
            },
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

impl Variant {
    /// All names that are known without a scenario's help, best known first.
    pub fn known() -> Vec<Self> {
        let mut known: Vec<Self> = Vec::new();
        for text in PLANS {
            // The files are part of the program, and its tests read them.
            let plan = toml::from_str(text).unwrap_or(Plan {
                variant: Vec::new(),
            });
            for variant in plan.variant {
                if known
                    .iter()
                    .all(|k| k.name.as_ref() != variant.name.as_ref())
                {
                    known.push(variant);
                }
            }
        }
        known
    }

    /// The variant called `name`, of `own` or of the known ones.
    pub fn named(name: &str, own: &[Self]) -> Option<Self> {
        let is = |v: &&Self| v.name.as_ref() == name;
        let found = own.iter().find(is).cloned();
        found.or_else(|| Self::known().into_iter().find(|v| is(&v)))
    }

    /// Its kernel's switches; or what is wrong, and where in the scenario.
    pub fn policy(&self) -> Result<Policy, (std::ops::Range<usize>, String)> {
        let mut policy = Policy::of(self.kernel);
        for (path, value) in &self.sysfs {
            let written = policy.write(path.as_ref(), value);
            written.map_err(|what| (path.span(), what))?;
        }
        Ok(policy)
    }

    /// Says in a cell that it is this variant's.
    pub fn set(&self, cell: &mut Chosen) {
        let files = self.sysfs.iter();
        cell.variant.clone_from(self.name.as_ref());
        cell.host_kernel = self.kernel;
        cell.sysfs = files
            .map(|(path, v)| (path.as_ref().into(), v.clone()))
            .collect();
    }

    /// The variant that a cell had.
    pub fn of_cell(cell: &Chosen) -> Self {
        let path = |path: &std::path::Path| Spanned::new(0..0, path.display().to_string());
        let files = cell.sysfs.iter();
        Self {
            name: Spanned::new(0..0, cell.variant.clone()),
            kernel: cell.host_kernel,
            sysfs: files
                .map(|(file, value)| (path(file), value.clone()))
                .collect(),
        }
    }
}

/// As the kernel's `kstrtobool` and `%u` take them.
fn switch(value: &str) -> Option<bool> {
    match value {
        "1" | "Y" | "y" | "on" => Some(true),
        "0" | "N" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn mode(value: &str) -> Option<Mode> {
    Some(match value {
        "penalty" => Mode::Ours(debooster::Mode::Penalty),
        "credit" => Mode::Ours(debooster::Mode::Credit),
        "transfer" => Mode::Ours(debooster::Mode::Transfer),
        "lend" => Mode::Ours(debooster::Mode::Lend),
        "v2" => Mode::V2,
        "v3" => Mode::V3,
        "hier" => Mode::Hier,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plans_variants_are_known_and_mean_something() {
        let known = Variant::known();
        for name in [
            "stock",
            "vmfirst",
            "vmfirst-off",
            "transfer",
            "v2",
            "v3",
            "hier",
        ] {
            assert!(known.iter().any(|v| v.name.as_ref() == name), "{name}");
        }
        for variant in known {
            let name = variant.name.as_ref();
            let policy = variant.policy();
            assert!(policy.is_ok(), "{name}: {policy:?}");
            let mut cell = Chosen::default();
            variant.set(&mut cell);
            let of = Variant::of_cell(&cell);
            assert_eq!(of.policy(), policy, "{name} from a cell");
        }
    }

    /// A name stands for one thing only, in whatever plan.
    #[test]
    fn names_agree() {
        let known = Variant::known();
        for text in PLANS {
            let plan: Plan = toml::from_str(text).unwrap();
            for variant in plan.variant {
                let same = known
                    .iter()
                    .find(|k| k.name.as_ref() == variant.name.as_ref());
                let same = same.and_then(|k| k.policy().ok());
                assert_eq!(same, variant.policy().ok(), "{}", variant.name.as_ref());
            }
        }
    }

    #[test]
    fn with_all_switched_off_nothing_is_left_of_the_series() {
        let off = Variant::named("vmfirst-off", &[])
            .unwrap()
            .policy()
            .unwrap();
        // But for the mended scan, which has no switch.
        let mended = Policy {
            stock_scan: false,
            ..Policy::of(HostKernel::Stock)
        };
        assert_eq!(off, mended);
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let mut policy = Policy::of(HostKernel::Patched);
        for (path, value) in [
            ("/sys/kernel/directed_yield/mode", "best"),
            ("/sys/kernel/directed_yield/granularity_ns", "5"),
            ("/sys/kernel/directed_yield/handoff", "1"),
            ("/sys/kernel/debug/sched/features", "NO_EEVDF"),
            ("/sys/module/kvm/parameters/ipi_window_ns", "0"),
            ("/sys/module/kvm/parameters/yield_compare", "1"),
            ("/proc/sys/kernel/panic", "1"),
            ("nothing", "1"),
        ] {
            assert!(policy.write(path, value).is_err(), "{path} {value}");
        }
    }
}
