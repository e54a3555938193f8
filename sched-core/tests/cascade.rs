//! Which vCPU a spinning vCPU yields to: a receiver, or whom the scan finds within a budget.

use proptest::prelude::*;
use sched_core::cascade::{Outcome, Reason, Vcpu, cascade};
use sched_core::ipi::{Awaited, Receivers};
use sched_core::scan::{TRIES, YieldTo};

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::cases;

/// Preempted in the kernel: what the scan takes.
const IN_KERNEL: Vcpu = Vcpu {
    ready: true,
    blocking: false,
    wants_to_run: true,
    scheduled_out: true,
    preempted: true,
    in_kernel: true,
    irqs_off: false,
    spins: false,
    dy_eligible: false,
    apicv: false,
    hardware_irq: false,
    off_since: 0,
    pir: [0; 8],
    irr: [0; 8],
    isr: [0; 8],
};

/// vCPU 0 of five spins; the scheduler refuses yields to `refuse`. Also whom was asked about.
fn run(receivers: Receivers, refuse: &[u32]) -> (Outcome, Vec<u32>) {
    let mut asked = Vec::new();
    let outcome = cascade(
        0,
        Awaited::One,
        |_| receivers,
        true,
        &mut [IN_KERNEL; 5],
        &mut 0,
        |idx, _| {
            asked.push(idx);
            match refuse.contains(&idx) {
                true => YieldTo::NotTaken,
                false => YieldTo::Taken,
            }
        },
    );
    (outcome, asked)
}

#[test]
fn receivers_come_before_the_scan() {
    let both = Receivers {
        pending: Some(4),
        in_handler: Some(3),
        running: false,
    };
    assert_eq!(run(both, &[]), (Outcome::Yielded(4, Reason::Ipi), vec![4]));
    let answer = Outcome::Yielded(3, Reason::Answer);
    assert_eq!(run(both, &[4]), (answer, vec![4, 3]));
    // Nobody else could answer.
    assert_eq!(run(both, &[4, 3]), (Outcome::Nobody, vec![4, 3]));
    let scanned = Outcome::Yielded(1, Reason::Kernel);
    assert_eq!(run(Receivers::default(), &[]), (scanned, vec![1]));
    let all = run(Receivers::default(), &[1, 2, 3, 4]);
    assert_eq!(all, (Outcome::Nobody, vec![1, 2, 3]));
}

#[test]
fn a_receiver_that_runs_ends_the_search() {
    let running = Receivers {
        running: true,
        ..Receivers::default()
    };
    assert_eq!(run(running, &[]), (Outcome::Served, vec![]));
}

#[test]
fn several_are_asked_only_where_somebody_could_run() {
    let runs = Vcpu {
        ready: false,
        ..IN_KERNEL
    };
    let mut vcpus = [IN_KERNEL, runs, runs];
    let outcome = cascade(
        0,
        Awaited::Several,
        |_| panic!("the record was asked"),
        true,
        &mut vcpus,
        &mut 0,
        |_, _| YieldTo::Taken,
    );
    assert_eq!(outcome, Outcome::Nobody);
}

#[test]
fn a_scan_begins_after_the_last_boosted_one_and_moves_it() {
    let (mut vcpus, mut last) = ([IN_KERNEL; 5], 2);
    let mut next = |receivers| {
        cascade(
            0,
            Awaited::One,
            |_| receivers,
            true,
            &mut vcpus,
            &mut last,
            |_, _| YieldTo::Taken,
        )
    };
    for idx in [3, 4, 1, 2, 3] {
        assert_eq!(
            next(Receivers::default()),
            Outcome::Yielded(idx, Reason::Kernel)
        );
    }
    // A yield to a receiver leaves the turn as it is.
    let pending = Receivers {
        pending: Some(1),
        ..Receivers::default()
    };
    assert_eq!(next(pending), Outcome::Yielded(1, Reason::Ipi));
    assert_eq!(last, 3);
}

#[test]
fn a_sleeping_thread_is_not_about_to_answer() {
    let mut vcpu = Vcpu {
        wants_to_run: true,
        ..Vcpu::default()
    };
    vcpu.irr[7] = 1 << 27;
    let running = vcpu.seen(0xfb);
    vcpu.scheduled_out = true;
    assert_ne!(vcpu.seen(0xfb), running);
    assert_eq!(vcpu.seen(0xfb), sched_core::ipi::answer::PENDING);
}

fn vcpu() -> impl Strategy<Value = Vcpu> {
    prop::array::uniform6(any::<bool>()).prop_map(|b| Vcpu {
        ready: b[0],
        preempted: b[1],
        in_kernel: b[2],
        spins: b[3],
        hardware_irq: b[4] && b[5],
        blocking: b[5],
        ..IN_KERNEL
    })
}

proptest! {
    #![proptest_config(cases(600))]

    /// Never the spinner by the scan, nobody who could not run, no more than the budget, and
    /// nothing after a yield that was taken.
    #[test]
    fn a_cascade_keeps_its_budget(
        mut vcpus in prop::collection::vec(vcpu(), 2..80), taken: u64, me in any::<prop::sample::Index>(),
        pending in prop::option::of(0..2u32), in_handler in prop::option::of(0..2u32),
    ) {
        let me = me.index(vcpus.len()) as u32;
        let before = vcpus.clone();
        let receivers = Receivers { pending, in_handler, running: false };
        let (mut asked, mut last) = (Vec::new(), 0);
        let outcome = cascade(me, Awaited::Several, |_| receivers, true, &mut vcpus, &mut last, |idx, reason| {
            asked.push((idx, reason));
            match taken >> (idx % 64) & 1 {
                1 => YieldTo::Taken,
                _ => YieldTo::Failed,
            }
        });
        let refused = asked.iter().filter(|(idx, _)| taken >> (idx % 64) & 1 == 0).count();
        prop_assert!(refused <= TRIES as usize && asked.len() - refused <= 1);
        for (idx, reason) in &asked {
            let of_scan = *reason > Reason::Answer;
            prop_assert!(!of_scan || *idx != me && before[*idx as usize].ready);
        }
        match outcome {
            Outcome::Yielded(idx, reason) => prop_assert_eq!(asked.last(), Some(&(idx, reason))),
            Outcome::Served => prop_assert!(false),
            Outcome::Nobody => prop_assert_eq!(asked.len(), refused),
        }
    }
}
