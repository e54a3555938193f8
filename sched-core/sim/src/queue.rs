//! One level of a CPU's fair runqueue: sched-core's arithmetic over the entities there.
//!
//! The entities of a level are few, the host's overcommit, and stand in one piece of
//! memory: walking them beats a tree. Nothing here grows with the host.

use sched_core::debooster::loan::{self, By, Next};
use sched_core::debooster::{self, Level};
use sched_core::eevdf::{self, Average, Entity, Join, Pick};
use sched_core::weight::LoadWeight;
use smallvec::SmallVec;

/// What tells the entities of a level apart.
pub type Id = u32;

/// What all levels of a host have in common, ns.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Between two ticks.
    pub tick: u64,
    /// Length of a request.
    pub base_slice: u64,
}

/// A level (`cfs_rq`). Two who wait stand in it, more elsewhere.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Queue {
    curr: Option<(Id, Entity)>,
    average: Average,
    /// Weight of all entities, the current one included.
    weight: u64,
    /// The next buddy, and why it is to run.
    next: Option<(Id, By)>,
    /// Tasks that sleep here, see [`Queue::delay`].
    delayed: u32,
    ids: SmallVec<[Id; 4]>,
    queued: SmallVec<[Entity; 2]>,
}

impl Queue {
    /// Entities, the current one included.
    pub fn len(&self) -> usize {
        self.queued.len() + usize::from(self.curr.is_some())
    }

    /// Nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight of all entities.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Who runs.
    pub fn curr(&self) -> Option<Id> {
        self.curr.map(|(id, _)| id)
    }

    /// Those who wait, in order of arrival.
    pub fn waiting(&self) -> &[Id] {
        &self.ids
    }

    fn curr_entity(&self) -> Option<&Entity> {
        self.curr.as_ref().map(|(_, entity)| entity)
    }

    fn index(&self, id: Id) -> Option<usize> {
        self.ids.iter().position(|other| *other == id)
    }

    /// The next buddy as sched-core sees it.
    fn next(&self) -> Option<Next> {
        let (id, by) = self.next?;
        let who = self.index(id)?;
        Some(Next { who, by })
    }

    /// The entity of `id`, if it is here.
    pub fn entity(&self, id: Id) -> Option<&Entity> {
        match &self.curr {
            Some((curr, entity)) if *curr == id => Some(entity),
            _ => self.index(id).map(|index| &self.queued[index]),
        }
    }

    /// V, virtual ns.
    pub fn avg(&mut self) -> u64 {
        let Self { average, curr, .. } = self;
        average.avg_vruntime(curr.as_ref().map(|(_, entity)| entity))
    }

    /// Changes the entity of `id` and keeps the average in step.
    pub fn change(&mut self, id: Id, change: impl FnOnce(&mut Entity)) {
        if let Some((curr, entity)) = &mut self.curr
            && *curr == id
        {
            change(entity);
        } else if let Some(index) = self.index(id) {
            self.average.sub(&self.queued[index]);
            change(&mut self.queued[index]);
            self.average.add(&self.queued[index]);
        }
    }

    /// Puts an entity to its place.
    pub fn join(&mut self, id: Id, mut entity: Entity, join: Join, times: &Times) {
        let empty = self.is_empty();
        let Self { average, curr, .. } = self;
        let curr = curr.as_ref().map(|(_, entity)| entity);
        eevdf::place(&mut entity, average, curr, empty, join, times.base_slice);
        self.weight += u64::from(entity.load.weight());
        self.push(id, entity);
    }

    fn push(&mut self, id: Id, entity: Entity) {
        self.average.add(&entity);
        self.queued.push(entity);
        self.ids.push(id);
    }

    fn remove(&mut self, id: Id) -> Option<Entity> {
        let index = self.index(id)?;
        let entity = self.queued.remove(index);
        self.ids.remove(index);
        self.average.sub(&entity);
        Some(entity)
    }

    /// Takes `id` out, current or waiting, with its lag kept.
    pub fn leave(&mut self, id: Id, sleep: bool, times: &Times) -> Option<Entity> {
        let avg = self.avg();
        let mut entity = match self.curr {
            Some((curr, entity)) if curr == id => {
                self.curr = None;
                entity
            }
            _ => self.remove(id)?,
        };
        entity.leave(avg, times.tick, sleep);
        self.weight -= u64::from(entity.load.weight());
        self.clear_buddy(id);
        Some(entity)
    }

    /// The task `id` sleeps, but stays until it is picked or wakes up: it owes. While it is
    /// here it competes (DELAY_DEQUEUE).
    pub fn delay(&mut self, id: Id) {
        self.clear_buddy(id);
        self.delayed += 1;
    }

    /// A task of those is picked or wakes up.
    pub fn end_delay(&mut self) {
        self.delayed -= 1;
    }

    /// Tasks, or groups, that could run.
    pub fn runnable(&self) -> usize {
        self.len() - self.delayed as usize
    }

    /// `id`, which has slept here, wakes up (`requeue_delayed_entity`): what it came to be
    /// owed meanwhile is lost (DELAY_ZERO).
    pub fn requeue(&mut self, id: Id, times: &Times) {
        if self.vlag(id) > 0
            && let Some(mut entity) = self.leave(id, true, times)
        {
            entity.end_delay();
            self.join(id, entity, Join::Again, times);
        }
    }

    /// Charges the current entity. True if it is to be preempted for that.
    pub fn charge(&mut self, service: u64, times: &Times) -> bool {
        let others = self.len() > 1;
        let Some((id, entity)) = &mut self.curr else {
            return false;
        };
        let consumed = entity.run(service, times.base_slice);
        let id = *id;
        if consumed && others {
            entity.lends >>= 1;
            self.clear_buddy(id);
        }
        consumed && others
    }

    /// ns of service until the current entity has used its request up, if anybody waits.
    pub fn request_left(&self) -> Option<u64> {
        let entity = self.curr_entity().filter(|_| self.len() > 1)?;
        let left = entity.deadline.wrapping_sub(entity.vruntime) as i64;
        let service = debooster::service(left.max(0) as u64, entity.load.weight());
        // The inverse weight rounds: come a little late rather than twice.
        Some(service + (service >> 20) + 1)
    }

    /// Is `id` owed service?
    pub fn eligible(&self, id: Id) -> bool {
        let eligible = |e: &Entity| self.average.eligible(self.curr_entity(), e.vruntime);
        self.entity(id).is_some_and(eligible)
    }

    /// V - v of `id`, virtual ns.
    pub fn vlag(&mut self, id: Id) -> i64 {
        let avg = self.avg();
        self.entity(id)
            .map_or(0, |e| avg.wrapping_sub(e.vruntime) as i64)
    }

    /// How `id` stands here, for a settlement.
    pub fn level(&mut self, id: Id) -> Option<Level> {
        let vlag = self.vlag(id);
        let entity = *self.entity(id)?;
        Some(Level {
            vlag,
            load: entity.load,
            slice: entity.slice,
            queue_weight: self.weight,
            alone: self.len() < 2,
        })
    }

    fn host(times: &Times) -> debooster::Host {
        let Times { tick, base_slice } = *times;
        debooster::Host { tick, base_slice }
    }

    /// May `id`, who waits, run next although others may come before it?
    pub fn may_run_ahead(&self, id: Id, times: &Times) -> bool {
        let (curr, host) = (self.curr_entity(), Self::host(times));
        let woken = loan::woken(&self.queued, &self.average, curr, self.next());
        self.index(id).is_some_and(|who| {
            woken.is_none_or(|woken| woken == who)
                && loan::may_run_ahead(&self.queued, &self.average, curr, who, &host)
        })
    }

    /// `id` may run before it is eligible; nobody else does any more.
    pub fn run_ahead(&mut self, id: Id) {
        self.change(id, |e| e.lends = loan::LENT);
        if self.curr() != Some(id) {
            self.lend_next(id);
        }
    }

    /// The bounds of a loan are always looked at again, in the kernel only after a tick.
    fn lend_next(&mut self, id: Id) {
        self.next = Some((id, By::Lent { fresh: false }));
    }

    /// `id` woke up here: it comes before all loans.
    pub fn wake(&mut self, id: Id) {
        if self.curr() != Some(id) {
            self.next = Some((id, By::Woken));
        }
    }

    /// Has `id`, who runs, pass its turn. False: nobody else may have it.
    pub fn skip(&mut self, id: Id, times: &Times) -> bool {
        let next = self.next();
        let Some((_, curr)) = self.curr.as_mut().filter(|(curr, _)| *curr == id) else {
            return false;
        };
        curr.lends = loan::LENT;
        let host = Self::host(times);
        let to = loan::pass_turn(&self.queued, &self.average, curr, next, &host);
        if let Some(to) = to.filter(|to| next.is_none_or(|next| next.who != *to)) {
            self.lend_next(self.ids[to]);
        }
        to.is_some()
    }

    /// Does `id`, which wakes up, preempt the current entity because that one lends?
    pub fn gives_way(&self, id: Id) -> bool {
        let (curr, who) = (self.curr_entity(), self.index(id));
        let gives_way = |(curr, who)| loan::gives_way(&self.queued, &self.average, curr, who);
        curr.zip(who).is_some_and(gives_way)
    }

    /// Gives `id` another weight.
    pub fn reweight(&mut self, id: Id, load: LoadWeight, times: &Times) {
        let avg = self.avg();
        let old = self.entity(id).map_or(0, |e| u64::from(e.load.weight()));
        self.change(id, |e| e.reweight(avg, times.tick, load));
        self.weight = self.weight - old + u64::from(load.weight());
    }

    /// Makes `id` the one to be picked next, if it is eligible; takes the place of no loan.
    pub fn set_buddy(&mut self, id: Id) {
        if self.next.is_none_or(|(_, by)| by == By::Hint) {
            self.next = Some((id, By::Hint));
        }
    }

    /// `id` runs or leaves: no hint names it any more.
    pub fn clear_buddy(&mut self, id: Id) {
        self.next.take_if(|(next, _)| *next == id);
    }

    /// Who runs next (`pick_next_entity`).
    pub fn pick(&mut self, times: &Times) -> Option<Id> {
        if let Some(next) = self.next() {
            let (curr, host) = (self.curr_entity(), Self::host(times));
            if loan::next_may_run(&self.queued, &self.average, curr, next, &host) {
                return Some(self.ids[next.who]);
            }
        }
        self.pick_eevdf()
    }

    /// Who runs next, buddies apart.
    pub fn pick_eevdf(&self) -> Option<Id> {
        match eevdf::pick(&self.queued, &self.average, self.curr_entity())? {
            Pick::Current => self.curr(),
            Pick::Queued(index) => Some(self.ids[index]),
        }
    }

    /// The current entity waits again.
    pub fn put_curr(&mut self) {
        if let Some((id, entity)) = self.curr.take() {
            self.push(id, entity);
        }
    }

    /// `id`, who waits, is current now and protected.
    pub fn set_curr(&mut self, id: Id) {
        if let Some(mut entity) = self.remove(id) {
            entity.protect();
            self.curr = Some((id, entity));
            self.clear_buddy(id);
        }
    }

    /// A stock yield of the current entity on this level.
    pub fn forfeit(&mut self, times: &Times) {
        if let Some(id) = self.curr() {
            self.clear_buddy(id);
            let eligible = self.eligible(id);
            self.change(id, |e| e.forfeit(eligible, times.base_slice));
        }
    }
}
