//! An exchange of places across two runqueues: nobody else gains or loses.

use proptest::prelude::*;
use sched_core::debooster::Place;
use sched_core::eevdf::{self, Average, Entity, Join};

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::{average, cases, queue, rounding};

const TICK: u64 = 4_000_000;
const BASE_SLICE: u64 = 2_800_000;

/// V of a queue whose current entity is the first one, or left.
fn avg(queue: &[Entity]) -> u64 {
    average(queue).avg_vruntime(Some(&queue[0]))
}

fn join(average: &mut Average, curr: &Entity, place: Place, of: &Entity) -> Entity {
    let mut entity = Entity {
        custom_slice: true,
        ..*of
    };
    place.take(&mut entity);
    let join = Join::Again;
    eevdf::place(&mut entity, average, Some(curr), false, join, BASE_SLICE);
    entity
}

proptest! {
    #![proptest_config(cases(2000))]

    /// The yielder, first and current `here`, and the target, last `there`, exchange places.
    /// Nobody else's vruntime is touched, so their lags stay if V does. That it does for
    /// two of one weight; for others the place is the same service, so another vruntime.
    #[test]
    fn third_parties_stay_where_they_are(mut here in queue(2..8), mut there in queue(3..8)) {
        let last = there.len() - 1;
        there[last].load = here[0].load;
        // Beyond two slices a lag is cut, as everywhere: not here.
        (here[0].slice, there[last].slice) = (1 << 42, 1 << 42);
        let (yielder, target) = (here[0], there[last]);
        let (v_here, v_there) = (avg(&here), avg(&there));
        let weight = target.load.weight();
        let queue_weight: u64 = here.iter().map(|e| u64::from(e.load.weight())).sum();
        let mine = Place::of(&yielder, v_here, TICK).beside(queue_weight, weight);
        let theirs = Place::of(&target, v_there, TICK);

        there.pop();
        let mut at_yielders = average(&here);
        let came = join(&mut at_yielders, &yielder, mine, &target);
        let mut here_after = here.clone();
        here_after[0] = came;
        let mut at_targets = average(&there);
        there.push(join(&mut at_targets, &there[0], theirs, &yielder));

        // A lag is rounded as service (w / 1024 a virtual ns) and back, V to the next ns.
        // That moves the one who joined, and V by w / W of it, W being the others' weight.
        let slack = |place: Place, others: &[Entity]| {
            let (w, of) = (i128::from(weight), place.lag.unsigned_abs());
            let total: i128 = others.iter().map(|e| i128::from(e.load.weight())).sum();
            let joined = (rounding(target.load, of) + 2 * 1024) / w + 4;
            2 * joined * (w + total) / total + 4
        };
        let moved = |before: u64, after: &[Entity]| i128::from(avg(after).wrapping_sub(before) as i64);
        let (off_here, off_there) = (moved(v_here, &here_after), moved(v_there, &there));
        prop_assert!(off_here.abs() <= slack(mine, &here), "{off_here} here");
        prop_assert!(off_there.abs() <= slack(theirs, &there[..last]), "{off_there} there");
        // What is left of the turn goes on with it.
        let left = came.deadline.wrapping_sub(came.vruntime);
        let had = yielder.deadline.wrapping_sub(yielder.vruntime);
        prop_assert!(i128::from(left.abs_diff(had)) <= slack(mine, &here));
    }

    /// A place read before the target's CPU is charged is another one: what its current
    /// entity has run since moves V, and the yielder would join below the target's place.
    #[test]
    fn a_stale_place_costs_the_yielder(mut there in queue(3..8), ran in 100_000..4_000_000u64) {
        let last = there.len() - 1;
        let stale = Place::of(&there[last], avg(&there), TICK);
        there[0].custom_slice = true;
        there[0].run(ran, BASE_SLICE);
        let fresh = Place::of(&there[last], avg(&there), TICK);
        prop_assert!(stale.lag <= fresh.lag);
    }
}
