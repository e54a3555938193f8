//! A yield without a payment: let the target run ahead, lend it the yielder's turn, or
//! exchange places with it.
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
//!
//! *Lend*: T being elsewhere, Y's turn goes to who is next on Y's CPU, who runs ahead in the
//! same way ([`borrower`]). Y's lag grows meanwhile, so that it is soon picked again. In mode
//! lend T borrows Y's turn on one runqueue too, and no vruntime is ever moved; if T may not
//! run ahead, Y lends to who is next.

use crate::debooster;
use crate::eevdf::{self, Average, Entity, Pick};

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

/// Does the current task of T's CPU, which has run for `ran` ns of service since it was
/// picked, keep it against a yield from another CPU (`curr_is_held`)? `hold`: ns, see
/// [`Tunables::hold_ns`](debooster::Tunables::hold_ns). The hint stays, and the next yield
/// asks again.
///
/// Without that, where two vCPUs share a CPU and the rest of their VMs spin on CPUs of their
/// own, every spin exit has one of the two pre-empt the other, and once spin exits come more
/// often than a switch takes, neither gets through a switch.
pub fn holds(ran: u64, hold: u64) -> bool {
    ran < hold
}

/// To whom Y, the current entity `curr`, lends its turn, of those `queued` beside it
/// (`yield_lend_to`): the buddy that is there already, else who would run if Y slept; in
/// order of arrival as in [`eevdf::pick`]. `None`: nobody is there, or it owes more than
/// [`may_advance`] lets it. Y asks on its own level first and goes up while there is `None`.
///
/// `average` is the queue's, with V asked for; `tick` in ns. The caller sees to it that who
/// sleeps in its queue (DELAY_DEQUEUE) borrows nothing.
pub fn borrower(
    queued: &[Entity],
    average: &mut Average,
    curr: &Entity,
    buddy: Option<usize>,
    tick: u64,
) -> Option<usize> {
    let next = match (buddy, eevdf::pick(queued, average, None)) {
        (Some(index), _) | (None, Some(Pick::Queued(index))) => index,
        _ => return None,
    };
    let entity = queued.get(next)?;
    let vlag = average
        .avg_vruntime(Some(curr))
        .wrapping_sub(entity.vruntime) as i64;
    let lag = debooster::lag(vlag, entity.load.weight());
    may_advance(lag, entity.slice, tick).then_some(next)
}

/// May an entity run although it is not eligible (`entity_may_advance`)? While it owes no
/// more than a slice or a tick. `lag`: [`debooster::lag`], ns of service, on each level of
/// T's path; asked again at the pick.
pub fn may_advance(lag: i64, slice: u64, tick: u64) -> bool {
    debooster::may_charge(lag, 0, debooster::limit(slice, tick))
}
