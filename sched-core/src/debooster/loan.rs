//! A yield that nobody pays for at once: the target runs ahead, the yielder passes its turn.
//!
//! *Run ahead*: T runs where it is although it is not eligible. Nothing is minted: its lag
//! becomes negative by running. *Pass*: with T on another CPU, Y's turn goes to somebody who
//! waits beside Y, and Y's lag grows meanwhile. No vruntime is ever moved but by running.
//!
//! Either is a loan with a bound, [`limit`], on what the borrower owes and on what anybody
//! there is owed; and who wakes up ends the loans, and preempts who lends (`kernel/sched/fair.c`
//! of the series). The entities of a queue are given as in [`eevdf::pick`](crate::eevdf::pick):
//! `queued` in order of arrival, the current one apart.

use crate::debooster::Host;
use crate::eevdf::{Average, Entity};

/// What a yield makes of [`Entity::lends`] of the yielder and the target (`LENT`). Halved when
/// a slice ends.
pub const LENT: u8 = 2;

impl Entity {
    fn lends(&self) -> bool {
        self.lends > 0
    }
}

/// How far a loan may move an entity from zero lag, in virtual ns at its weight: a slice, but
/// no longer than the host's, and at least a tick (`loan_limit`).
pub fn limit(entity: &Entity, host: &Host) -> u64 {
    let service = entity.slice.min(host.base_slice).max(host.tick);
    entity.load.calc_delta_fair(service)
}

/// Is anybody of the queue owed more than `limit`, virtual ns (`cfs_rq_overdue`)?
pub fn overdue(queued: &[Entity], average: &Average, curr: Option<&Entity>, limit: u64) -> bool {
    let owed = |e: &Entity| average.eligible(curr, e.vruntime.wrapping_add(limit));
    queued.iter().chain(curr).any(owed)
}

/// Why the next buddy of a queue is to run (`enum next_by`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Somebody has named it.
    Hint,
    /// By a loan; `fresh`: no tick has come since it was made.
    Lent {
        /// Its bounds need not be looked at again.
        fresh: bool,
    },
    /// It woke up where somebody lends, and has not run since.
    Woken,
}

/// The next buddy of a queue: one of those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Its place among them.
    pub who: usize,
    /// Why it is to run.
    pub by: By,
}

/// Has the next buddy the turn because it woke up (`next_woken`)? No loan is made to anybody
/// else then.
pub fn woken(
    queued: &[Entity],
    average: &Average,
    curr: Option<&Entity>,
    next: Option<Next>,
) -> Option<usize> {
    let next = next.filter(|next| next.by == By::Woken)?;
    let entity = queued.get(next.who)?;
    average.eligible(curr, entity.vruntime).then_some(next.who)
}

/// May the entity `who` of those that wait run next, although others may come before it
/// (`entity_may_run_ahead`)? Asked on each level of T's path, and again at a pick.
pub fn may_run_ahead(
    queued: &[Entity],
    average: &Average,
    curr: Option<&Entity>,
    who: usize,
    host: &Host,
) -> bool {
    queued.get(who).is_some_and(|entity| {
        let limit = limit(entity, host);
        average.eligible(curr, entity.vruntime.wrapping_sub(limit))
            && !overdue(queued, average, curr, limit)
    })
}

/// Of those that wait and are eligible, or would be with `slack` virtual ns more, the one with
/// the earliest deadline, the first one of equals (`pick_queued`).
pub fn earliest(
    queued: &[Entity],
    average: &Average,
    curr: Option<&Entity>,
    slack: u64,
) -> Option<usize> {
    let mut best: Option<(usize, &Entity)> = None;
    for (index, entity) in queued.iter().enumerate() {
        let eligible = || average.eligible(curr, entity.vruntime.wrapping_sub(slack));
        if best.is_none_or(|(_, best)| entity.before(best)) && eligible() {
            best = Some((index, entity));
        }
    }
    best.map(|(index, _)| index)
}

/// May Y, current as `curr`, pass its turn (`pass_turn`)? While it is owed no more than the
/// limit itself.
pub fn may_skip(average: &Average, curr: &Entity, host: &Host) -> bool {
    let mark = curr.vruntime.wrapping_add(limit(curr, host));
    !average.eligible(Some(curr), mark)
}

/// Who would have the turn of Y, current as `curr` (`pick_borrower`): whom EEVDF picks of those
/// that wait; else who owes no more than the limit. The caller sees to it that nobody but
/// SCHED_IDLE lends to SCHED_IDLE, and goes on to the next one if it is a sleeper whose dequeue
/// is delayed.
pub fn borrower(queued: &[Entity], average: &Average, curr: &Entity, host: &Host) -> Option<usize> {
    earliest(queued, average, Some(curr), 0)
        .or_else(|| earliest(queued, average, Some(curr), limit(curr, host)))
}

/// May the next buddy run (`next_may_run`)? Who woke up runs before a current entity that
/// lends, and else by EEVDF. A loan past its bounds is a hint from now on.
pub fn next_may_run(
    queued: &[Entity],
    average: &Average,
    curr: Option<&Entity>,
    next: Next,
    host: &Host,
) -> bool {
    let eligible = || {
        let entity = queued.get(next.who);
        entity.is_some_and(|e| average.eligible(curr, e.vruntime))
    };
    match next.by {
        By::Hint => eligible(),
        By::Woken => curr.is_none_or(Entity::lends) && eligible(),
        By::Lent { fresh } => {
            fresh || may_run_ahead(queued, average, curr, next.who, host) || eligible()
        }
    }
}

/// To whom Y, current as `curr`, passes its turn (`pass_turn`): who has it already, or the
/// [`borrower`]. `None`: Y goes on.
pub fn pass_turn(
    queued: &[Entity],
    average: &Average,
    curr: &Entity,
    next: Option<Next>,
    host: &Host,
) -> Option<usize> {
    if !may_skip(average, curr, host) {
        return None;
    }
    let has_it = |next: &Next| next_may_run(queued, average, Some(curr), *next, host);
    let next = next.filter(has_it).map(|next| next.who);
    next.or_else(|| borrower(queued, average, curr, host))
}

/// Does a task that wakes up take turns with the current one, its `sibling` in a process
/// (`takes_turns_with`)? Then it waits for its own as it did before it slept: it ends no loan
/// and has no precedence. Threads of a VM that yield to each other wake each other up all the
/// time, and are not who a yield must not delay.
pub fn takes_turns(entity: &Entity, sibling: bool) -> bool {
    sibling && entity.lends()
}

/// Does `who`, which wakes up, preempt the current entity at once because that one lends
/// (`loans_see_wakeup`)? Where yielders forfeit they are soon past V, and give way for that
/// reason.
pub fn gives_way(queued: &[Entity], average: &Average, curr: &Entity, who: usize) -> bool {
    let by = By::Woken;
    curr.lends() && woken(queued, average, Some(curr), Some(Next { who, by })).is_some()
}

/// Does the current task of T's CPU, which got it `ran` ns ago, keep it against a yield from
/// another CPU (`yield_to_holds`)? One of T's own process for 10 us, one of another for a
/// quarter of the base slice. The loan stands, and counts at the next pick.
///
/// Without that, where two vCPUs share a CPU and the rest of their VM spin on CPUs of their
/// own, every spin exit has one of the two pre-empt the other, and once spin exits come more
/// often than a switch takes, neither gets through a switch.
pub fn holds(ran: u64, sibling: bool, host: &Host) -> bool {
    const SIBLING_NS: u64 = 10_000;
    let hold = match sibling {
        true => SIBLING_NS,
        false => SIBLING_NS.max(host.base_slice / 4),
    };
    ran < hold
}
