//! Lending a turn: nobody's vruntime is moved, nobody owes more than a bound, and who lends
//! is picked again.

use proptest::prelude::*;
use sched_core::debooster::{self, Mode, Refusal, TaskState, Tunables, Yield};
use sched_core::eevdf::{self, Average, Entity, Pick};

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::{average, cases, queue, weighted_sum};

const TICK: u64 = 4_000_000;
const BASE_SLICE: u64 = 2_800_000;

/// The yielder is current and the first of all.
const Y: usize = 0;

/// To whom it lends, as an index of `queue`.
fn borrower(queue: &[Entity], buddy: Option<usize>) -> Option<usize> {
    let mut average = average(queue);
    let buddy = buddy.map(|who| who - 1);
    let to = debooster::borrower(&queue[1..], &mut average, &queue[Y], buddy, TICK);
    to.map(|index| index + 1)
}

/// Lag as service, ns, rounded down.
fn lag(queue: &[Entity], who: usize) -> i128 {
    let zero = queue[Y].vruntime;
    let total: i128 = queue.iter().map(|e| i128::from(e.load.weight())).sum();
    let (w, key) = (queue[who].load.weight(), queue[who].key(zero));
    let lag = weighted_sum(queue, zero) - i128::from(key) * total;
    (i128::from(w) * lag).div_euclid(total * 1024)
}

fn limit(entity: &Entity) -> i128 {
    i128::from(debooster::limit(entity.slice, TICK))
}

/// The tree and the current entity of `queue`, who has left if `curr` is `None`.
fn pick(queue: &[Entity], average: &Average, curr: Option<&Entity>) -> Option<Pick> {
    eevdf::pick(&queue[1..], average, curr)
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Who borrows is who would run if the yielder slept, and owes less than a slice or a
    /// tick. If nobody may, then because the yielder is the one who is owed.
    #[test]
    fn the_next_one_borrows_within_its_bound(queue in queue(2..8)) {
        let average = average(&queue);
        let Some(Pick::Queued(next)) = pick(&queue, &average, None) else {
            return Err(TestCaseError::fail("nobody is next"));
        };
        match borrower(&queue, None) {
            Some(who) => {
                prop_assert_eq!(who, next + 1);
                prop_assert!(lag(&queue, who) >= -limit(&queue[who]) - 2);
            }
            None => {
                prop_assert!(lag(&queue, next + 1) <= 2 - limit(&queue[next + 1]));
                prop_assert!(average.eligible(Some(&queue[Y]), queue[Y].vruntime));
            }
        }
    }

    /// A buddy that is there already comes first, within the same bound.
    #[test]
    fn a_buddy_borrows_first(queue in queue(3..8), buddy in 1..3usize) {
        match borrower(&queue, Some(buddy)) {
            Some(who) => prop_assert_eq!(who, buddy),
            None => prop_assert!(lag(&queue, buddy) <= 2 - limit(&queue[buddy])),
        }
    }

    /// However often the yielder lends, nobody's debt passes a slice or a tick by more than
    /// what it ran at once, and the yielder, who keeps what it is owed, runs again.
    #[test]
    fn lending_is_bounded(mut queue in queue(2..6), ran in 100_000..TICK) {
        for entity in &mut queue {
            // All begin without lag.
            (entity.vruntime, entity.deadline) = (0, entity.load.calc_delta_fair(entity.slice));
            entity.custom_slice = true;
        }
        let (mut lent, mut kept) = (0, 0);
        for _ in 0..300 {
            queue[Y].run(10_000, BASE_SLICE);
            let who = borrower(&queue, None).unwrap_or(Y);
            if who == Y {
                kept += 1;
            } else {
                lent += 1;
            }
            queue[who].run(ran, BASE_SLICE);
            for (who, entity) in queue.iter().enumerate().skip(1) {
                let most = limit(entity) + i128::from(ran) + 3;
                prop_assert!(lag(&queue, who) >= -most, "{who} owes {}", lag(&queue, who));
            }
        }
        prop_assert!(lent > 0);
        // What the others have run beyond their part is debt, and theirs together is bounded.
        let weight = |e: &Entity| i128::from(e.load.weight());
        let (w, total): (_, i128) = (weight(&queue[Y]), queue.iter().map(weight).sum());
        let debt = 300 * (i128::from(ran) * w - 10_000 * (total - w)) / total;
        let most: i128 = queue.iter().skip(1).map(|e| limit(e) + i128::from(ran) + 3).sum();
        prop_assert!(kept > 0 || debt <= most, "{debt}, at most {most}");
    }
}

#[test]
fn a_lone_yielder_has_nobody_to_lend_to() {
    let y = Entity::new(sched_core::weight::LoadWeight::from_nice(0), BASE_SLICE);
    assert_eq!(borrower(&[y], None), None);
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

/// Two that yield to and fro forfeit from the turn on that is asked for, each of them; after a
/// pause, or with somebody else, they begin anew.
#[test]
fn turns_to_and_fro_are_up() {
    let tunables = Tunables {
        lend_turns: 3,
        ..Tunables::default()
    };
    let mut states = [TaskState::default(); 3];
    let mut yields = |from: usize, to: usize, now| {
        let other = states[to];
        states[from].turns_are_up(from as u64, to as u64, &other, now, &tunables)
    };
    let turns: Vec<bool> = (0..6)
        .map(|i| yields(i % 2, 1 - i % 2, 1000 * i as u64))
        .collect();
    assert_eq!(turns, [false, false, false, true, true, true]);
    assert!(!yields(0, 1, 5_000 + tunables.pair_window_ns));
    assert!(!yields(1, 2, 606_000));
    assert!(!yields(2, 1, 607_000));
    assert!(!yields(1, 2, 608_000));
    assert!(yields(2, 1, 609_000));
}

#[test]
fn turns_without_an_end_are_the_default() {
    let (mut y, mut t) = (TaskState::default(), TaskState::default());
    for now in 0..100 {
        assert!(!y.turns_are_up(0, 1, &t, now, &Tunables::default()));
        std::mem::swap(&mut y, &mut t);
    }
    assert_eq!(y, TaskState::default());
}

/// Who was picked just now is left alone, for as long as is said.
#[test]
fn who_has_just_begun_is_held() {
    assert!(debooster::holds(9_999, 10_000) && !debooster::holds(10_000, 10_000));
    assert!(!debooster::holds(0, 0));
}
