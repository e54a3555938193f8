//! Directed yield: a yield that lasts, paid by the yielder.
//!
//! A vCPU that spins burns the time that the vCPU it waits for needs. KVM tells the
//! scheduler which one that is, but alone the hint lasts one decision, and none if the
//! target is not eligible. Here the yielder Y hands service over to the target T.
//!
//! Y and T compete on one level of the tree of cgroups, the lowest that both are below
//! (LCA): on its queue stand an ancestor of each, or they themselves. In mode *transfer*
//! Y is charged there as if it had run for L ns, and T refunded L:
//!
//! ```text
//! v_Y += L / w_Y      v_T -= L / w_T
//! ```
//!
//! w_Y * v_Y + w_T * v_T stays, so V stays, and with it the lag and the eligibility of
//! everybody else. On the levels below, inside the group of either, every level of Y's
//! path is charged and every level of T's refunded, so that siblings keep theirs as well.
//! As [`Entity::pay`] and [`Entity::get`] round, V moves by less than
//! 2 + L / 2^22 * (1 + 6 / W) virtual ns either way, W being the weight of all there: below
//! 4 ns for all that a slice may be, and for nice 0 by at most 1 ns, ahead.
//!
//! In mode *lend*, the default, nobody pays: T runs ahead although it is not eligible, if it
//! owes no more than a slice or a tick and nobody there is owed more than that
//! ([`may_run_ahead`]), and pays for it by its own negative lag. Where T waits on another CPU,
//! Y's turn goes to somebody beside Y ([`borrower`]). No v is ever moved but by running, so
//! that nothing is to be conserved.
//!
//! In mode transfer nobody starves: with [`limit`] = max(slice, tick), who yields,
//! however often and to whom of its VM, runs again within (limit + 2 slices) * W / w of its
//! CPU's time, and so does everybody else there; slice is the longest on the queue.
//!
//! [`settle`] decides, from what each level looks like, and changes nothing; the caller
//! applies the [`Settlement`] with [`Entity::pay`] and [`Entity::get`]. The small functions
//! are `kernel/sched/yield_math.h`, the rest is `kernel/sched/debooster.c` (topic debooster)
//! and, for loans, `kernel/sched/fair.c` (topic directed-yield).

use crate::eevdf::Entity;
use crate::weight::mul_shr;

pub mod loan;
mod settle;

pub use loan::{borrower, holds, may_run_ahead};
pub use settle::{Host, Level, Mode, Refusal, Settlement, TaskState, Tunables, Yield, settle};

/// More service than this, 73 minutes in ns, is taken for this (`YIELD_SERVICE_MAX`).
pub const SERVICE_MAX: u64 = 1 << 42;

/// More virtual ns than this are taken for this (`YIELD_VIRTUAL_MAX`).
pub const VIRTUAL_MAX: u64 = 1 << 52;

/// The service in ns of `virtual_ns` at `weight`: virtual * weight / 1024, rounded down, at
/// most [`SERVICE_MAX`] (`yield_service`).
pub fn service(virtual_ns: u64, weight: u32) -> u64 {
    mul_shr(virtual_ns.min(VIRTUAL_MAX), weight, 10).min(SERVICE_MAX)
}

/// Lag as service in ns: `vlag` is V - v in virtual ns. The sign is kept (`yield_lag`).
pub fn lag(vlag: i64, weight: u32) -> i64 {
    let size = service(vlag.unsigned_abs(), weight) as i64;
    match vlag < 0 {
        true => -size,
        false => size,
    }
}

/// The service in ns that an entity lacks to be eligible, 0 if it is (`yield_need`).
///
/// `vlag`: its V - v in virtual ns. `load`: W of its queue, if a refund moves V there as
/// well because nobody of that queue pays; 0 if somebody does and V stays.
///
/// With V fixed, a refund of L moves the entity by L / w: need = -vlag * w, rounded up to
/// the next ns. With V moving by L / W at the same time, W / (W - w) times that. At most
/// [`SERVICE_MAX`]. Bounds: w from 2 to 2^20; for W - w of 2 and w above 2^22 the kernel's
/// division would overflow, where this one is cut. A refund falls short of it by up to
/// 1 + need / 2^22 virtual ns, as [`Entity::get`] rounds; the margin is there for that too.
pub fn need(vlag: i64, weight: u32, load: u64) -> u64 {
    if vlag >= 0 {
        return 0;
    }
    let mut need = service(vlag.unsigned_abs(), weight) + 1;
    if load > u64::from(weight) {
        let others = u128::from(load - u64::from(weight));
        let moved = u128::from(need) * u128::from(load) / others;
        need = u64::try_from(moved).unwrap_or(SERVICE_MAX).min(SERVICE_MAX) + 1;
    }
    need.min(SERVICE_MAX)
}

/// Service in ns beyond the need, so that T stays eligible while V rounds or somebody
/// joins (`yield_margin`): granularity / 4 for n = 2 runnable tasks, / 8 for 3, / 16 for
/// more; at most a quarter of T's slice; half of it for a pair that yields back and forth.
///
/// `gran`, `slice`: ns of service.
pub fn margin(n: u32, gran: u64, slice: u64, damped: bool) -> u64 {
    let shift = match n {
        0..=2 => 2,
        3 => 3,
        _ => 4,
    };
    let margin = (gran >> shift).min(slice >> 2);
    margin >> u32::from(damped)
}

/// How far from zero lag a settlement may push an entity, ns of service: the larger of a
/// slice and a tick (`yield_limit`), as a slice ends at a tick.
pub fn limit(slice: u64, tick: u64) -> u64 {
    slice.max(tick)
}

/// May an entity with `lag` be charged `amount` and owe no more than `limit`
/// (`yield_may_charge`)? All in ns of service, amounts up to 2^62.
pub fn may_charge(lag: i64, amount: u64, limit: u64) -> bool {
    lag.wrapping_sub(amount as i64) >= (limit as i64).wrapping_neg()
}

/// May an entity with `lag` be refunded `amount` and be owed no more than `limit`
/// (`yield_may_refund`)? All in ns of service, amounts up to 2^62.
pub fn may_refund(lag: i64, amount: u64, limit: u64) -> bool {
    lag.wrapping_add(amount as i64) <= limit as i64
}

/// The largest penalty for n runnable tasks, in halves of a granularity
/// (`yield_cap_halves`): 6.0, 4.0, 2.5, 2.0, 1.5 and 1.0 granularities for n up to 2, 3, 6,
/// 8, 12 and more. With few competitors T needs a long stretch before Y is picked again;
/// with many, they see to that.
pub fn cap_halves(n: u32) -> u32 {
    match n {
        0..=2 => 12,
        3 => 8,
        4..=6 => 5,
        7..=8 => 4,
        9..=12 => 3,
        _ => 2,
    }
}

/// What a yielder pays in mode penalty, virtual ns (`yield_penalty`): gran + 1.1 * gap, at
/// most [`cap_halves`] / 2 granularities, then halved for a pair that yields back and forth.
///
/// `gran`: granularity in virtual ns at Y's weight, below 2^60. `gap`: v_T - v_Y in virtual
/// ns; a negative one counts as 0.
pub fn penalty(gran: u64, gap: i64, n: u32, damped: bool) -> u64 {
    let cap = gran.wrapping_mul(u64::from(cap_halves(n))) >> 1;
    let gap = (gap.max(0) as u64).min(cap);
    let penalty = gran.wrapping_add(gap).wrapping_add(gap / 10).min(cap);
    penalty >> u32::from(damped)
}

/// Is `then` less than `window` ns before `now` (`yield_recent`)? Both are clocks, maybe of
/// two runqueues, so that a `then` after `now` is recent too.
pub fn recent(now: u64, then: u64, window: u64) -> bool {
    (now.wrapping_sub(then) as i64) < window as i64
}

impl Entity {
    /// Y, or its ancestor, pays `service` ns: v += calc_delta_fair(service) + 1
    /// (`yield_charge`, `entity_pay`). One more, so that V rather moves ahead. The deadline
    /// moves along: what is left of the request stays. Its protection ends, as its deadline
    /// is no longer the one that it was picked with.
    ///
    /// Bound: as [`LoadWeight::calc_delta_fair`](crate::weight::LoadWeight::calc_delta_fair)
    /// is off by less than 1 + L / 2^22 * (1 + 3 / w), w_Y * v_Y + w_T * v_T moves by less
    /// than 2 * w_Y + w_T + L / 2^22 * (w_Y + w_T + 6), and V by 1 / W of that.
    ///
    /// Y is current on its levels, so its queue's [`Average`](crate::eevdf::Average) does
    /// not change.
    pub fn pay(&mut self, service: u64) {
        self.pay_virtual(self.load.calc_delta_fair(service).wrapping_add(1));
    }

    /// As [`Entity::pay`], of virtual ns: a penalty (`entity_pay`).
    pub fn pay_virtual(&mut self, virtual_ns: u64) {
        self.vruntime = self.vruntime.wrapping_add(virtual_ns);
        self.deadline = self.deadline.wrapping_add(virtual_ns);
    }

    /// T, or its ancestor, gets `service` ns: v -= calc_delta_fair(service), d as well
    /// (`yield_refund`, `entity_get`). The caller takes it out of the queue's
    /// [`Average`](crate::eevdf::Average) before and adds it after.
    pub fn get(&mut self, service: u64) {
        let virtual_ns = self.load.calc_delta_fair(service);
        self.vruntime = self.vruntime.wrapping_sub(virtual_ns);
        self.deadline = self.deadline.wrapping_sub(virtual_ns);
    }
}
