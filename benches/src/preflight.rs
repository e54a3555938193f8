//! Whether this host can run a plan, told in a line each: what is missing, and what
//! still works without it.

use std::fs;
use std::path::Path;

use dense_agent::trace;
use dense_record::chosen::{Chosen, HostKernel, Layout, word};
use dense_record::{Error, Result};

/// What still works on a host that can't run VMs.
const STILL: &str = "`dense-bench report` works here, and so does `cargo xtask bench`, \
                     which emulates a host";

/// What this host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Whether we are root.
    pub root: bool,
    /// Whether /dev/kvm opens.
    pub kvm: bool,
    /// Whether the processor shows hardware virtualization.
    pub hardware: bool,
    /// Memory that can be had, in MiB.
    pub free_mib: u64,
    /// CPUs that we may use.
    pub cpus: u32,
    /// Whether cgroup v2 has the CPU controller.
    pub cgroups: bool,
    /// Which of our kernels runs, if any.
    pub kernel: Option<HostKernel>,
    /// Whether tracefs is there.
    pub tracing: bool,
}

impl Host {
    /// Looks at this host.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let flags = cpuinfo.lines().find(|l| l.starts_with("flags"));
        let free = read("/proc/meminfo");
        let free = free.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
        let free_kib = free.and_then(|f| f.split_whitespace().next()?.parse::<u64>().ok());
        let controllers = read("/sys/fs/cgroup/cgroup.controllers");
        let parameters = Path::new("/sys/module/kvm/parameters");
        let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
        Self {
            root: rustix::process::geteuid().is_root(),
            kvm: kvm.is_ok(),
            hardware: flags.is_some_and(|f| f.split(' ').any(|f| f == "svm" || f == "vmx")),
            free_mib: free_kib.unwrap_or(0) / 1024,
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            cgroups: controllers.split_whitespace().any(|c| c == "cpu"),
            kernel: match () {
                () if parameters.join("yield_compare").exists() => Some(HostKernel::Compare),
                () if parameters.join("ipi_tracking").exists() => Some(HostKernel::Patched),
                () if parameters.join("yield_stats").exists() => Some(HostKernel::Stock),
                () => None,
            },
            tracing: trace::available(),
        }
    }

    /// The cells that can run here, and a line about each reason why others can't;
    /// an error if none can.
    pub fn choose(&self, planned: Vec<Chosen>) -> Result<(Vec<Chosen>, Vec<String>)> {
        self.check()?;
        let mut notes: Vec<String> = Vec::new();
        let mut chosen = Vec::new();
        for cell in planned {
            match self.missing(&cell) {
                None => chosen.push(cell),
                Some(note) if notes.contains(&note) => {}
                Some(note) => notes.push(note),
            }
        }
        match chosen.is_empty() {
            true => Err(Error::Invalid(notes.join("; "))),
            false => Ok((chosen, notes)),
        }
    }

    /// What no cell can do without.
    fn check(&self) -> Result<()> {
        let missing = match self {
            Self { root: false, .. } => "not root: VMs, groups and knobs need it (sudo)",
            Self { kvm: false, .. } => {
                "/dev/kvm does not open: load kvm_amd or kvm_intel, or enable virtualization \
                 in the firmware"
            }
            Self {
                hardware: false, ..
            } => "this processor shows neither SVM nor VMX: its KVM boots no Linux guest",
            _ => return Ok(()),
        };
        Err(Error::Invalid(format!("{missing}; {STILL}")))
    }

    /// What a cell lacks here.
    fn missing(&self, cell: &Chosen) -> Option<String> {
        let (wanted, runs) = (cell.host_kernel, self.kernel);
        let serves = runs.map_or(wanted.is_unpatched(), |runs| runs.serves(wanted));
        if !serves {
            let runs = runs.map_or("one without our tunables".into(), |kernel| word(&kernel));
            return Some(format!(
                "variants of the {} kernel are left out, as the running one is {runs}: boot it \
                 and add them by --resume",
                word(&wanted)
            ));
        }
        if cell.cgroups != Layout::Flat && !self.cgroups {
            return Some(
                "layouts vm and vcpu are left out: no cgroup v2 with the cpu controller \
                 (boot with systemd.unified_cgroup_hierarchy=1); flat works"
                    .into(),
            );
        }
        if cell.timeline_ms > 0 && !self.tracing {
            return Some("timelines are left out: no /sys/kernel/tracing/instances".into());
        }
        if cell.pcpus > self.cpus {
            return Some(format!(
                "cells on {} CPUs are left out: there are {}",
                cell.pcpus, self.cpus
            ));
        }
        let needed = u64::from(cell.host_mem_mib());
        (needed > self.free_mib).then(|| {
            let (guests, workload) = (cell.guests, &cell.workload);
            let free = self.free_mib;
            format!(
                "{guests} guests of {workload} are left out: they need {needed} MiB of memory \
                 and {free} are free"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cells;

    fn host() -> Host {
        Host {
            root: true,
            kvm: true,
            hardware: true,
            free_mib: 100_000,
            cpus: 4,
            cgroups: true,
            kernel: None,
            tracing: true,
        }
    }

    fn refusal(host: &Host) -> String {
        let error = host
            .choose(cells("smoke", None, None).unwrap())
            .unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1);
        error.to_string()
    }

    #[test]
    fn a_host_that_can_do_nothing_is_told_what_works() {
        for (host, words) in [
            (
                Host {
                    root: false,
                    ..host()
                },
                "not root",
            ),
            (
                Host {
                    kvm: false,
                    ..host()
                },
                "/dev/kvm does not open",
            ),
            (
                Host {
                    hardware: false,
                    ..host()
                },
                "neither SVM nor VMX",
            ),
        ] {
            let said = refusal(&host);
            assert!(said.contains(words), "{said}");
            assert!(said.contains("`dense-bench report` works here"), "{said}");
        }
        let poor = refusal(&Host {
            free_mib: 10,
            ..host()
        });
        assert!(poor.contains("MiB of memory and 10 are free"), "{poor}");
        let small = refusal(&Host { cpus: 2, ..host() });
        assert!(
            small.contains("cells on 4 CPUs are left out: there are 2"),
            "{small}"
        );
    }

    #[test]
    fn variants_are_those_of_the_running_kernel() {
        let variants = |kernel| {
            let host = Host { kernel, ..host() };
            let (chosen, notes) = host.choose(cells("smoke", Some(1), None).unwrap()).unwrap();
            let names = chosen.iter().map(|c| c.variant.clone());
            (names.collect::<Vec<_>>().join(" "), notes.join("; "))
        };
        let (names, notes) = variants(None);
        assert_eq!(names, "stock");
        assert!(
            notes.contains("the running one is one without our tunables"),
            "{notes}"
        );
        assert_eq!(variants(Some(HostKernel::Stock)).0, "stock");
        let (names, notes) = variants(Some(HostKernel::Patched));
        assert_eq!(names, "vmfirst vmfirst-off");
        assert!(notes.contains("variants of the stock kernel"), "{notes}");
    }

    #[test]
    fn without_cgroup_v2_flat_works() {
        let host = Host {
            cgroups: false,
            ..host()
        };
        let mut planned = cells("layouts", None, None).unwrap();
        planned.extend(cells("smoke", Some(1), Some("*/stock/*")).unwrap());
        let (chosen, notes) = host.choose(planned).unwrap();
        assert!(chosen.iter().all(|c| c.cgroups == Layout::Flat));
        assert!(notes[0].contains("flat works"), "{notes:?}");
    }
}
