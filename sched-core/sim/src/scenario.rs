//! Scenario files: the host, its VMs, what they run, and what is compared.
//!
//! docs/simulator.md has every key. A value that makes no sense is refused with its line
//! and column.

mod step;

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use checked_toml::Source;
pub use dense_record::bounded::Bounded;
pub use dense_record::chosen::Layout;
pub use step::{Action, Step};

use crate::policy::{Policy, Variant};
use crate::{Error, Result};

/// Longest time in a scenario: an hour.
const HOUR_NS: i64 = 3_600_000_000_000;
/// The most vCPUs of a VM: KVM's own limit on x86.
pub const MOST_VM_VCPUS: i64 = 1024;
/// The most vCPUs on a host.
const MOST_VCPUS: u64 = 65_536;

/// The most vCPUs of class VMF for each CPU.
const MOST_VMF: u64 = 16;

type Ns = Bounded<0, HOUR_NS>;

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Names the results.
    pub name: Spanned<String>,
    /// How long is measured, in ms of virtual time.
    pub window_ms: Bounded<1, 3_600_000>,
    /// How long runs before that, in ms.
    #[serde(default)]
    pub warmup_ms: Bounded<0, 3_600_000>,
    /// Samples a variant: seeds 1, 2, ...
    #[serde(default = "one")]
    pub seeds: Bounded<1, 10_000>,
    /// What is compared: names of [`Variant`]s.
    pub variants: Spanned<Vec<Spanned<String>>>,
    /// Variants of one's own.
    #[serde(default)]
    pub variant: Vec<Variant>,
    /// The machine.
    pub host: HostSpec,
    /// What runs on it.
    #[serde(default)]
    pub vm: Vec<VmSpec>,
    /// Ordinary threads that always compute, one a CPU.
    #[serde(default)]
    pub hogs: Option<HogSpec>,
    /// Sizes to run all of this at, instead of the one above.
    #[serde(default)]
    pub sweep: Vec<Size>,
}

/// A size of host and load.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// The host's CPUs.
    pub cpus: Bounded<1, 4096>,
    /// How many VMs of the first kind.
    pub count: Spanned<Bounded<1, 65_536>>,
}

/// The machine and its kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// CPUs.
    pub cpus: Bounded<1, 4096>,
    /// CPUs that share a cache: wake-ups and pulls look there first.
    #[serde(default = "sixteen")]
    pub llc_cpus: Bounded<1, 4096>,
    /// Ticks a second.
    #[serde(default = "hz")]
    pub hz: Bounded<24, 10_000>,
    /// Where a slice ends.
    #[serde(default)]
    pub slice_end: SliceEnd,
    /// Length of a request in ns; the kernel's default for this number of CPUs if absent.
    #[serde(default)]
    pub base_slice_ns: Option<Bounded<100_000, 1_000_000_000>>,
    /// For how long a vCPU that halts alone on its CPU is polled, at most (`halt_poll_ns`).
    #[serde(default = "halt_poll")]
    pub halt_poll_ns: Ns,
    /// How vCPUs are put into cgroups.
    #[serde(default)]
    pub layout: Layout,
    /// Where vCPUs begin.
    #[serde(default)]
    pub start: Start,
    /// Whether each vCPU has one CPU that it may run on.
    #[serde(default)]
    pub pinned: bool,
    /// Costs in ns of CPU time.
    #[serde(default)]
    pub cost: Costs,
}

/// Where a slice ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SliceEnd {
    /// At the first tick after it is used up, as without HRTICK.
    #[default]
    Tick,
    /// When it is used up.
    Exact,
}

/// Where vCPUs begin; with all CPUs busy they hardly move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Each VM's on different CPUs, as far as there are.
    #[default]
    Spread,
    /// Anywhere.
    Random,
}

/// What things cost, in ns of the CPU they happen on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// A switch to another thread, paid by the one that comes.
    pub switch_ns: Ns,
    /// An exit for pause-loop exiting, with its search.
    pub spin_exit_ns: Ns,
    /// How long a vCPU spins before it exits. 0: it never does.
    pub spin_window_ns: Ns,
    /// A look at one more vCPU in the search.
    pub look_ns: Ns,
    /// A yield that was carried out.
    pub yield_ns: Ns,
    /// To send an interrupt to one vCPU.
    pub send_ns: Ns,
    /// What a guest does in its kernel before it halts, and again when it no longer does.
    pub halt_ns: Ns,
    /// From a halted vCPU's wake-up to its first instruction, without waiting.
    pub wake_ns: Ns,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            switch_ns: Bounded::new(1_500),
            spin_exit_ns: Bounded::new(2_000),
            spin_window_ns: Bounded::new(3_000),
            look_ns: Bounded::new(5),
            yield_ns: Bounded::new(500),
            send_ns: Bounded::new(2_000),
            halt_ns: Bounded::new(0),
            wake_ns: Bounded::new(4_000),
        }
    }
}

/// VMs that are alike.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// How many.
    #[serde(default = "one_vm")]
    pub count: Spanned<Bounded<1, 65_536>>,
    /// vCPUs of each.
    pub vcpus: Spanned<Bounded<1, MOST_VM_VCPUS>>,
    /// cpu.weight of its group; in the flat layout of each vCPU.
    #[serde(default = "weight")]
    pub weight: Bounded<1, 10_000>,
    /// Its scheduling class.
    #[serde(default)]
    pub class: Class,
    /// Names its figures.
    pub workload: Spanned<String>,
    /// What each vCPU does again and again; one round is one unit of work.
    pub steps: Spanned<Vec<Spanned<Step>>>,
}

impl VmSpec {
    /// Where the file says how many there are.
    fn place(&self) -> std::ops::Range<usize> {
        match self.count.span() {
            span if span.is_empty() => self.vcpus.span(),
            span => span,
        }
    }
}

/// A scheduling class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// SCHED_OTHER.
    #[default]
    Fair,
    /// SCHED_VMF.
    Vmf,
}

/// Ordinary threads beside the VMs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HogSpec {
    /// How many; number n is pinned to CPU n modulo the CPUs.
    pub count: Bounded<1, 65_536>,
    /// cpu.weight of each.
    #[serde(default = "weight")]
    pub weight: Bounded<1, 10_000>,
}

fn one() -> Bounded<1, 10_000> {
    Bounded::new(1)
}
fn one_vm() -> Spanned<Bounded<1, 65_536>> {
    Spanned::new(0..0, Bounded::new(1))
}
fn sixteen() -> Bounded<1, 4096> {
    Bounded::new(16)
}
fn halt_poll() -> Ns {
    Bounded::new(200_000)
}
fn hz() -> Bounded<24, 10_000> {
    Bounded::new(250)
}
fn weight() -> Bounded<1, 10_000> {
    Bounded::new(100)
}

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            what: "read",
            path: path.into(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads `text`, called `name` in errors.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let source = Source { name, text };
        let scenario: Self = source.read().map_err(Error::Scenario)?;
        for size in scenario.sizes() {
            let checked = size.check();
            checked.map_err(|(span, what)| Error::Scenario(source.wrong(span, &what)))?;
        }
        Ok(scenario)
    }

    /// What is compared, in the order of the file.
    pub fn compared(&self) -> Vec<(Variant, Policy)> {
        let names = self.variants.as_ref().iter().map(|v| v.as_ref());
        let chosen = names.filter_map(|name: &String| Variant::named(name, &self.variant));
        chosen
            .filter_map(|variant| {
                let policy = variant.policy().ok()?;
                Some((variant, policy))
            })
            .collect()
    }

    /// The scenario at each of its sizes.
    pub fn sizes(&self) -> Vec<Self> {
        let sized = |size: &Size| {
            let mut one = self.clone();
            one.sweep.clear();
            one.host.cpus = size.cpus;
            if let Some(vm) = one.vm.first_mut() {
                vm.count = size.count.clone();
            }
            one
        };
        match self.sweep.is_empty() {
            true => vec![self.clone()],
            false => self.sweep.iter().map(sized).collect(),
        }
    }

    /// vCPUs of all VMs.
    pub fn vcpus(&self) -> u64 {
        let each = |vm: &VmSpec| vm.count.as_ref().get() * vm.vcpus.as_ref().get();
        self.vm.iter().map(each).sum()
    }

    /// What no single value shows.
    fn check(&self) -> std::result::Result<(), (std::ops::Range<usize>, String)> {
        if self.name.as_ref().is_empty() {
            return Err((self.name.span(), "a scenario without a name".into()));
        }
        if self.vm.is_empty() {
            return Err((0..0, "nothing runs: no [[vm]]".into()));
        }
        let variants = self.variants.as_ref();
        if variants.is_empty() {
            let what = "no variants: variants = [\"stock\", \"vmfirst\"]".into();
            return Err((self.variants.span(), what));
        }
        for (n, name) in variants.iter().enumerate() {
            if variants[..n].iter().any(|v| v.as_ref() == name.as_ref()) {
                let what = format!("\"{}\" a second time", name.as_ref());
                return Err((name.span(), what));
            }
            if Variant::named(name.as_ref(), &self.variant).is_none() {
                let known = Variant::known();
                let known: Vec<&str> = known.iter().map(|v| v.name.as_ref().as_str()).collect();
                let known = known.join(", ");
                let what = format!("no variant \"{}\"; there are {known}", name.as_ref());
                return Err((name.span(), what));
            }
        }
        for (n, variant) in self.variant.iter().enumerate() {
            variant.policy()?;
            let name = variant.name.as_ref();
            if self.variant[..n].iter().any(|v| v.name.as_ref() == name) {
                let what = format!("a second variant \"{name}\"");
                return Err((variant.name.span(), what));
            }
        }
        let (mut vcpus, mut vmf) = (0, 0);
        for vm in &self.vm {
            vcpus += vm.count.as_ref().get() * vm.vcpus.as_ref().get();
            if vcpus > MOST_VCPUS {
                let what = format!("{vcpus} vCPUs so far; at most {MOST_VCPUS} on a host");
                return Err((vm.place(), what));
            }
            if vm.class == Class::Vmf {
                vmf += vm.count.as_ref().get() * vm.vcpus.as_ref().get();
            }
            if vmf > MOST_VMF * self.host.cpus.get() {
                let what = format!("{vmf} vCPUs of class vmf so far; at most {MOST_VMF} a CPU");
                return Err((vm.place(), what));
            }
            if vm.workload.as_ref().is_empty() {
                return Err((vm.workload.span(), "a workload without a name".into()));
            }
            if vm.steps.as_ref().is_empty() {
                let what = format!("VM \"{}\" has no steps", vm.workload.as_ref());
                return Err((vm.steps.span(), what));
            }
            self.check_steps(vm)?;
        }
        Ok(())
    }

    fn check_steps(
        &self,
        vm: &VmSpec,
    ) -> std::result::Result<(), (std::ops::Range<usize>, String)> {
        for spanned in vm.steps.as_ref() {
            let step = spanned.as_ref();
            let barrier = step.action == Action::Barrier;
            if barrier && step.per_mille.get() < 1_000 {
                let what = "a barrier in some rounds only would never open".into();
                return Err((spanned.span(), what));
            }
            if step.irqs_off && step.shootdown_ns.get() > 0 {
                let what = "shootdown_ns with irqs_off: two holders would wait for each other";
                return Err((spanned.span(), what.into()));
            }
            if !barrier && step.ns.get() == 0 {
                return Err((spanned.span(), "a step without a time: ns = 10_000".into()));
            }
        }
        let takes_time = |s: &Spanned<Step>| {
            s.as_ref().per_mille.get() == 1_000 && s.as_ref().action != Action::Barrier
        };
        match vm.steps.as_ref().iter().any(takes_time) {
            true => Ok(()),
            false => Err((vm.steps.span(), "a round that takes no time".into())),
        }
    }
}
