//! Entities and queues by proptest. Each test uses a part of it.
#![allow(dead_code)]

use proptest::prelude::*;
use sched_core::eevdf::{Average, Entity};
use sched_core::weight::LoadWeight;

/// So many cases, or `PROPTEST_CASES`; a failure is shown, not kept in a file.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

/// Tasks of any nice value, SCHED_IDLE, and groups with any part of their shares.
pub fn load() -> impl Strategy<Value = LoadWeight> {
    prop_oneof![
        (-20..20).prop_map(LoadWeight::from_nice),
        Just(LoadWeight::from_nice(0)),
        Just(LoadWeight::idle()),
        (2..=1u32 << 18).prop_map(LoadWeight::from_shares),
        (2048..=1u64 << 28).prop_map(LoadWeight::from_load),
    ]
}

/// An entity up to 20 ms of service from `base`, and as many ns, with a slice of 0.1 to 10 ms.
pub fn entity(base: u64) -> impl Strategy<Value = Entity> {
    (load(), -20_000_000..20_000_000i64, 100_000..10_000_000u64).prop_map(
        move |(load, off, slice)| {
            let mut e = Entity::new(load, slice);
            let off = off.signum() * load.calc_delta_fair(off.unsigned_abs()) as i64 + off % 1024;
            e.vruntime = base.wrapping_add(off as u64);
            e.deadline = e.deadline.wrapping_add(e.vruntime);
            e
        },
    )
}

/// A queue: the current entity first; virtual time may wrap.
pub fn queue(others: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Entity>> {
    prop_oneof![Just(0u64), Just(u64::MAX - 1_000_000), any::<u64>()]
        .prop_flat_map(move |base| prop::collection::vec(entity(base), others.clone()))
}

/// The average of all but the first one, from scratch.
pub fn average(queue: &[Entity]) -> Average {
    let mut average = Average {
        zero: queue[0].vruntime,
        ..Average::default()
    };
    queue[1..].iter().for_each(|e| average.add(e));
    average
}

/// sum(w * (v - zero)), exactly.
pub fn weighted_sum(queue: &[Entity], zero: u64) -> i128 {
    let term = |e: &Entity| i128::from(e.load.weight()) * i128::from(e.key(zero));
    queue.iter().map(term).sum()
}

/// The most, in weight * ns, that rounding may add to w * v when `load` pays or gets
/// `service`: see `LoadWeight::calc_delta_fair`, and 1 ns for rounding up.
pub fn rounding(load: LoadWeight, service: u64) -> i128 {
    let weight = i128::from(load.weight());
    2 * weight + ((i128::from(service) * (weight + 3)) >> 22) + 1
}
