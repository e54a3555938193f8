//! What the scheduler makes of a directed yield: stock's hint, sched-core's settlement on
//! one runqueue, advance and handoff across two.

use sched_core::debooster::{self, Level, Mode as CoreMode, Place, Settlement, Tunables, Yield};

use super::{GROUP, Host, TaskId, Where};
use crate::policy::Mode;
use crate::scenario::Layout;

impl Host {
    /// `yield_to_task_fair()`: `me` runs, `target` waits.
    pub(super) fn directed_yield(&mut self, me: TaskId, target: TaskId) {
        let cpu = self.tasks[me as usize].cpu as usize;
        let other = self.tasks[target as usize].cpu as usize;
        // Nothing may be compared before what has been run is charged.
        self.update_curr(cpu);
        self.path(target, |queue, id| queue.set_buddy(id));
        let Mode::Ours(mode) = self.policy.mode else {
            return self.compare_yield(me, target);
        };
        if cpu != other {
            return self.yield_across(me, target);
        }
        let settled = match mode {
            CoreMode::Off | CoreMode::Plain => false,
            CoreMode::Lend => self.run_ahead(me, target),
            _ => self.settle(me, target),
        };
        if !settled {
            self.forfeit(me);
        }
    }

    /// Mode lend: the target runs ahead, or else who is next. False: the two have taken turns
    /// for so long that the yielder forfeits.
    fn run_ahead(&mut self, me: TaskId, target: TaskId) -> bool {
        let other = self.tasks[target as usize].yields;
        let state = &mut self.tasks[me as usize].yields;
        let (from, to) = (u64::from(me), u64::from(target));
        if state.turns_are_up(from, to, &other, self.now, &self.tunables) {
            return false;
        }
        if !self.advance(target) {
            self.lend(me);
        }
        true
    }

    /// Stock's forfeit, on the task's own level only. In a group of its own that level
    /// decides nothing.
    pub(super) fn forfeit(&mut self, me: TaskId) {
        let cpu = self.tasks[me as usize].cpu as usize;
        if self.cpus[cpu].nr < 2 || self.layout == Layout::Vcpu {
            return;
        }
        let times = self.times;
        self.level(me).forfeit(&times);
    }

    fn settle(&mut self, me: TaskId, target: TaskId) -> bool {
        let now = self.now;
        let window = self.tunables.pair_window_ns;
        let yields = &self.tasks[target as usize].yields;
        let damped = window > 0 && yields.reversed(u64::from(me), now, window);
        let Some((from, to, gap, n)) = self.pair(me, target) else {
            return false;
        };
        let pair = Yield {
            from: &[from],
            to: &[to],
            gap,
            n,
            now,
        };
        let mut state = self.tasks[me as usize].yields;
        let (tunables, core) = (self.tunables, self.core);
        let settled = debooster::settle(
            &pair,
            damped,
            u64::from(target),
            &mut state,
            &tunables,
            &core,
        );
        self.tasks[me as usize].yields = state;
        match settled {
            Ok(settlement) => self.apply(me, target, settlement),
            Err(_) => {
                self.stats.refused += 1;
                return false;
            }
        }
        true
    }

    /// Two tasks of a VM compete on the level of their own entities in every layout: groups
    /// of one vCPU have no level that decides anything below that.
    pub(super) fn pair(&mut self, me: TaskId, target: TaskId) -> Option<(Level, Level, i64, u32)> {
        let queue = self.level(me);
        let (from, to) = (queue.level(me)?, queue.level(target)?);
        let gap = from.vlag.wrapping_sub(to.vlag);
        Some((from, to, gap, queue.runnable() as u32))
    }

    pub(super) fn apply(&mut self, me: TaskId, target: TaskId, settlement: Settlement) {
        let queue = self.level(me);
        match settlement {
            Settlement::Eligible => queue.clear_buddy(me),
            Settlement::Transfer { amount } => {
                queue.change(me, |e| e.pay(amount));
                queue.change(target, |e| e.get(amount));
            }
            Settlement::Credit { amount } => queue.change(target, |e| e.get(amount)),
            Settlement::Penalty { virtual_ns } => queue.change(me, |e| e.pay_virtual(virtual_ns)),
        }
        self.stats.settled += u64::from(settlement != Settlement::Eligible);
    }

    /// The target waits on another CPU.
    fn yield_across(&mut self, me: TaskId, target: TaskId) {
        let other = self.tasks[target as usize].cpu as usize;
        let Tunables {
            mode,
            handoff,
            advance,
            lend,
            ..
        } = self.tunables;
        if mode == CoreMode::Off {
            self.forfeit(me);
            return self.resched(other);
        }
        if handoff && self.hand_off(me, target) {
            return;
        }
        self.update_curr(other);
        let mut settled = advance && self.advance(target);
        if lend {
            self.lend(me);
            settled = true;
        }
        if !settled {
            self.forfeit(me);
        }
        if !self.held(other) && (!advance || self.would_win(target)) {
            self.resched(other);
        }
    }

    /// Has a CPU's task run for too short a time to be pre-empted by a yield?
    fn held(&self, cpu: usize) -> bool {
        let ran = self.now - self.cpus[cpu].picked_at;
        let fair = self.cpus[cpu].curr.is_some_and(|curr| !self.is_vmf(curr));
        fair && debooster::holds(ran, self.tunables.hold_ns)
    }

    /// The yielder's turn goes to who is next on the lowest of its levels where there is
    /// somebody.
    fn lend(&mut self, me: TaskId) {
        let (times, cpu) = (self.times, self.tasks[me as usize].cpu as usize);
        let group = self.group(me, cpu);
        let levels = [
            group.map(|group| (Some(group), me)),
            Some((None, group.map_or(me, |group| GROUP | group as u32))),
        ];
        for (group, id) in levels.into_iter().flatten() {
            let Some(to) = self.queue(group, cpu).borrower(id, &times) else {
                continue;
            };
            let sleeps = match to & GROUP {
                0 => self.tasks[to as usize].place == Where::Delayed,
                _ => self.groups[(to & !GROUP) as usize].delayed,
            };
            if !sleeps {
                let queue = self.queue(group, cpu);
                queue.set_buddy(to);
                queue.let_advance(to);
                self.stats.lent += 1;
                return;
            }
        }
    }

    /// Lets the target run although it is not eligible. False: it is out of its bound.
    fn advance(&mut self, target: TaskId) -> bool {
        let times = self.times;
        let mut may = true;
        self.path(target, |queue, id| {
            may &= queue.curr() == Some(id) || queue.may_advance(id, &times)
        });
        if may {
            self.path(target, |queue, id| queue.let_advance(id));
            self.stats.advances += 1;
        }
        may
    }

    fn would_win(&mut self, target: TaskId) -> bool {
        let times = self.times;
        let mut wins = true;
        self.path(target, |queue, id| {
            wins &= queue.curr() == Some(id) || queue.buddy_wins(id, &times);
        });
        wins
    }

    /// Yielder and target exchange their places; the yielder follows when it is switched
    /// out.
    fn hand_off(&mut self, me: TaskId, target: TaskId) -> bool {
        let (from, to) = (&self.tasks[me as usize], &self.tasks[target as usize]);
        if from.swap.is_some() || from.pinned || to.pinned {
            return false;
        }
        let (cpu, other, weight) = (from.cpu as usize, to.cpu, to.entity.load.weight());
        // A place is a distance from V, and V moves with what runs there: charge first what
        // the other CPU has run since it last looked, up to a tick.
        self.update_curr(other as usize);
        let times = self.times;
        let queue = self.level(me);
        let Some(mine) = queue.place_of(me, &times) else {
            return false;
        };
        let mine = mine.beside(queue.weight(), weight);
        let Some(theirs) = self.level(target).place_of(target, &times) else {
            return false;
        };
        self.tasks[me as usize].swap = Some((other, theirs));
        self.take_place(target, cpu, &mine);
        self.path(target, |queue, id| queue.set_buddy(id));
        self.stats.handoffs += 1;
        true
    }

    fn take_place(&mut self, task: TaskId, cpu: usize, place: &Place) {
        let since = self.tasks[task as usize].waiting_since;
        self.dequeue(task, false);
        place.take(&mut self.tasks[task as usize].entity);
        self.enqueue(task, cpu);
        self.tasks[task as usize].waiting_since = since;
        self.stats.migrations += 1;
    }

    /// A yielder that gave its place away was switched out: it takes its new one.
    pub(super) fn follow(&mut self, task: TaskId) {
        let state = &mut self.tasks[task as usize];
        if state.place == Where::Running {
            return;
        }
        let Some((cpu, place)) = state.swap.take() else {
            return;
        };
        let cpu = cpu as usize;
        if state.place != Where::Waiting || state.cpu as usize == cpu {
            return;
        }
        self.take_place(task, cpu, &place);
        self.stats.swaps += 1;
        if self.cpus[cpu].curr.is_none() {
            self.resched(cpu);
        }
    }
}
