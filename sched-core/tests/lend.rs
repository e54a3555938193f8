//! Running ahead and passing a turn: nobody's vruntime is moved, nobody owes or is owed more
//! than a bound, who wakes up comes first, and who lends is picked again.

use proptest::prelude::*;
use sched_core::debooster::loan::{self, By, Next};
use sched_core::debooster::{self, Mode, Refusal, TaskState, Tunables, Yield};
use sched_core::eevdf::Entity;

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::{average, cases, queue, weighted_sum};

const TICK: u64 = 4_000_000;
const BASE_SLICE: u64 = 2_800_000;

/// The yielder is current and the first of all.
const Y: usize = 0;

const HOST: debooster::Host = debooster::Host {
    tick: TICK,
    base_slice: BASE_SLICE,
};

/// Who has its turn, as an index of `queue`.
fn borrower(queue: &[Entity]) -> Option<usize> {
    let to = loan::borrower(&queue[1..], &average(queue), &queue[Y], &HOST);
    to.map(|index| index + 1)
}

/// To whom Y passes its turn, with a task that woke up.
fn pass_turn(queue: &[Entity], woken: usize) -> Option<usize> {
    let curr = Entity {
        lends: loan::LENT,
        ..queue[Y]
    };
    let to = loan::pass_turn(&queue[1..], &average(queue), &curr, who_woke(woken), &HOST);
    to.map(|index| index + 1)
}

fn who_woke(who: usize) -> Option<Next> {
    let (who, by) = (who - 1, By::Woken);
    Some(Next { who, by })
}

fn may_run_ahead(queue: &[Entity], who: usize) -> bool {
    loan::may_run_ahead(
        &queue[1..],
        &average(queue),
        Some(&queue[Y]),
        who - 1,
        &HOST,
    )
}

/// Lag in virtual ns times the weight of all.
fn lag(queue: &[Entity], who: usize) -> i128 {
    let zero = queue[Y].vruntime;
    weighted_sum(queue, zero) - i128::from(queue[who].key(zero)) * total(queue)
}

fn total(queue: &[Entity]) -> i128 {
    queue.iter().map(|e| i128::from(e.load.weight())).sum()
}

/// The limit of `of` in the same unit.
fn limit(queue: &[Entity], of: usize) -> i128 {
    i128::from(loan::limit(&queue[of], &HOST)) * total(queue)
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Who runs ahead owes no more than its limit, and nobody is owed more than that.
    #[test]
    fn who_runs_ahead_is_within_the_bounds(queue in queue(2..8), who in 1..2usize) {
        let owed = (0..queue.len()).any(|i| lag(&queue, i) >= limit(&queue, who));
        let owes = lag(&queue, who) < -limit(&queue, who);
        prop_assert_eq!(may_run_ahead(&queue, who), !owed && !owes);
    }

    /// Who woke up and is eligible has the turn of who lends, and of nobody else.
    #[test]
    fn who_wakes_up_comes_first(queue in queue(3..8), woken in 1..3usize, lends: bool) {
        let (average, next) = (average(&queue), who_woke(woken));
        let owed = lag(&queue, woken) >= 0;
        let first = loan::woken(&queue[1..], &average, Some(&queue[Y]), next);
        prop_assert_eq!(first, owed.then_some(woken - 1));
        let curr = Entity { lends: u8::from(lends), ..queue[Y] };
        let runs = loan::next_may_run(&queue[1..], &average, Some(&curr), next.unwrap(), &HOST);
        prop_assert_eq!(runs, owed && lends);
        if loan::may_skip(&average, &queue[Y], &HOST) {
            let to = if owed { Some(woken) } else { borrower(&queue) };
            prop_assert_eq!(pass_turn(&queue, woken), to);
        } else {
            prop_assert_eq!(pass_turn(&queue, woken), None);
        }
    }

    /// A loan holds until a tick, then within its bounds, and past them as a hint does.
    #[test]
    fn a_loan_is_looked_at_again_after_a_tick(queue in queue(2..8), fresh: bool) {
        let average = average(&queue);
        let may = |by| {
            let next = Next { who: 0, by };
            loan::next_may_run(&queue[1..], &average, Some(&queue[Y]), next, &HOST)
        };
        prop_assert_eq!(may(By::Hint), lag(&queue, 1) >= 0);
        let within = may_run_ahead(&queue, 1);
        prop_assert_eq!(may(By::Lent { fresh }), fresh || within || may(By::Hint));
    }

    /// A wake-up preempts at once if it is owed service and Y lends, and not else.
    #[test]
    fn who_lends_gives_way(queue in queue(3..8), woken in 1..3usize, lends: bool) {
        let curr = Entity { lends: u8::from(lends), ..queue[Y] };
        let gives_way = loan::gives_way(&queue[1..], &average(&queue), &curr, woken - 1);
        prop_assert_eq!(gives_way, lends && lag(&queue, woken) >= 0);
    }

    /// A sibling that yields itself has no precedence by waking up; anybody else has.
    #[test]
    fn only_siblings_that_yield_take_turns(queue in queue(2..3), lends: bool, sibling: bool) {
        let woken = Entity { lends: u8::from(lends), ..queue[Y] };
        prop_assert_eq!(loan::takes_turns(&woken, sibling), lends && sibling);
    }

    /// Who has the turn is eligible if anybody is, and within the yielder's limit else.
    #[test]
    fn the_turn_goes_to_the_eligible_first(queue in queue(2..8)) {
        let eligible = (1..queue.len()).any(|i| lag(&queue, i) >= 0);
        match borrower(&queue) {
            Some(who) if eligible => prop_assert!(lag(&queue, who) >= 0),
            Some(who) => prop_assert!(lag(&queue, who) >= -limit(&queue, Y)),
            None => {
                let within = (1..queue.len()).any(|i| lag(&queue, i) >= -limit(&queue, Y));
                prop_assert!(!within);
            }
        }
    }

    /// However often the yielder passes its turn, nobody's claim or debt passes the bounds by
    /// more than what is run at once.
    #[test]
    fn lending_is_bounded(mut queue in queue(2..6), ran in 100_000..TICK) {
        for entity in &mut queue {
            // All begin without lag.
            (entity.vruntime, entity.deadline) = (0, entity.load.calc_delta_fair(entity.slice));
            entity.custom_slice = true;
        }
        let mut lent = 0;
        for _ in 0..300 {
            queue[Y].run(10_000, BASE_SLICE);
            let may = loan::may_skip(&average(&queue), &queue[Y], &HOST);
            let who = may.then(|| borrower(&queue)).flatten().unwrap_or(Y);
            lent += u32::from(who != Y);
            queue[who].run(ran, BASE_SLICE);
            let at_once = i128::from(queue[who].load.calc_delta_fair(ran) + 3) * total(&queue);
            let most = limit(&queue, Y) + at_once;
            prop_assert!(lag(&queue, Y) <= most, "is owed {}", lag(&queue, Y));
        }
        prop_assert!(lent > 0);
    }
}

#[test]
fn a_lone_yielder_has_nobody_to_lend_to() {
    let y = Entity::new(sched_core::weight::LoadWeight::from_nice(0), BASE_SLICE);
    assert_eq!(borrower(&[y]), None);
}

/// Nothing is settled in mode lend: no service changes hands.
#[test]
fn mode_lend_settles_nothing() {
    let level = debooster::Level {
        vlag: -1_000_000,
        load: sched_core::weight::LoadWeight::from_nice(0),
        slice: BASE_SLICE,
        queue_weight: 2048,
        alone: false,
    };
    let (from, to) = (
        [debooster::Level {
            vlag: 1_000_000,
            ..level
        }],
        [level],
    );
    let pair = Yield {
        from: &from,
        to: &to,
        gap: 2_000_000,
        n: 2,
        now: 0,
    };
    let (mut state, host) = (
        TaskState::default(),
        debooster::Host {
            tick: TICK,
            base_slice: BASE_SLICE,
        },
    );
    let tunables = Tunables {
        mode: Mode::Lend,
        ..Tunables::default()
    };
    let settled = debooster::settle(&pair, false, 1, &mut state, &tunables, &host);
    assert_eq!(settled, Err(Refusal::Mode));
    assert_eq!(state, TaskState::default());
}

/// A sibling is left alone for 10 us, another VM's task for a quarter of a slice.
#[test]
fn who_has_just_begun_is_held() {
    assert!(debooster::holds(9_999, true, &HOST) && !debooster::holds(10_000, true, &HOST));
    let quarter = BASE_SLICE / 4;
    assert!(debooster::holds(quarter - 1, false, &HOST));
    assert!(!debooster::holds(quarter, false, &HOST));
}

/// A slice of one's own that is long buys no longer debt, a short one no less than a tick.
#[test]
fn a_long_slice_buys_no_debt() {
    let load = sched_core::weight::LoadWeight::from_nice(0);
    let limit = |slice| loan::limit(&Entity::new(load, slice), &HOST);
    assert_eq!(limit(100_000_000), limit(BASE_SLICE));
    assert_eq!(limit(100_000), TICK);
}
