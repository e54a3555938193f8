//! What the scheduler makes of a directed yield: stock's hint, sched-core's loans, or its
//! settlement on one runqueue.

use sched_core::debooster::{self, Level, Mode as CoreMode, Settlement, Yield};

use super::{GROUP, Host, TaskId};
use crate::policy::Mode;
use crate::queue::Queue;
use crate::scenario::Layout;

impl Host {
    /// `yield_to_task_fair()`: `me` runs, `target` waits. False: nothing came of it for the
    /// target.
    pub(super) fn directed_yield(&mut self, me: TaskId, target: TaskId) -> bool {
        let cpu = self.tasks[me as usize].cpu as usize;
        let other = self.tasks[target as usize].cpu as usize;
        // Nothing may be compared before what has been run is charged.
        self.update_curr(cpu);
        let mode = match self.policy.mode {
            Mode::Ours(CoreMode::Lend) => return self.lend(me, target),
            Mode::Ours(_) if cpu != other => return self.lend(me, target),
            mode => mode,
        };
        self.path(target, |queue, id| queue.set_buddy(id));
        match mode {
            Mode::Ours(_) => {
                if !self.settle(me, target) {
                    self.forfeit(me);
                }
            }
            Mode::Off => {
                self.forfeit(me);
                if cpu != other {
                    self.resched(other);
                }
            }
            Mode::V2 | Mode::V3 | Mode::Hier => self.compare_yield(me, target),
        }
        true
    }

    /// The target runs ahead where it is, the yielder passes its turn (`directed_yield`).
    fn lend(&mut self, me: TaskId, target: TaskId) -> bool {
        let cpu = self.tasks[me as usize].cpu as usize;
        let other = self.tasks[target as usize].cpu as usize;
        self.update_curr(other);
        let ahead = self.run_ahead(target);
        let skip = (cpu != other || !ahead) && self.skip(me);
        if ahead && cpu != other && !self.held(other, target) {
            self.resched(other);
        }
        if !ahead && skip {
            self.resched(cpu);
        }
        ahead
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

    /// Has a CPU's task had it for too short a time to be pre-empted for `target`?
    fn held(&self, cpu: usize, target: TaskId) -> bool {
        let ran = self.now - self.cpus[cpu].picked_at;
        self.cpus[cpu].curr.is_some_and(|curr| {
            let vm = |task: TaskId| self.tasks[task as usize].vm;
            self.is_vmf(curr) || debooster::holds(ran, vm(curr) == vm(target), &self.core)
        })
    }

    /// The target runs next where it is, if the bounds let it on all its levels.
    fn run_ahead(&mut self, target: TaskId) -> bool {
        let times = self.times;
        if self.cpus[self.tasks[target as usize].cpu as usize].resched {
            // Who has the CPU pick anew may be one who woke up.
            return false;
        }
        let mut may = true;
        self.path(target, |queue, id| {
            may &= queue.curr() == Some(id) || queue.may_run_ahead(id, &times);
        });
        if may {
            self.path(target, Queue::run_ahead);
            self.stats.advances += 1;
        }
        may
    }

    /// The yielder passes its turn on the lowest of its levels where somebody else waits.
    fn skip(&mut self, me: TaskId) -> bool {
        let (times, cpu) = (self.times, self.tasks[me as usize].cpu as usize);
        let group = self.group(me, cpu);
        let levels = [
            group.map(|group| (Some(group), me)),
            Some((None, group.map_or(me, |group| GROUP | group as u32))),
        ];
        for (group, id) in levels.into_iter().flatten() {
            let queue = self.queue(group, cpu);
            if queue.len() > 1 {
                let skips = queue.skip(id, &times);
                self.stats.lent += u64::from(skips);
                return skips;
            }
        }
        false
    }
}
