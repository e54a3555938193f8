//! EEVDF as Linux 6.12.117 does it: who is owed CPU time, and who runs next.
//!
//! A queue (`cfs_rq`) has entities i with weight w_i and virtual runtime v_i. W is the sum
//! of weights and V = sum(w_i * v_i) / W its virtual time. An entity's *lag* is
//! w_i * (V - v_i): what it is owed, negative if it has had more than its share. The lags
//! of a queue add up to 0. An entity is *eligible* while its lag is not negative. It asks
//! for a slice r_i at a time, which gives it a deadline d_i = v_i + r_i / w_i; of the
//! eligible ones the earliest deadline runs ([`pick`]).
//!
//! The current entity is not in the queue's tree: functions take it as `curr`, `None` if
//! there is none or it has left (`!curr->on_rq`).
//!
//! All sums wrap as the kernel's do. They are right as long as no virtual time is more
//! than 2^44 ns from the queue's zero and W is below 2^31: past that the kernel cuts the
//! divisor to 32 bits.

use crate::weight::LoadWeight;

/// One entity of a queue, a task or a group (`struct sched_entity`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entity {
    /// Its weight.
    pub load: LoadWeight,
    /// v_i, virtual ns.
    pub vruntime: u64,
    /// d_i, virtual ns; relative to `vruntime` while `rel_deadline` is set.
    pub deadline: u64,
    /// r_i, ns of service.
    pub slice: u64,
    /// While off the queue: V - v_i when it left, virtual ns. While it runs: its deadline
    /// when it was picked, see [`Entity::protect`].
    pub vlag: i64,
    /// `slice` is its own, not the system's base slice.
    pub custom_slice: bool,
    /// It left the queue with a part of its request to be kept.
    pub rel_deadline: bool,
    /// Not 0: it yields to others of its VM, or runs by such a yield. How many of its slices
    /// have to end without one before it doesn't, see [`loan`](crate::debooster::loan).
    pub lends: u8,
}

impl Entity {
    /// A new entity at virtual time 0 that asks for `slice` ns.
    pub fn new(load: LoadWeight, slice: u64) -> Self {
        Self {
            load,
            vruntime: 0,
            deadline: load.calc_delta_fair(slice),
            slice,
            vlag: 0,
            custom_slice: false,
            rel_deadline: false,
            lends: 0,
        }
    }

    /// v_i - zero, virtual ns (`entity_key`).
    pub fn key(&self, zero: u64) -> i64 {
        self.vruntime.wrapping_sub(zero) as i64
    }

    /// V - v_i, virtual ns, cut to +-(virtual ns of the larger of two slices and a tick)
    /// (`entity_lag`). `avg` is V, `tick` in ns.
    ///
    /// EEVDF itself bounds it by a slice; joining, leaving and reweighting move V.
    pub fn lag(&self, avg: u64, tick: u64) -> i64 {
        let most = self.slice.saturating_mul(2).max(tick);
        let limit = (self.load.calc_delta_fair(most) as i64).max(0);
        (avg.wrapping_sub(self.vruntime) as i64).clamp(-limit, limit)
    }

    /// Does its deadline come before `other`'s (`entity_before`)?
    pub fn before(&self, other: &Self) -> bool {
        (self.deadline.wrapping_sub(other.deadline) as i64) < 0
    }

    /// It has run for `service` ns (`update_curr`). True if its request is consumed and
    /// it got a new one: the queue is to pick anew, and V to be asked for once.
    pub fn run(&mut self, service: u64, base_slice: u64) -> bool {
        let virtual_ns = self.load.calc_delta_fair(service);
        self.vruntime = self.vruntime.wrapping_add(virtual_ns);
        self.update_deadline(base_slice)
    }

    /// Once v_i has reached d_i: d_i = v_i + r_i / w_i, r_i being `base_slice` ns unless
    /// it has a slice of its own (`update_deadline`). True if that was so.
    pub fn update_deadline(&mut self, base_slice: u64) -> bool {
        if (self.vruntime.wrapping_sub(self.deadline) as i64) < 0 {
            return false;
        }
        self.take_slice(base_slice);
        self.deadline = self.vruntime.wrapping_add(self.virtual_slice());
        true
    }

    /// Picked: it keeps the CPU until its deadline changes (`set_protect_slice`; the
    /// kernel calls that RUN_TO_PARITY).
    pub fn protect(&mut self) {
        self.vlag = self.deadline as i64;
    }

    /// Is its deadline the one that it was picked with (`protect_slice`)?
    pub fn protected(&self) -> bool {
        self.vlag == self.deadline as i64
    }

    /// Ends the protection (`cancel_protect_slice`).
    pub fn end_protection(&mut self) {
        if self.protected() {
            self.vlag = (self.deadline as i64).wrapping_add(1);
        }
    }

    /// A stock yield: an eligible yielder forfeits the rest of its slice
    /// (`yield_task_fair`), v_i = d_i, and gets a new request. Only its own level's queue
    /// is concerned. `eligible` is [`Average::eligible`] for it.
    pub fn forfeit(&mut self, eligible: bool, base_slice: u64) {
        if eligible {
            self.vruntime = self.deadline;
            self.update_deadline(base_slice);
        }
    }

    /// Leaves the queue whose V is `avg` (`dequeue_entity`): keeps its lag, and, if it
    /// does not sleep but moves, what is left of its request. The caller takes it out of
    /// the [`Average`] unless it is current.
    ///
    /// A sleeper that is not eligible stays queued instead, and competes, until it is picked
    /// or wakes up (DELAY_DEQUEUE): up to the caller, who then calls [`Entity::end_delay`].
    pub fn leave(&mut self, avg: u64, tick: u64, sleep: bool) {
        self.vlag = self.lag(avg, tick);
        if !sleep {
            self.deadline = self.deadline.wrapping_sub(self.vruntime);
            self.rel_deadline = true;
        }
    }

    /// It left when its dequeue could be delayed no longer (`finish_delayed_dequeue_entity`
    /// with DELAY_ZERO): its debt may be paid off by then, but nothing is owed to a sleeper.
    pub fn end_delay(&mut self) {
        self.vlag = self.vlag.min(0);
    }

    /// A new weight while queued at V = `avg` (`reweight_eevdf`): lag and what is left of
    /// the request stay as service, lag' = lag * w / w'. The caller takes it out of the
    /// [`Average`] before and adds it after, unless it is current. Bound: w' is not 0.
    pub fn reweight(&mut self, avg: u64, tick: u64, load: LoadWeight) {
        let (old, new) = (self.load.load(), load.load());
        if avg != self.vruntime {
            let lag = rescale(self.lag(avg, tick), old, new);
            self.vruntime = avg.wrapping_sub(lag as u64);
        }
        let left = rescale(self.deadline.wrapping_sub(avg) as i64, old, new);
        self.deadline = avg.wrapping_add(left as u64);
        self.load = load;
    }

    fn take_slice(&mut self, base_slice: u64) {
        if !self.custom_slice {
            self.slice = base_slice;
        }
    }

    fn virtual_slice(&self) -> u64 {
        self.load.calc_delta_fair(self.slice)
    }
}

/// value * old / new, rounded to 0; `value` if `new` is 0, where the kernel would trap.
fn rescale(value: i64, old: u64, new: u64) -> i64 {
    value
        .wrapping_mul(old as i64)
        .checked_div(new as i64)
        .unwrap_or(value)
}

/// What a queue knows about the entities of its tree, that is without the current one, so
/// that V costs a division instead of a walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Average {
    /// A virtual time close to V (`zero_vruntime`), virtual ns.
    pub zero: u64,
    /// sum(w_i * (v_i - zero)) (`avg_vruntime`), weight * virtual ns.
    pub sum: i64,
    /// sum(w_i) (`avg_load`), weight.
    pub load: i64,
}

impl Average {
    /// An entity enters the tree (`avg_vruntime_add`).
    pub fn add(&mut self, entity: &Entity) {
        self.sum = self.sum.wrapping_add(self.weighted_key(entity));
        self.load = self.load.wrapping_add(i64::from(entity.load.weight()));
    }

    /// An entity leaves the tree (`avg_vruntime_sub`): call it before its vruntime or its
    /// weight changes.
    pub fn sub(&mut self, entity: &Entity) {
        self.sum = self.sum.wrapping_sub(self.weighted_key(entity));
        self.load = self.load.wrapping_sub(i64::from(entity.load.weight()));
    }

    /// V in virtual ns, rounded down so that an entity at V is eligible, and the new
    /// `zero`: the call moves it (`avg_vruntime`). With nobody queued V stays.
    pub fn avg_vruntime(&mut self, curr: Option<&Entity>) -> u64 {
        let delta = match (self.load, curr) {
            (0, None) => 0,
            (0, Some(curr)) => curr.key(self.zero),
            _ => self.mean_key(curr),
        };
        // v' = v + d, so every key becomes d smaller.
        self.sum = self.sum.wrapping_sub(self.load.wrapping_mul(delta));
        self.zero = self.zero.wrapping_add(delta as u64);
        self.zero
    }

    /// Is an entity at `vruntime` owed service, that is v <= V (`vruntime_eligible`)?
    /// Compares sum(w_i * key_i) >= key * W, as V itself is rounded.
    pub fn eligible(&self, curr: Option<&Entity>, vruntime: u64) -> bool {
        let (sum, load) = self.with(curr);
        let key = vruntime.wrapping_sub(self.zero) as i64;
        sum >= key.wrapping_mul(load)
    }

    /// W with the current entity, weight.
    pub fn queue_weight(&self, curr: Option<&Entity>) -> u64 {
        self.with(curr).1 as u64
    }

    fn with(&self, curr: Option<&Entity>) -> (i64, i64) {
        match curr {
            None => (self.sum, self.load),
            Some(curr) => (
                self.sum.wrapping_add(self.weighted_key(curr)),
                self.load.wrapping_add(i64::from(curr.load.weight())),
            ),
        }
    }

    fn weighted_key(&self, entity: &Entity) -> i64 {
        entity
            .key(self.zero)
            .wrapping_mul(i64::from(entity.load.weight()))
    }

    /// sum / W rounded down; 0 if weights of 0 are all there is.
    fn mean_key(&self, curr: Option<&Entity>) -> i64 {
        let (mut sum, load) = self.with(curr);
        if sum < 0 {
            sum = sum.wrapping_sub(load - 1);
        }
        sum.checked_div(load).unwrap_or(0)
    }
}

/// How an entity joins a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// It was there before, or wakes up, or comes from another CPU.
    Again,
    /// Its first time: half a slice, as the others are half through theirs on average.
    First,
}

/// Puts an entity that is about to be queued to its place (`place_entity`): at its old lag,
/// v = V - vlag * (W + w) / W, as joining itself moves V by the rest. Its deadline is what
/// was left of its request, or a slice from now.
///
/// `empty`: nobody is queued; then lag counts for nothing. The caller adds it to `average`.
pub fn place(
    entity: &mut Entity,
    average: &mut Average,
    curr: Option<&Entity>,
    empty: bool,
    join: Join,
    base_slice: u64,
) {
    let avg = average.avg_vruntime(curr);
    entity.take_slice(base_slice);
    let lag = match empty {
        true => 0,
        false => inflated(entity, average.queue_weight(curr)),
    };
    entity.vruntime = avg.wrapping_sub(lag as u64);
    if entity.rel_deadline {
        entity.deadline = entity.deadline.wrapping_add(entity.vruntime);
        entity.rel_deadline = false;
        return;
    }
    let slice = match join {
        Join::Again => entity.virtual_slice(),
        Join::First => entity.virtual_slice() / 2,
    };
    entity.deadline = entity.vruntime.wrapping_add(slice);
}

/// The lag with which an entity has to join so that its own is left.
fn inflated(entity: &Entity, queue_weight: u64) -> i64 {
    let load = (queue_weight as i64).max(1);
    let all = (queue_weight as i64).wrapping_add(i64::from(entity.load.weight()));
    entity.vlag.wrapping_mul(all) / load
}

/// Who runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The current entity goes on.
    Current,
    /// The entity of the tree with this index.
    Queued(usize),
}

/// Of the eligible entities the one with the earliest deadline, the first one of equals
/// (`pick_eevdf`); the current one as long as it is eligible and protected. `None` if
/// nobody is there, or, past the bounds above, nobody eligible.
///
/// `queued` is in order of arrival. The kernel finds the same entity in a tree, in O(log n).
pub fn pick(queued: &[Entity], average: &Average, curr: Option<&Entity>) -> Option<Pick> {
    match (queued, curr) {
        ([], None) => return None,
        ([], Some(_)) => return Some(Pick::Current),
        ([_], None) => return Some(Pick::Queued(0)),
        _ => {}
    }
    let eligible = |e: &&Entity| average.eligible(curr, e.vruntime);
    let going_on = curr.filter(eligible);
    if going_on.is_some_and(Entity::protected) {
        return Some(Pick::Current);
    }
    let mut best: Option<(usize, &Entity)> = None;
    for (index, entity) in queued.iter().enumerate() {
        if best.is_none_or(|(_, b)| entity.before(b)) && eligible(&entity) {
            best = Some((index, entity));
        }
    }
    match (best, going_on) {
        (Some((index, best)), going_on) if !going_on.is_some_and(|c| c.before(best)) => {
            Some(Pick::Queued(index))
        }
        (_, Some(_)) => Some(Pick::Current),
        (_, None) => None,
    }
}
