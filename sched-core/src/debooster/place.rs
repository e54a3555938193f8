//! A target on another runqueue: exchange places with it, or let it run ahead.
//!
//! *Handoff*: Y burns its CPU anyway, so T takes Y's place there, and Y, when it is switched
//! out, the one where T waited. A place is a lag and what is left of a request, both as
//! service, so that it means the same on either queue. To third parties on both CPUs nothing
//! changes, and what Y and T have together stays: nothing is to be bounded or paid. A place
//! is a distance from V, so what both CPUs have run is charged before either is read.
//!
//! *Advance*: T runs where it is although it is not eligible, within the bound that holds
//! for a yielder's debt. Nothing is minted: its lag becomes negative by running. As in an
//! exchange Y forfeits nothing: it is charged for what it spins.

use crate::debooster;
use crate::eevdf::Entity;

/// Where an entity stands in its queue (`struct sched_yield_place`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// ns of service that it is owed; negative: owes.
    pub lag: i64,
    /// ns of service left of its request.
    pub left: u64,
}

impl Place {
    /// The place of `entity`, whose queue's V is `avg` (`entity_place`): its lag cut to
    /// +-max(2 * slice, tick), and (d - v) as service, 0 if d has passed.
    pub fn of(entity: &Entity, avg: u64, tick: u64) -> Self {
        let weight = entity.load.weight();
        let limit = debooster::limit(entity.slice.saturating_mul(2), tick);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let vlag = avg.wrapping_sub(entity.vruntime) as i64;
        let left = entity.deadline.wrapping_sub(entity.vruntime) as i64;
        Self {
            lag: debooster::lag(vlag, weight).clamp(-limit, limit),
            left: debooster::service(left.max(0) as u64, weight),
        }
    }

    /// This place for a newcomer of `weight` while who has it is still there and leaves next
    /// (`lag_beside`): [`crate::eevdf::place`] inflates lag by (W + w) / W, as joining moves
    /// V, but the two together move it by nothing; so lag * W / (W + w) puts the newcomer
    /// at the very vruntime of the other, if they weigh the same. `queue_weight`: W in
    /// weight, the one who leaves included. Bound: |lag| * W below 2^63.
    pub fn beside(self, queue_weight: u64, weight: u32) -> Self {
        let load = queue_weight as i64;
        let all = load.wrapping_add(i64::from(weight)).max(1);
        Self {
            lag: self.lag.wrapping_mul(load) / all,
            ..self
        }
    }

    /// Has `entity`, which is off its queue and about to join another, take this place when
    /// [`crate::eevdf::place`] puts it there (`entity_take_place`). A group with others of
    /// its tasks queued is there already: then leave it alone.
    pub fn take(&self, entity: &mut Entity) {
        let size = entity.load.calc_delta_fair(self.lag.unsigned_abs()) as i64;
        entity.vlag = match self.lag < 0 {
            true => -size,
            false => size,
        };
        entity.deadline = entity.load.calc_delta_fair(self.left);
        entity.rel_deadline = true;
    }
}

/// Who was picked less than this ago, ns of service, keeps its CPU against yields from other
/// CPUs (`YIELD_HOLD_NS`). Some switches and a few interrupt handlers long.
pub const HOLD_NS: u64 = 10_000;

/// Does the current task of T's CPU, which has run for `ran` ns since it was picked, keep it
/// for now (`directed_yield_resched`)? The hint stays, and the next yield asks again.
///
/// Without that, where two vCPUs share a CPU and the rest of their VMs spin on CPUs of their
/// own, every spin exit has one of the two pre-empt the other, and once spin exits come more
/// often than a switch takes, neither gets through a switch.
pub fn holds(ran: u64) -> bool {
    ran < HOLD_NS
}

/// May an entity run although it is not eligible (`entity_may_advance`)? While it owes no
/// more than a slice or a tick. `lag`: [`debooster::lag`], ns of service, on each level of
/// T's path; asked again at the pick.
pub fn may_advance(lag: i64, slice: u64, tick: u64) -> bool {
    debooster::may_charge(lag, 0, debooster::limit(slice, tick))
}
