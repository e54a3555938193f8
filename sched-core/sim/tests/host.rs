//! What any host must hold, whatever runs on it.

use sched_sim::host::Host;
use sched_sim::policy::Variant;
use sched_sim::run;
use sched_sim::scenario::Scenario;

const COMPUTE: &str = r#"{ do = "compute", ns = 100_000 }"#;
const BUSY: &str = r#"{ do = "compute", ns = 50_000 }, { do = "spinlock", ns = 5_000 },
    { do = "shootdown", ns = 2_000 }, { do = "mutex", ns = 3_000, locks = 2 },
    { do = "call", ns = 1_000 }"#;

/// Of each kind one.
const NAMES: [&str; 9] = [
    "stock",
    "receiver-first",
    "penalty",
    "credit",
    "transfer",
    "vmfirst",
    "v2",
    "v3",
    "hier",
];

fn vm(count: u64, vcpus: u64, weight: u64, steps: &str) -> String {
    format!(
        "[[vm]]\ncount = {count}\nvcpus = {vcpus}\nweight = {weight}\n\
         workload = \"w\"\nsteps = [{steps}]\n"
    )
}

fn scenario(cpus: u64, layout: &str, vms: &str) -> Scenario {
    let text = format!(
        "name = \"t\"\nwindow_ms = 200\nvariants = [\"stock\"]\n\
         [host]\ncpus = {cpus}\nlayout = \"{layout}\"\n{vms}"
    );
    Scenario::parse(&text, "test").unwrap()
}

fn host_of(scenario: &Scenario, variant: &str, ms: u64) -> Host {
    let policy = Variant::named(variant, &[]).unwrap().policy().unwrap();
    let mut host = Host::new(scenario, &policy, 1);
    host.run(50_000_000);
    host.begin_window();
    host.run(ms * 1_000_000);
    host
}

fn share_of_first(vms: &[u64]) -> f64 {
    vms[0] as f64 / vms.iter().sum::<u64>() as f64
}

#[test]
fn shares_follow_weights() {
    // Flat on one CPU: threads are balanced by number.
    for (layout, cpus) in [("flat", 1), ("vm", 2), ("vcpu", 2)] {
        let vms = vm(1, 2, 100, COMPUTE) + &vm(1, 2, 300, COMPUTE);
        let host = host_of(&scenario(cpus, layout, &vms), "stock", 4_000);
        let (vms, _) = host.cpu_time();
        let share = share_of_first(&vms);
        assert!((0.24..0.26).contains(&share), "{layout}: {share}");
    }
}

#[test]
fn a_group_counts_as_one_whatever_its_size() {
    let vms = vm(1, 1, 100, COMPUTE) + &vm(1, 6, 100, COMPUTE);
    let host = host_of(&scenario(1, "vm", &vms), "stock", 4_000);
    let (vms, _) = host.cpu_time();
    assert!((0.49..0.51).contains(&share_of_first(&vms)), "{vms:?}");
}

#[test]
fn a_busy_host_has_no_idle_cpu() {
    for layout in ["flat", "vm", "vcpu"] {
        let host = host_of(
            &scenario(8, layout, &vm(3, 8, 100, COMPUTE)),
            "stock",
            1_000,
        );
        let run = host.vcpu_time()[0];
        assert_eq!(run, 8_000_000_000, "{layout}");
    }
}

#[test]
fn an_idle_cpu_takes_work_within_a_tick_or_two() {
    // Five threads on four CPUs: each leaves and comes back now and then.
    let steps = r#"{ do = "compute", ns = 20_000_000 }, { do = "sleep", ns = 1_000_000 }"#;
    let host = host_of(&scenario(4, "flat", &vm(5, 1, 100, steps)), "stock", 2_000);
    let run = host.vcpu_time()[0];
    // Demand is 5 * 20/21 CPUs; now and then less than 4 of them want to run.
    assert!(run > 7_700_000_000, "{run}");
}

#[test]
fn no_lag_is_minted_by_yields() {
    // A VM that yields as often as it can gains no CPU time from one that computes.
    for variant in NAMES {
        let vms = vm(1, 4, 100, BUSY) + &vm(1, 4, 100, COMPUTE);
        let host = host_of(&scenario(4, "vm", &vms), variant, 2_000);
        let (vms, _) = host.cpu_time();
        assert!(share_of_first(&vms) < 0.505, "{variant}: {vms:?}");
    }
}

/// Neither a turn that is passed nor a target that runs ahead takes anything from the VM that
/// yields: VMs that only compute gain nothing from one that yields all the time.
#[test]
fn who_yields_keeps_its_share() {
    let steps = r#"{ do = "kernel", ns = 60_000 }, { do = "shootdown", ns = 2_000 }"#;
    let vms = vm(1, 8, 100, steps) + &vm(3, 8, 100, COMPUTE);
    for variant in ["vmfirst", "transfer"] {
        let host = host_of(&scenario(8, "flat", &vms), variant, 2_000);
        let (vms, _) = host.cpu_time();
        let stats = host.stats();
        assert!(stats.advances > 1_000, "{variant}");
        let share = share_of_first(&vms);
        assert!((0.24..0.26).contains(&share), "{variant}, {share}: {vms:?}");
    }
}

/// VMs that all yield are even, also where queues are long.
#[test]
fn vms_that_yield_have_equal_shares() {
    let steps = r#"{ do = "compute", ns = 60_000 }, { do = "spinlock", ns = 3_000, locks = 2 },
        { do = "shootdown", ns = 2_000 }"#;
    for variant in ["vmfirst", "transfer"] {
        let scenario = scenario(8, "flat", &vm(5, 8, 100, steps));
        let host = host_of(&scenario, variant, 1_000);
        let (vms, _) = host.cpu_time();
        let least = *vms.iter().min().unwrap() as f64 / vms.iter().sum::<u64>() as f64;
        let stats = host.stats();
        assert!(stats.advances > 10_000, "{variant}");
        assert!(least > 0.97 / 5.0, "{variant}: {vms:?}");
    }
}

#[test]
fn vmf_comes_first_and_fair_keeps_its_floor() {
    let vms = vm(2, 2, 100, COMPUTE).replace("weight", "class = \"vmf\"\nweight");
    let host = host_of(
        &scenario(2, "flat", &(vms + "[hogs]\ncount = 2\n")),
        "stock",
        4_000,
    );
    let (vms, hogs) = host.cpu_time();
    for hog in hogs {
        let share = hog as f64 / 4e9;
        assert!((0.045..0.055).contains(&share), "fair has {share}");
    }
    assert!((0.49..0.51).contains(&share_of_first(&vms)), "{vms:?}");
}

#[test]
fn a_vmf_vcpu_that_wakes_up_has_a_hogs_cpu_at_once() {
    let steps = r#"{ do = "compute", ns = 100_000 }, { do = "sleep", ns = 2_000_000 }"#;
    let delay = |class: &str| {
        let vms = vm(1, 2, 100, steps).replace("weight", &format!("class = \"{class}\"\nweight"));
        let hogs = vms + "[hogs]\ncount = 2\n";
        let host = host_of(&scenario(2, "flat", &hogs), "stock", 1_000);
        host.vcpu_time()[1] / host.stats().vcpu_runs
    };
    assert_eq!(delay("vmf"), 0);
    assert!(delay("fair") > 0);
}

#[test]
fn equal_seeds_make_equal_cells() {
    let scenario = scenario(4, "flat", &vm(2, 4, 100, BUSY));
    for name in NAMES {
        let variant = Variant::named(name, &[]).unwrap();
        let policy = variant.policy().unwrap();
        let digest = |seed| run::cell(&scenario, &variant, &policy, seed).console_sha256;
        assert_eq!(digest(1), digest(1), "{name}");
        assert_ne!(digest(1), digest(2), "{name}");
    }
}

#[test]
fn results_are_read_by_the_harness() {
    let scenario = scenario(4, "flat", &vm(2, 4, 100, BUSY));
    let results = run::run(&scenario, 2, || ());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    results.save(&path).unwrap();
    let table = dense_report::table(&dense_report::results::Results::load(&path).unwrap());
    assert!(table.contains("Host: simulated"), "{table}");
}

/// CPUs, VMs, vCPUs of each, layout, variant.
type Case<'a> = (u64, u64, u64, &'a str, &'a str);

/// Hosts that once failed [`check_host`].
const FAILED: [Case; 3] = [
    // Two vCPUs of a VM on one CPU pre-empted each other by the yields of all others.
    (7, 1, 8, "flat", "transfer"),
    (7, 1, 8, "flat", "vmfirst"),
    // The same with two VMs, each with one vCPU there.
    (9, 2, 5, "flat", "vmfirst"),
];

/// CPU time is neither lost nor made: what VMs had is what CPUs gave, and nobody ran on two
/// CPUs at a time. And no VM stands still.
fn check_host(case: Case) {
    let (cpus, vms, vcpus, layout, variant) = case;
    let host = host_of(
        &scenario(cpus, layout, &vm(vms, vcpus, 100, BUSY)),
        variant,
        100,
    );
    let [run, _, spin] = host.vcpu_time();
    assert!(
        run <= cpus.min(vms * vcpus) * 100_000_000,
        "{case:?}: {run}"
    );
    assert!(spin <= run, "{case:?}");
    // Designs that may stand still: docs/simulator.md.
    let may_stop = ["receiver-first", "v2", "v3"].contains(&variant);
    let moves = may_stop || host.work().iter().all(|(_, rounds)| *rounds > 0);
    assert!(moves, "{case:?}: {:?}", host.work());
}

#[test]
fn hosts_that_once_failed_hold() {
    FAILED.into_iter().for_each(check_host);
}

/// All hosts up to 11 CPUs, 4 VMs and 8 vCPUs of each, in every layout, under every variant.
fn all_cases() -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for variant in NAMES {
        for layout in ["flat", "vm", "vcpu"] {
            for cpus in 1..12 {
                for vms in 1..5 {
                    cases.extend((1..9).map(|vcpus| (cpus, vms, vcpus, layout, variant)));
                }
            }
        }
    }
    cases
}

/// One in 211 of all, which is a prime, so that each value of each is among them. Equal
/// seeds make equal hosts, so what holds today holds tomorrow.
#[test]
fn cpu_time_is_kept_and_all_move() {
    all_cases().into_iter().step_by(211).for_each(check_host);
}

#[test]
#[ignore = "9,504 hosts, 2 minutes: after a change of a policy"]
fn cpu_time_is_kept_and_all_move_everywhere() {
    use rayon::prelude::*;
    all_cases().into_par_iter().for_each(check_host);
}
