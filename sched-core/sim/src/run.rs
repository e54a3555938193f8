//! A scenario's cells: each variant and seed is a host of its own, on all cores of this
//! machine, written down as the harness does.

use std::collections::BTreeMap;
use std::time::Instant;

use dense_record::chosen::{Chosen, Pinning};
use dense_record::json::sha256;
use dense_record::measured::Facts;
use dense_report::results::{Cell, Results};
use rayon::prelude::*;

use crate::host::Host;
use crate::policy::{Policy, Variant};
use crate::scenario::Scenario;

/// Runs all cells of what the scenario compares. `done` is told after each.
pub fn run(scenario: &Scenario, seeds: u64, done: impl Fn() + Sync) -> Results {
    run_variants(scenario, &scenario.compared(), seeds, done)
}

/// Runs all cells of some variants.
pub fn run_variants(
    scenario: &Scenario,
    variants: &[(Variant, Policy)],
    seeds: u64,
    done: impl Fn() + Sync,
) -> Results {
    let sizes = scenario.sizes();
    let mut jobs = Vec::new();
    for size in &sizes {
        for variant in variants {
            jobs.extend((1..=seeds).map(|seed| (size, variant, seed)));
        }
    }
    let cells = jobs.par_iter().map(|(size, (variant, policy), seed)| {
        let cell = cell(size, variant, policy, *seed);
        done();
        cell
    });
    let version = format!("sched-sim {}", env!("CARGO_PKG_VERSION"));
    let versions = BTreeMap::from([("simulator".into(), version)]);
    let mut results = Results::new(scenario.name.as_ref(), versions);
    results.cells = cells.collect();
    results
}

/// How many cells [`run`] makes.
pub fn count(scenario: &Scenario, seeds: u64) -> u64 {
    scenario.sizes().len() as u64 * scenario.variants.as_ref().len() as u64 * seeds
}

/// One variant, one seed.
pub fn cell(scenario: &Scenario, variant: &Variant, policy: &Policy, seed: u64) -> Cell {
    let begin = Instant::now();
    let mut host = Host::new(scenario, policy, seed);
    let (warmup, window) = (scenario.warmup_ms.get(), scenario.window_ms.get());
    host.run(warmup * 1_000_000);
    host.begin_window();
    host.run(window * 1_000_000);
    let window_s = window as f64 / 1e3;
    let work = host.work();
    let per_guest: Vec<f64> = work.iter().map(|(_, n)| *n as f64 / window_s).collect();
    let counters = counters(&host);
    let said = format!("{work:?} {counters:?} {:?}", host.cpu_time());
    Cell {
        chosen: chosen(scenario, variant, seed, per_guest.len()),
        kernel: "model of 6.12.117".into(),
        host: "simulated".into(),
        value: per_guest.iter().sum(),
        unit: "rounds/s".into(),
        guest_extras: vec![BTreeMap::new(); per_guest.len()],
        per_guest,
        counters,
        window_s,
        virtual_s: (warmup + window) as f64 / 1e3,
        wall_s: begin.elapsed().as_secs_f64(),
        console_sha256: sha256(said.as_bytes()),
        commit: None,
        machine: machine(scenario),
        timeline: None,
    }
}

/// What was chosen, as the harness says it.
fn chosen(scenario: &Scenario, variant: &Variant, seed: u64, guests: usize) -> Chosen {
    let spec = &scenario.host;
    let vcpus = scenario.vm.first().map_or(0, |vm| vm.vcpus.as_ref().get());
    let mut chosen = Chosen {
        workload: workload(scenario),
        guests: guests as u32,
        vcpus: vcpus as u32,
        pcpus: spec.cpus.get() as u32,
        cgroups: spec.layout,
        pinning: match spec.pinned {
            true => Pinning::OneToOne,
            false => Pinning::None,
        },
        seed,
        warmup_ms: scenario.warmup_ms.get(),
        window_ms: scenario.window_ms.get(),
        ..Chosen::default()
    };
    variant.set(&mut chosen);
    chosen
}

/// What is worth knowing of the modelled host.
fn machine(scenario: &Scenario) -> Facts {
    let spec = &scenario.host;
    let facts = [
        ("scenario", scenario.name.as_ref().clone()),
        ("hz", spec.hz.get().to_string()),
        ("spin_window_ns", spec.cost.spin_window_ns.get().to_string()),
    ];
    facts.map(|(name, value)| (name.to_string(), value)).into()
}

/// The names of what runs, each once.
fn workload(scenario: &Scenario) -> String {
    let mut names: Vec<&str> = Vec::new();
    for vm in &scenario.vm {
        if !names.contains(&vm.workload.as_ref().as_str()) {
            names.push(vm.workload.as_ref());
        }
    }
    names.join("+")
}

/// By the names of docs/results.md; those of the simulator alone begin with `sim_`.
fn counters(host: &Host) -> BTreeMap<String, u64> {
    let stats = host.stats();
    let [run, delay, spin] = host.vcpu_time();
    let (vms, others) = host.cpu_time();
    let (count, ns) = stats.yield_to_run;
    let mut counters: BTreeMap<String, u64> = [
        ("spin_exits", host.spin_exits()),
        ("spin_ns", spin),
        ("halt_exits", stats.halts),
        ("yield_attempts", stats.yield_attempts),
        ("yield_hits_ipi", stats.hits_ipi),
        ("yield_hits_irq", stats.hits_irq),
        ("yield_hits_kernel", stats.hits_kernel),
        ("yield_hits_relaxed", stats.hits_relaxed),
        ("yield_same_cpu", stats.same_cpu),
        ("yield_other_cpu", stats.other_cpu),
        ("yield_to_run_count", count),
        ("yield_to_run_ns", ns),
        ("vcpu_run_ns", run),
        ("vcpu_delay_ns", delay),
        ("vcpu_runs", stats.vcpu_runs),
        ("vcpu_migrations", stats.migrations),
        ("host_context_switches", stats.switches),
        ("sim_events", stats.events),
        ("sim_ipis", stats.ipis),
        ("sim_settled", stats.settled),
        ("sim_refused", stats.refused),
        ("sim_advances", stats.advances),
        ("sim_lent", stats.lent),
        ("sim_other_run_ns", others.iter().sum()),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .into();
    let least = vms.iter().min().copied().unwrap_or(0);
    counters.insert("sim_least_vm_run_ns".into(), least);
    counters
}
