//! `scx/bpf/policy.h`, as BPF has it, against [`sched_core::ext`], bit for bit; and what the
//! arithmetic must keep.
//!
//! `SCHED_CORE_INPUTS=10000000 cargo test --release -p sched-core --test ext` for more inputs.

use std::fs;
use std::path::Path;

/// Of this only what compares numbers is used.
#[allow(dead_code)]
mod support;

use proptest::prelude::*;
use sched_core::ext::{self, SHARE_ONE};
use support::cases::SCX_POLICY;
use support::{Case, Inputs, NARGS, Worker, count};

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::cases;

/// Inputs that show a mutant: far fewer are enough.
const MUTANT_INPUTS: usize = 100_000;

fn header() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scx/bpf/policy.h");
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_c_computes_the_same() {
    let cases: Vec<_> = SCX_POLICY.iter().collect();
    let worker = Worker::in_c(&header(), &cases, NARGS);
    for case in cases {
        let difference = worker.compare(case, &mut Inputs::new(1), count());
        assert!(difference.is_none(), "{}: {difference:#x?}", case.name);
    }
}

/// Every function of the header is compared: a new one wants a case.
#[test]
fn no_function_is_left_out() {
    let header = header();
    let functions = header
        .lines()
        .filter_map(|l| l.strip_prefix("static inline "));
    let mut found = 0;
    for line in functions {
        let name = line.split('(').next().unwrap().rsplit(' ').next().unwrap();
        assert!(SCX_POLICY.iter().any(|c| c.name == name), "{name}");
        found += 1;
    }
    assert_eq!(found, SCX_POLICY.len());
}

fn named(name: &str) -> &'static Case {
    SCX_POLICY.iter().find(|case| case.name == name).unwrap()
}

/// One constant or sign changed in either language: the comparison has to notice.
#[test]
fn a_change_is_noticed() {
    let in_c = [
        ("scx_charge", "most * SCX_SHARE_ONE", "most * 100"),
        ("scx_place", "clock - credit", "clock + credit"),
        (
            "scx_may_lend",
            "!scx_before(clock + debt, vtime)",
            "scx_before(vtime, clock + debt)",
        ),
        ("scx_floor_gap", "(1000 - mille)", "1000"),
        ("scx_burst_refill", "idle >> 2", "idle >> 3"),
        ("scx_bucket", "ns >> 10", "ns / 1000"),
    ];
    let in_rust = [
        ("scx_split", "whole.max(1)).max(1)", "whole.max(1)).max(0)"),
        ("scx_floor_hurry", "queued.max(1)", "(queued + 1)"),
    ];
    for (name, from, to) in in_c {
        let header = header();
        assert_eq!(header.matches(from).count(), 1, "{from:?}");
        let case = named(name);
        let worker = Worker::in_c(&header.replacen(from, to, 1), &[case], NARGS);
        let found = worker.compare(case, &mut Inputs::new(1), MUTANT_INPUTS);
        assert!(found.is_some(), "{name}: {to:?} is not noticed");
    }
    for (name, from, to) in in_rust {
        let worker = Worker::mutant("ext.rs", from, to, NARGS);
        let found = worker.compare(named(name), &mut Inputs::new(1), MUTANT_INPUTS);
        assert!(found.is_some(), "{name}: {to:?} is not noticed");
    }
}

/// What a lane that always waits gets beside one that always runs, in turns of these lengths.
fn floor_share(per_mille: u64, turns: &[u64]) -> (u64, u64) {
    let (mut ran, mut all) = (0, 0);
    for turn in turns {
        ran += turn;
        all += turn + ext::floor_gap(*turn, per_mille, u64::MAX);
    }
    (ran, all)
}

proptest! {
    #![proptest_config(cases(2000))]

    /// A floor is a share of the time, however long a turn lasts until a tick ends it.
    #[test]
    fn a_floor_is_kept(
        per_mille in 1..=1000u64,
        turns in prop::collection::vec(1_000_000..20_000_000u64, 1..50),
    ) {
        let (ran, all) = floor_share(per_mille, &turns);
        prop_assert!(ran * 1000 >= all * per_mille);
        // Rounding down makes each gap at most 1 ns shorter.
        prop_assert!(ran * 1000 <= (all + turns.len() as u64) * per_mille);
    }

    /// Nobody waits beyond the budget, however many wait, but for the turns themselves.
    #[test]
    fn all_of_a_queue_run_within_the_budget(
        gap in any::<u64>(), cpus in 1..1024u64, queued in 1..100_000u64,
    ) {
        let budget = 10_000_000_000;
        let each = ext::floor_hurry(gap, budget, cpus, queued);
        prop_assert!(each * queued / cpus <= budget);
    }

    /// Two vCPUs that lend each other every turn: with a third one queued in turn neither is
    /// ever further ahead of the clock than its debt and one turn.
    #[test]
    fn lending_is_bounded(
        base in any::<u64>(), turn in 1..10_000_000u64, debt in 0..10_000_000u64,
        order in prop::collection::vec(any::<bool>(), 1..300),
    ) {
        let mut pair = [base; 2];
        for first in order {
            let borrower = &mut pair[usize::from(first)];
            if ext::may_lend(*borrower, base, debt) {
                *borrower = borrower.wrapping_add(ext::charge(turn, SHARE_ONE));
            }
            prop_assert!(!ext::before(base.wrapping_add(debt + turn), *borrower));
        }
    }

    /// VMs of any sizes that split one share have the same of a CPU: the least vtime runs.
    #[test]
    fn shares_are_by_vm(sizes in prop::collection::vec(1..8u64, 2..6)) {
        let mut vcpus: Vec<(usize, u64, u64)> = Vec::new();
        for (vm, size) in sizes.iter().enumerate() {
            let share = ext::split(SHARE_ONE, 1, *size);
            vcpus.extend((0..*size).map(|_| (vm, share, 0)));
        }
        let (turn, turns) = (3_000_000, 4000);
        let mut ran = vec![0u64; sizes.len()];
        for _ in 0..turns {
            let next = vcpus.iter_mut().min_by_key(|v| v.2).unwrap();
            next.2 += ext::charge(turn, next.1);
            ran[next.0] += 1;
        }
        let fair = turns / sizes.len() as u64;
        for (vm, size) in sizes.iter().enumerate() {
            prop_assert!(ran[vm].abs_diff(fair) <= 2 * size + 8, "{ran:?} {sizes:?}");
        }
    }
}
