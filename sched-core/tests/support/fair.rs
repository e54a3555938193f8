//! `kernel/sched/fair.c`, the stock one and as the series changes it, beside
//! [`sched_core::eevdf`] and [`sched_core::debooster::loan`]: a queue made of numbers, as
//! tests/c/fair_cases.h makes it.

use sched_core::debooster::Host;
use sched_core::debooster::loan::{self, By, Next};
use sched_core::eevdf::{self, Average, Entity, Join, Pick};
use sched_core::weight::LoadWeight;

use super::cases::Case;
use super::inputs::Arg::{self, *};

const TICK: u64 = 4_000_000;
const BASE_SLICE: u64 = 2_800_000;

/// An entity: whose load, load, vruntime, deadline from there, slice.
const WORLD: [Arg; 22] = [
    Time, World, //
    LoadPick, Load, Near, Signed, Span, //
    LoadPick, Load, Near, Signed, Span, //
    LoadPick, Load, Near, Signed, Span, //
    LoadPick, Load, Near, Signed, Span,
];

const fn world<const N: usize>(who: Arg, more: &[Arg]) -> [Arg; N] {
    let mut args = [Any; N];
    let mut i = 0;
    while i < N {
        args[i] = if i < WORLD.len() {
            WORLD[i]
        } else {
            more[i - WORLD.len()]
        };
        i += 1;
    }
    args[1] = who;
    args
}

/// Functions of fair.c that the cases need, in an order in which they compile.
pub const FUNCTIONS: &[&str] = &[
    "__update_inv_weight",
    "__calc_delta",
    "calc_delta_fair",
    "entity_before",
    "entity_key",
    "avg_vruntime_add",
    "avg_vruntime_sub",
    "update_zero_vruntime",
    "avg_vruntime",
    "entity_lag",
    "vruntime_eligible",
    "entity_eligible",
    "protect_slice",
    "pick_eevdf",
    "update_deadline",
    "reweight_eevdf",
    "place_entity",
    "loan_limit",
    "cfs_rq_overdue",
    "next_woken",
    "entity_may_run_ahead",
    "set_next",
    "lend_next",
    "next_noted_may_run",
    "next_may_run",
    "pick_queued",
    "pick_borrower",
    "takes_turns_with",
    "loans_see_wakeup",
    "pass_turn",
];

const HOST: Host = Host {
    tick: TICK,
    base_slice: BASE_SLICE,
};

/// Numbers an input.
pub const NARGS: usize = 29;

/// The cases.
pub const FAIR: &[Case] = &[
    Case {
        name: "calc_delta_fair",
        args: &[LoadPick, WideLoad, Any],
        c: "case_calc_delta_fair(a)",
        rust: |a| load(a).calc_delta_fair(a[2]),
    },
    Case {
        name: "calc_delta",
        args: &[LoadPick, WideLoad, Any, Weight],
        c: "case_calc_delta(a)",
        rust: |a| load(a).calc_delta(a[2], a[3] as u32),
    },
    Case {
        name: "entity_lag",
        args: &[Time, LoadPick, Load, Near, Signed, Span],
        c: "case_entity_lag(a)",
        rust: |a| entity(&a[1..]).lag(a[0], TICK) as u64,
    },
    Case {
        name: "avg_vruntime",
        args: &WORLD,
        c: "case_avg_vruntime(a)",
        rust: |a| {
            let mut q = Queue::new(a);
            let avg = q.average.avg_vruntime(q.curr.as_ref());
            mix(mix(avg, q.average.sum as u64), q.average.load as u64)
        },
    },
    Case {
        name: "vruntime_eligible",
        args: &world::<23>(World, &[Near]),
        c: "case_eligible(a)",
        rust: |a| {
            let q = Queue::new(a);
            q.average.eligible(q.curr.as_ref(), a[22]).into()
        },
    },
    Case {
        name: "pick_eevdf",
        args: &WORLD,
        c: "case_pick(a)",
        rust: |a| {
            let q = Queue::new(a);
            match eevdf::pick(&q.tree[..q.len], &q.average, q.curr.as_ref()) {
                None => 9,
                Some(Pick::Current) => 8,
                Some(Pick::Queued(index)) => index as u64,
            }
        },
    },
    Case {
        name: "update_deadline",
        args: &world::<22>(Running, &[]),
        c: "case_update_deadline(a)",
        rust: |a| {
            let mut curr = Queue::new(a).curr.unwrap();
            let new = curr.update_deadline(BASE_SLICE);
            mix(mix(curr.deadline, curr.slice), new.into())
        },
    },
    Case {
        name: "place_entity",
        args: &world::<29>(World, &[LoadPick, Load, Near, Signed, Span, Signed, U8]),
        c: "case_place(a)",
        rust: |a| {
            let mut q = Queue::new(a);
            let mut e = entity(&a[22..]);
            e.vlag = a[27] as i64;
            e.custom_slice = a[28] & 1 != 0;
            e.rel_deadline = a[28] & 2 != 0;
            let join = match a[28] & 4 {
                0 => Join::Again,
                _ => Join::First,
            };
            let empty = q.len == 0 && q.curr.is_none();
            eevdf::place(
                &mut e,
                &mut q.average,
                q.curr.as_ref(),
                empty,
                join,
                BASE_SLICE,
            );
            mix(mix(e.vruntime, e.deadline), e.slice)
        },
    },
    Case {
        name: "reweight_eevdf",
        args: &[Time, LoadPick, SomeLoad, Near, Signed, Span, SomeLoad],
        c: "case_reweight(a)",
        rust: |a| {
            let mut e = entity(&a[1..]);
            e.reweight(a[0], TICK, LoadWeight::from_load(a[6]));
            mix(e.vruntime, e.deadline)
        },
    },
    Case {
        name: "cfs_rq_overdue",
        args: &world::<23>(World, &[Span]),
        c: "case_overdue(a)",
        rust: |a| {
            let q = Queue::new(a);
            let overdue = loan::overdue(q.waiting(), &q.average, q.curr.as_ref(), a[22]);
            // The kernel asks where somebody waits.
            (q.len > 0 && overdue).into()
        },
    },
    Case {
        name: "pick_queued",
        args: &world::<23>(World, &[Span]),
        c: "case_pick_queued(a)",
        rust: |a| {
            let q = Queue::new(a);
            let who = loan::earliest(q.waiting(), &q.average, q.curr.as_ref(), a[22]);
            who.map_or(9, |who| who as u64)
        },
    },
    Case {
        name: "next_may_run",
        args: &world::<24>(World, &[U8, U8]),
        c: "case_next_may_run(a)",
        rust: |a| {
            let q = Queue::new(a).lent(a);
            let curr = q.curr.as_ref();
            let may = |next| loan::next_may_run(q.waiting(), &q.average, curr, next, &HOST);
            q.next(a).map_or(9, |next| may(next).into())
        },
    },
    Case {
        name: "pass_turn",
        args: &world::<24>(Running, &[U8, U8]),
        c: "case_pass_turn(a)",
        rust: |a| {
            let q = Queue::new(a).lent(a);
            let curr = q.curr.unwrap();
            let to = loan::pass_turn(q.waiting(), &q.average, &curr, q.next(a), &HOST);
            to.map_or(9, |to| to as u64)
        },
    },
    Case {
        name: "loans_see_wakeup",
        args: &world::<24>(Running, &[U8, U8]),
        c: "case_wakeup(a)",
        rust: |a| {
            let q = Queue::new(a).lent(a);
            let curr = q.curr.unwrap();
            if q.len == 0 {
                return 8;
            }
            if a[23] & 16 != 0 {
                return mix(0, 0);
            }
            let preempts = loan::gives_way(q.waiting(), &q.average, &curr, 0);
            mix(preempts.into(), 1)
        },
    },
    Case {
        name: "takes_turns_with",
        args: &[U8],
        c: "case_takes_turns(a)",
        rust: |a| {
            let load = LoadWeight::from_nice(0);
            let woken = Entity {
                lends: a[0] as u8 & 3,
                ..Entity::new(load, BASE_SLICE)
            };
            // A kernel thread is nobody's sibling.
            let sibling = a[0] & 12 == 12;
            loan::takes_turns(&woken, sibling).into()
        },
    },
];

struct Queue {
    average: Average,
    tree: [Entity; 3],
    len: usize,
    curr: Option<Entity>,
}

impl Queue {
    fn new(a: &[u64]) -> Self {
        let mut average = Average {
            zero: a[0],
            ..Average::default()
        };
        let len = (a[1] & 3) as usize;
        let tree = [0, 1, 2].map(|i| entity(&a[2 + 5 * i..]));
        tree[..len].iter().for_each(|e| average.add(e));
        let curr = (a[1] & 4 != 0).then(|| {
            let mut curr = entity(&a[17..]);
            let unprotected = u64::from(a[1] & 8 == 0);
            curr.vlag = curr.deadline.wrapping_add(unprotected) as i64;
            curr
        });
        Self {
            average,
            tree,
            len,
            curr,
        }
    }
}

impl Queue {
    /// Numbers as tests/c/fair_cases.h takes them: the current one lends or not.
    fn lent(mut self, a: &[u64]) -> Self {
        if let Some(curr) = &mut self.curr {
            curr.lends = a[23] as u8 & 8;
        }
        self
    }

    /// The next buddy.
    fn next(&self, a: &[u64]) -> Option<Next> {
        let there = self.len > 0 && a[22] & 4 != 0;
        let fresh = a[23] & 4 == 0;
        let by = match a[23] % 3 {
            0 => By::Hint,
            1 => By::Lent { fresh },
            _ => By::Woken,
        };
        let who = (a[22] & 3) as usize % self.len.max(1);
        there.then_some(Next { who, by })
    }

    fn waiting(&self) -> &[Entity] {
        &self.tree[..self.len]
    }
}

fn load(a: &[u64]) -> LoadWeight {
    match a[0] {
        0..40 => LoadWeight::from_nice(a[0] as i32 - 20),
        40 => LoadWeight::idle(),
        _ => LoadWeight::from_load(a[1]),
    }
}

fn entity(a: &[u64]) -> Entity {
    Entity {
        vruntime: a[2],
        deadline: a[2].wrapping_add(a[3]),
        ..Entity::new(load(a), a[4])
    }
}

fn mix(h: u64, v: u64) -> u64 {
    (h ^ v)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(h >> 29)
}
