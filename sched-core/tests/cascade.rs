//! Whom a spinning vCPU yields to: the ranks one by one, and the walk against its
//! definition.

use proptest::prelude::*;
use sched_core::cascade::{Outcome, Rank, Ranks, Vcpu, WALK, cascade, walk};
use sched_core::ipi::Awaited;

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::cases;

const TIMER: u8 = 0xec;

/// Preempted in user mode at `off_since`.
fn preempted(off_since: u64) -> Vcpu {
    Vcpu {
        ready: true,
        preempted: true,
        wants_to_run: true,
        timer_vector: TIMER,
        off_since,
        ..Vcpu::default()
    }
}

fn in_kernel(off_since: u64) -> Vcpu {
    Vcpu {
        in_kernel: true,
        ..preempted(off_since)
    }
}

fn with_irq(vcpu: Vcpu, vector: u8) -> Vcpu {
    let mut vcpu = vcpu;
    vcpu.irr[usize::from(vector / 32)] |= 1 << (vector % 32);
    vcpu
}

fn irqs_off(vcpu: Vcpu) -> Vcpu {
    Vcpu {
        irqs_off: true,
        ..vcpu
    }
}

/// All yields are taken but those to `refuse`.
fn run(vcpus: &[Vcpu], awaited: Awaited, ranks: Ranks, refuse: &[u32]) -> Outcome {
    let take = |idx: u32, _| !refuse.contains(&idx);
    cascade(0, awaited, true, vcpus, &mut 0, ranks, take)
}

/// vCPU 0 spins; 1 to 6 are one of each kind, the worst first.
fn one_of_each() -> (Vec<Vcpu>, Awaited) {
    let vcpus = vec![
        Vcpu::default(),
        preempted(1),
        in_kernel(2),
        irqs_off(in_kernel(3)),
        with_irq(preempted(4), 0xfd),
        irqs_off(in_kernel(5)),
        with_irq(in_kernel(6), 0xfb),
    ];
    let awaited = Awaited {
        pending: Some(6),
        answering: Some(5),
        running: false,
    };
    (vcpus, awaited)
}

#[test]
fn the_ranks_are_tried_best_first() {
    let (vcpus, awaited) = one_of_each();
    let all = Ranks::default();
    let order = [
        (6, Rank::Ipi),
        (5, Rank::Answer),
        (4, Rank::Irq),
        (3, Rank::IrqsOff),
        (2, Rank::Kernel),
        (1, Rank::Relaxed),
    ];
    let mut refused = Vec::new();
    for (idx, rank) in order {
        assert_eq!(
            run(&vcpus, awaited, all, &refused),
            Outcome::Yielded(idx, rank)
        );
        refused.push(idx);
    }
    assert_eq!(run(&vcpus, awaited, all, &refused), Outcome::Scan);
}

#[test]
fn a_rank_that_is_off_is_passed_over() {
    let (vcpus, awaited) = one_of_each();
    let only = |rank: Rank| {
        let without = |ranks: Ranks, r: &Rank| match *r == rank {
            true => ranks,
            false => ranks.without(*r),
        };
        Rank::ALL.iter().fold(Ranks::default(), without)
    };
    for rank in Rank::ALL {
        let Outcome::Yielded(_, found) = run(&vcpus, awaited, only(rank), &[]) else {
            panic!("{rank:?} alone finds nobody");
        };
        assert_eq!(found, rank);
    }
}

#[test]
fn who_is_served_needs_no_yield() {
    let (vcpus, _) = one_of_each();
    let served = Awaited {
        running: true,
        ..Awaited::default()
    };
    assert_eq!(run(&vcpus, served, Ranks::default(), &[]), Outcome::Served);
    // The bit after the ranks' is for that: without it the walk goes on.
    let Outcome::Yielded(4, Rank::Irq) = run(&vcpus, served, Ranks(0x3f), &[]) else {
        panic!("the walk is spared");
    };
    // Somebody else who is waited for can be helped: that comes first.
    let both = Awaited {
        pending: Some(6),
        ..served
    };
    assert_eq!(
        run(&vcpus, both, Ranks::default(), &[]),
        Outcome::Yielded(6, Rank::Ipi)
    );
}

#[test]
fn only_who_is_on_its_way_counts_as_running() {
    let mut vcpu = Vcpu {
        wants_to_run: true,
        ..Vcpu::default()
    };
    assert!(vcpu.running());
    vcpu.blocking = true;
    assert!(!vcpu.running(), "it halts");
    vcpu = Vcpu::default();
    assert!(!vcpu.running(), "its thread is not in KVM_RUN");
}

#[test]
fn a_spinner_in_user_mode_has_no_walk() {
    let (vcpus, awaited) = one_of_each();
    let user = |awaited| {
        let ranks = Ranks::default();
        cascade(0, awaited, false, &vcpus, &mut 0, ranks, |_, _| true)
    };
    assert_eq!(user(awaited), Outcome::Yielded(6, Rank::Ipi));
    assert_eq!(user(Awaited::default()), Outcome::Scan);
}

#[test]
fn a_walk_begins_after_the_last_boosted_one_and_moves_it() {
    let vcpus = vec![in_kernel(7); 5];
    let mut last = 2;
    let ranks = Ranks::default();
    let mut next = || {
        let none = Awaited::default();
        cascade(0, none, true, &vcpus, &mut last, ranks, |_, _| true)
    };
    // Off since the same time: the first in turn. Never the spinner itself.
    for idx in [3, 4, 1, 2, 3] {
        assert_eq!(next(), Outcome::Yielded(idx, Rank::Kernel));
    }
    // A yield to who is waited for leaves the turn as it is.
    let awaited = Awaited {
        pending: Some(1),
        ..Awaited::default()
    };
    cascade(0, awaited, true, &vcpus, &mut last, ranks, |_, _| true);
    assert_eq!(last, 3);
}

#[test]
fn an_own_timer_and_interrupts_off_speak_for_nobody() {
    assert_eq!(with_irq(in_kernel(0), TIMER).rank(), Rank::Kernel);
    assert_eq!(with_irq(irqs_off(in_kernel(0)), 0xfd).rank(), Rank::IrqsOff);
    let busy = Vcpu {
        priority: 0xf0,
        ..with_irq(in_kernel(0), 0xfd)
    };
    assert_eq!(busy.rank(), Rank::Kernel, "of the class that it handles");
    let woken = Vcpu {
        preempted: false,
        ..with_irq(preempted(0), 0xfd)
    };
    let found = walk(0, &[Vcpu::default(), woken], 0);
    assert_eq!(found[Rank::Irq as usize], Some(1));
}

fn vcpu() -> impl Strategy<Value = Vcpu> {
    let bits = prop::array::uniform8(any::<bool>());
    let vector = prop_oneof![Just(TIMER), Just(0xfd), Just(0x31), any::<u8>()];
    let vectors = prop::collection::vec(vector, 0..3);
    (bits, vectors, any::<u8>(), 0..4u64).prop_map(|(b, vectors, priority, off_since)| {
        let vcpu = Vcpu {
            ready: b[0] || b[7],
            preempted: b[1] || b[7],
            in_kernel: b[2],
            irqs_off: b[3],
            spins: b[4],
            hardware_irq: b[5] && b[6],
            blocking: b[6],
            wants_to_run: true,
            timer_vector: TIMER,
            priority,
            off_since,
            ..Vcpu::default()
        };
        vectors.into_iter().fold(vcpu, with_irq)
    })
}

/// By its definition: some vector but the timer's own is pending, the highest of them is of
/// a higher class than what it does.
fn deliverable(vcpu: &Vcpu) -> bool {
    let pending =
        |v: &u8| *v != vcpu.timer_vector && vcpu.irr[usize::from(*v) / 32] >> (*v % 32) & 1 == 1;
    let highest = (0..=u8::MAX).filter(pending).max();
    vcpu.hardware_irq || highest.is_some_and(|v| v / 16 > vcpu.priority / 16)
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn deliverable_is_what_it_says(vcpu in vcpu()) {
        prop_assert_eq!(vcpu.deliverable(), deliverable(&vcpu));
    }

    /// The walk finds, of each rank, who of the next 64 is off for longest, the first of
    /// equals; never the spinner, nobody who runs, and of spinners only those with an
    /// interrupt.
    #[test]
    fn a_walk_is_what_it_says(
        vcpus in prop::collection::vec(vcpu(), 1..150), me in any::<prop::sample::Index>(),
        last in any::<prop::sample::Index>(),
    ) {
        let n = vcpus.len();
        let (me, last) = (me.index(n), last.index(n));
        let turn: Vec<usize> = (1..=n.min(WALK)).map(|step| (last + step) % n).collect();
        let found = walk(me as u32, &vcpus, last as u32);
        for rank in Rank::ALL {
            let fits = |idx: &&usize| {
                let vcpu = &vcpus[**idx];
                **idx != me && vcpu.ready && vcpu.rank() == rank
                    && (rank == Rank::Irq || vcpu.preempted && !vcpu.spins)
            };
            let best = turn.iter().filter(fits).min_by_key(|idx| vcpus[**idx].off_since);
            prop_assert_eq!(found[rank as usize], best.map(|idx| *idx as u32), "{:?}", rank);
        }
    }

    /// Whatever the scheduler takes: a target is asked about once for each reason, a better
    /// reason first, and nothing is asked after a yield that was taken.
    #[test]
    fn a_cascade_asks_best_first(
        vcpus in prop::collection::vec(vcpu(), 2..80), takes in any::<u64>(), bits in 0..128u32,
        pending in prop::option::of(1..2u32), running: bool,
    ) {
        let awaited = Awaited { pending, answering: None, running };
        let (mut asked, mut last) = (Vec::new(), 0);
        let outcome = cascade(0, awaited, true, &vcpus, &mut last, Ranks(bits), |idx, rank| {
            asked.push((rank, idx));
            takes >> (rank as u32) & 1 == 1
        });
        prop_assert!(asked.windows(2).all(|two| two[0].0 < two[1].0), "{:?}", asked);
        let takes = |rank: Rank| takes >> (rank as u32) & 1 == 1;
        let taken: Vec<_> = asked.iter().filter(|(rank, _)| takes(*rank)).collect();
        match outcome {
            Outcome::Yielded(idx, rank) => {
                prop_assert_eq!(asked.last(), Some(&(rank, idx)));
                prop_assert_eq!(taken.len(), 1);
                prop_assert!(bits >> (rank as u32) & 1 == 1);
                prop_assert_eq!(last, if rank < Rank::Irq { 0 } else { idx });
            }
            Outcome::Served => prop_assert!(running && bits & 64 != 0 && taken.is_empty()),
            Outcome::Scan => prop_assert!(taken.is_empty() && last == 0),
        }
    }
}
