//! Which CPU: wake-ups, pulls of a CPU that would be idle, periodic balancing.

use super::{GROUP, Host, NO_VM, TaskId, Where};

/// A thread that ran less than this ago has its data in its CPU's cache
/// (`sysctl_sched_migration_cost`).
const HOT_NS: u64 = 500_000;
/// ... unless a CPU has failed more often than this to take one (`cache_nice_tries`).
const NICE_TRIES: u32 = 1;
/// A busy CPU balances this much more seldom than an idle one.
const BUSY_FACTOR: u64 = 16;

impl Host {
    /// The CPUs that share a cache with `cpu`.
    pub(super) fn llc_of(&self, cpu: usize) -> std::ops::Range<usize> {
        let first = cpu / self.llc * self.llc;
        first..(first + self.llc).min(self.cpus.len())
    }

    fn idle_in_llc(&self, cpu: usize) -> Option<usize> {
        let llc = self.llc_of(cpu);
        let mut after = self.idle.range(cpu, llc.end);
        after
            .next()
            .or_else(|| self.idle.range(llc.start, cpu).next())
    }

    /// Where a task wakes up (`select_task_rq_fair`): where it was if that is idle, an idle
    /// CPU beside, its waker's if less waits there even with it, or where it was.
    pub(super) fn wake_cpu(&self, task: TaskId, waker: Option<usize>) -> usize {
        let state = &self.tasks[task as usize];
        let prev = state.cpu as usize;
        if state.pinned || self.idle.has(prev) {
            return prev;
        }
        if self.is_vmf(task) {
            return self.vmf_wake_cpu(prev);
        }
        let runnable = |cpu: usize| self.cpus[cpu].nr - self.cpus[cpu].delayed;
        let target = match waker {
            Some(waker) if runnable(waker) + 1 < runnable(prev) => waker,
            _ => prev,
        };
        self.idle_in_llc(target).unwrap_or(target)
    }

    /// A CPU has nobody to run: it takes somebody who waits elsewhere, in its own LLC
    /// first. `keep_hot`: not one whose data is in the cache there.
    pub(super) fn pull(&mut self, cpu: usize, keep_hot: bool) -> bool {
        if self.overloaded.is_empty() {
            return false;
        }
        let llc = self.llc_of(cpu);
        let busiest = self.overloaded.range(llc.start, llc.end);
        let busiest = busiest.max_by_key(|c| (self.cpus[*c].nr, std::cmp::Reverse(*c)));
        if let Some(from) = busiest
            && self.pull_from(cpu, from, keep_hot)
        {
            return true;
        }
        let all = self.cpus.len();
        let far = self.overloaded.range(llc.end, all).next();
        let far = far.or_else(|| self.overloaded.range(0, llc.start).next());
        far.is_some_and(|from| self.pull_from(cpu, from, keep_hot))
    }

    /// The task that ran longest ago of those that may be moved.
    fn movable(&self, from: usize, keep_hot: bool) -> Option<TaskId> {
        let cpu = &self.cpus[from];
        let inside = |id: &u32| match id & GROUP {
            0 => Vec::from([*id]),
            _ => self.groups[(id & !GROUP) as usize].queue.waiting().to_vec(),
        };
        let running = cpu.root.curr();
        let tasks = cpu
            .root
            .waiting()
            .iter()
            .chain(running.as_ref())
            .flat_map(inside);
        let tasks = tasks.chain(cpu.vmf.iter().map(|t| t.id));
        let movable = tasks.filter(|task| {
            let state = &self.tasks[*task as usize];
            let hot = self.now - state.ran_until < HOT_NS;
            let waits = state.place == Where::Waiting;
            waits && !state.pinned && cpu.curr != Some(*task) && !(keep_hot && hot)
        });
        movable.min_by_key(|task| self.tasks[*task as usize].ran_until)
    }

    /// A CPU balances: it takes a task from another, a hot one only after it has failed.
    fn balance_from(&mut self, cpu: usize, from: usize) -> bool {
        let failed = self.cpus[cpu].balance_failed;
        let pulled = self.pull_from(cpu, from, failed <= NICE_TRIES);
        self.cpus[cpu].balance_failed = if pulled { 0 } else { failed + 1 };
        pulled
    }

    fn pull_from(&mut self, cpu: usize, from: usize, keep_hot: bool) -> bool {
        let Some(task) = self.movable(from, keep_hot) else {
            return false;
        };
        self.migrate(task, cpu);
        true
    }

    /// A busy CPU's tick has an idle CPU look for work (`nohz_balancer_kick`).
    pub(super) fn kick_idle_balance(&mut self, cpu: usize) {
        if self.idle.is_empty() || self.cpus[cpu].nr < 2 {
            return;
        }
        let near = self.idle_in_llc(cpu);
        let idle = near.or_else(|| self.idle.range(0, self.cpus.len()).next());
        if let Some(idle) = idle
            && self.balance_from(idle, cpu)
        {
            self.resched(idle);
        }
    }

    /// When a CPU balances next: domains of n CPUs do every n ms, 16 times as seldom when
    /// busy.
    pub(super) fn balance_interval(&self, cpu: usize) -> u64 {
        let ms = self.llc_of(cpu).len() as u64;
        let factor = if self.cpus[cpu].curr.is_none() {
            1
        } else {
            BUSY_FACTOR
        };
        ms * factor * 1_000_000
    }

    /// A CPU takes a task of its LLC's busiest CPU, now and then of another LLC's, if that
    /// has two more than it.
    pub(super) fn periodic_balance(&mut self, cpu: usize) {
        let llc = self.llc_of(cpu);
        let busiest = |range: std::ops::Range<usize>| {
            let overloaded = self.overloaded.range(range.start, range.end);
            overloaded.max_by_key(|c| (self.cpus[*c].nr, std::cmp::Reverse(*c)))
        };
        let mut from = busiest(llc.clone());
        if llc.start == cpu && from.is_none_or(|c| self.cpus[c].nr < self.cpus[cpu].nr + 2) {
            from = busiest(0..self.cpus.len());
        }
        if let Some(from) = from
            && self.cpus[from].nr >= self.cpus[cpu].nr + 2
            && self.balance_from(cpu, from)
            && self.cpus[cpu].curr.is_none()
        {
            self.resched(cpu);
        }
        let next = self.now + self.balance_interval(cpu);
        self.timers.set((self.cpus.len() + cpu) as u32, next);
    }

    /// Whether a task is a vCPU.
    pub(super) fn is_vcpu(&self, task: TaskId) -> bool {
        self.tasks[task as usize].vm != NO_VM
    }
}
