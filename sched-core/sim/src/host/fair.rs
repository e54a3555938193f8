//! Queueing, picking and switching: the fair class of 6.12 around sched-core's arithmetic.

use sched_core::debooster::loan;
use sched_core::eevdf::{Entity, Join};
use sched_core::weight::LoadWeight;

use super::{Cpu, GROUP, Group, Host, NO_VM, TaskId, Where};
use crate::queue::{Id, Queue};
use crate::scenario::{Class, Layout, SliceEnd};
use crate::timers::NEVER;

const NO_GROUP: u32 = u32::MAX;

impl Host {
    /// A task's group on a CPU, made when it is first needed; `None` on the top level.
    #[inline]
    pub(super) fn group(&mut self, task: TaskId, cpu: usize) -> Option<usize> {
        match self.layout {
            Layout::Flat => None,
            Layout::Vm | Layout::Vcpu => self.group_below(task, cpu),
        }
    }

    fn group_below(&mut self, task: TaskId, cpu: usize) -> Option<usize> {
        let vm = self.tasks[task as usize].vm;
        if vm == NO_VM {
            return None;
        }
        let slot = vm as usize * self.cpus.len() + cpu;
        if self.group_of[slot] == NO_GROUP {
            self.group_of[slot] = self.groups.len() as u32;
            let load = LoadWeight::from_load(self.vms[vm as usize].shares << 10);
            self.groups.push(Group {
                entity: Entity::new(load, self.times.base_slice),
                queue: Queue::default(),
                delayed: false,
            });
        }
        Some(self.group_of[slot] as usize)
    }

    /// The level that a task competes on where it is.
    pub(super) fn level(&mut self, task: TaskId) -> &mut Queue {
        let cpu = self.tasks[task as usize].cpu as usize;
        let group = self.group(task, cpu);
        self.queue(group, cpu)
    }

    /// A group's queue, or a CPU's.
    pub(super) fn queue(&mut self, group: Option<usize>, cpu: usize) -> &mut Queue {
        match group {
            Some(group) => &mut self.groups[group].queue,
            None => &mut self.cpus[cpu].root,
        }
    }

    /// The levels of a task from its own up, with its id on each.
    pub(super) fn path(&mut self, task: TaskId, mut on: impl FnMut(&mut Queue, Id)) {
        let cpu = self.tasks[task as usize].cpu as usize;
        match self.group(task, cpu) {
            Some(group) => {
                on(&mut self.groups[group].queue, task);
                on(&mut self.cpus[cpu].root, GROUP | group as u32);
            }
            None => on(&mut self.cpus[cpu].root, task),
        }
    }

    /// Charges what a CPU has run; it picks anew if a request is used up.
    pub(super) fn update_curr(&mut self, cpu: usize) {
        let state = &mut self.cpus[cpu];
        let ns = self.now - state.charged;
        state.charged = self.now;
        let Some(task) = state.curr else {
            state.slice_end = NEVER;
            return;
        };
        if ns > 0 {
            self.tasks[task as usize].run_ns += ns;
            if self.is_vmf(task) {
                self.vmf_charge(cpu, task, ns);
                return self.set_slice_end(cpu, task);
            }
            if self.vmf_waits(cpu) && self.now >= self.cpus[cpu].fair_until {
                self.resched(cpu);
            }
            let times = self.times;
            let mut used_up = false;
            self.path(task, |queue, _| used_up |= queue.charge(ns, &times));
            if used_up {
                self.resched(cpu);
            }
        }
        self.set_slice_end(cpu, task);
    }

    fn set_slice_end(&mut self, cpu: usize, task: TaskId) {
        if self.is_vmf(task) {
            self.cpus[cpu].slice_end = self.vmf_slice_end(cpu);
            return;
        }
        let mut left = None;
        self.path(task, |queue, _| {
            left = [left, queue.request_left()].into_iter().flatten().min();
        });
        let at = left.map_or(NEVER, |left: u64| self.cpus[cpu].charged + left);
        self.cpus[cpu].slice_end = match self.slice_end {
            SliceEnd::Exact => at,
            SliceEnd::Tick if at == NEVER => NEVER,
            SliceEnd::Tick => {
                let (tick, phase) = (self.times.tick, self.cpus[cpu].phase);
                (at + tick - phase).div_ceil(tick) * tick - tick + phase
            }
        };
        if self.vmf_waits(cpu) {
            // Fair has the CPU as its floor only.
            let state = &mut self.cpus[cpu];
            state.slice_end = state.slice_end.min(state.fair_until.max(self.now + 1));
        }
    }

    /// The part of a VM's weight that its group has on one CPU (`calc_group_shares`, with
    /// weights as they are instead of their decaying averages).
    fn group_load(&self, vm: u32, group: usize) -> LoadWeight {
        let vm = &self.vms[vm as usize];
        let here = self.groups[group].queue.weight();
        let load = (vm.shares << 10) * here / vm.weight.max(here).max(1);
        LoadWeight::from_load(load.max(2 << 10))
    }

    /// Has a group's weight follow what its VM does elsewhere (`update_cfs_group`).
    fn refresh_group(&mut self, task: TaskId, cpu: usize) {
        let vm = self.tasks[task as usize].vm;
        let Some(group) = self.group(task, cpu).filter(|_| !self.is_vmf(task)) else {
            return;
        };
        let (id, load) = (GROUP | group as u32, self.group_load(vm, group));
        let root = &mut self.cpus[cpu].root;
        if root.entity(id).is_some_and(|e| e.load != load) {
            root.reweight(id, load, &self.times);
        }
    }

    /// A task becomes runnable on a CPU.
    pub(super) fn enqueue(&mut self, task: TaskId, cpu: usize) {
        self.update_curr(cpu);
        if self.is_vmf(task) {
            self.vmf_enqueue(task, cpu);
        }
        let times = self.times;
        let state = &mut self.tasks[task as usize];
        (state.cpu, state.place) = (cpu as u32, Where::Waiting);
        state.waiting_since = self.now;
        let (entity, vm) = (state.entity, state.vm);
        if state.class == Class::Vmf {
            return self.count(cpu, 1);
        }
        if vm != NO_VM {
            self.vms[vm as usize].weight += u64::from(entity.load.weight());
        }
        match self.group(task, cpu) {
            None => self.cpus[cpu].root.join(task, entity, Join::Again, &times),
            Some(group) => {
                self.groups[group]
                    .queue
                    .join(task, entity, Join::Again, &times);
                let id = GROUP | group as u32;
                let load = self.group_load(vm, group);
                if self.groups[group].delayed {
                    self.groups[group].delayed = false;
                    self.cpus[cpu].root.requeue(id, &times);
                    self.cpus[cpu].root.reweight(id, load, &times);
                } else if self.groups[group].queue.len() > 1 {
                    self.cpus[cpu].root.reweight(id, load, &times);
                } else {
                    let mut entity = self.groups[group].entity;
                    entity.load = load;
                    self.cpus[cpu].root.join(id, entity, Join::Again, &times);
                }
            }
        }
        self.count(cpu, 1);
    }

    /// A task leaves its CPU's queues, to `sleep`, at once or later, or to another one.
    pub(super) fn dequeue(&mut self, task: TaskId, sleep: bool) {
        let cpu = self.tasks[task as usize].cpu as usize;
        self.update_curr(cpu);
        if self.is_vmf(task) {
            self.vmf_dequeue(task);
            self.tasks[task as usize].place = Where::Asleep;
            return self.count(cpu, -1);
        }
        if !(sleep && self.delay(task)) {
            self.leave(task, sleep);
        }
    }

    /// A task of the fair class leaves its CPU's queues.
    pub(super) fn leave(&mut self, task: TaskId, sleep: bool) {
        let (times, cpu) = (self.times, self.tasks[task as usize].cpu as usize);
        let entity = self.level(task).leave(task, sleep, &times);
        let Some(entity) = entity else { return };
        let state = &mut self.tasks[task as usize];
        state.entity = entity;
        state.place = Where::Asleep;
        let vm = state.vm;
        if vm != NO_VM {
            self.vms[vm as usize].weight -= u64::from(entity.load.weight());
        }
        if let Some(group) = self.group(task, cpu) {
            if self.groups[group].queue.is_empty() {
                self.group_sleeps(group, cpu);
            } else {
                let id = GROUP | group as u32;
                let load = self.group_load(vm, group);
                let root = &mut self.cpus[cpu].root;
                root.reweight(id, load, &times);
                if sleep {
                    // Its request isn't used up: another one of the group has the rest.
                    root.set_buddy(id);
                }
            }
        }
        self.count(cpu, -1);
    }

    fn count(&mut self, cpu: usize, change: i32) {
        let nr = self.cpus[cpu].nr.saturating_add_signed(change);
        self.cpus[cpu].nr = nr;
        self.overloaded.set(cpu, nr > 1);
        if let Some(task) = self.cpus[cpu].curr
            && self.tasks[task as usize].place == Where::Running
        {
            self.set_slice_end(cpu, task);
            self.rearm(cpu);
            if nr > 1 {
                self.end_poll(task);
            }
        }
    }

    /// Moves a waiting task to another CPU.
    pub(super) fn migrate(&mut self, task: TaskId, to: usize) {
        let since = self.tasks[task as usize].waiting_since;
        self.dequeue(task, false);
        if self.layout == Layout::Vcpu {
            // Its group has been elsewhere: lag belongs to a group on a CPU.
            self.tasks[task as usize].entity.vlag = 0;
        }
        self.enqueue(task, to);
        self.tasks[task as usize].waiting_since = since;
        self.stats.migrations += 1;
    }

    /// Should a task that became runnable have the CPU at once?
    pub(super) fn wakeup_preempt(&mut self, task: TaskId) {
        let cpu = self.tasks[task as usize].cpu as usize;
        if self.is_vmf(task) {
            return self.vmf_wakeup_preempt(task, cpu);
        }
        let Some(curr) = self.cpus[cpu].curr else {
            return self.resched(cpu);
        };
        if self.is_vmf(curr) {
            return;
        }
        let takes_turns = self.takes_turns_with(curr, task);
        if !takes_turns {
            self.path(task, Queue::wake);
        }
        if self.cpus[cpu].resched {
            return;
        }
        let (from, to) = (self.group(curr, cpu), self.group(task, cpu));
        let (queue, id) = match (from, to) {
            (Some(a), Some(b)) if a == b => (&self.groups[a].queue, task),
            (_, Some(group)) => (&self.cpus[cpu].root, GROUP | group as u32),
            (_, None) => (&self.cpus[cpu].root, task),
        };
        let wins = !takes_turns && queue.gives_way(id) || queue.pick_eevdf() == Some(id);
        if wins {
            self.resched(cpu);
        }
    }

    /// Does a task that became runnable take turns with the one that runs there?
    fn takes_turns_with(&mut self, curr: TaskId, task: TaskId) -> bool {
        let vm = self.tasks[task as usize].vm;
        let sibling = vm != NO_VM && vm == self.tasks[curr as usize].vm;
        let entity = self.level(task).entity(task);
        entity.is_some_and(|entity| loan::takes_turns(entity, sibling))
    }

    fn pick(&mut self, cpu: usize) -> Option<TaskId> {
        if let Some(task) = self.vmf_pick(cpu) {
            return Some(task);
        }
        let times = self.times;
        loop {
            let id = self.cpus[cpu].root.pick(&times)?;
            let group = (id & !GROUP) as usize;
            let task = match id & GROUP {
                0 => id,
                _ if self.groups[group].delayed => {
                    self.end_group_delay(group, cpu);
                    continue;
                }
                _ => self.groups[group].queue.pick(&times)?,
            };
            if self.tasks[task as usize].place != Where::Delayed {
                return Some(task);
            }
            self.end_delay(task);
        }
    }

    /// A CPU picks who runs next.
    pub(super) fn schedule(&mut self, cpu: usize) {
        self.sync(cpu);
        self.update_curr(cpu);
        self.cpus[cpu].resched = false;
        let prev = self.cpus[cpu].curr;
        if let Some(task) = prev {
            self.refresh_group(task, cpu);
        }
        let mut next = self.pick(cpu);
        if next.is_none() && self.pull(cpu, true) {
            next = self.pick(cpu);
        }
        if next != prev || next.is_none() {
            self.switch(cpu, prev, next);
        }
        if let Some(task) = next {
            self.tasks[task as usize].in_spin = false;
            self.refresh_group(task, cpu);
            self.set_slice_end(cpu, task);
        }
        // What a switch asked for is done.
        self.cpus[cpu].resched = false;
        self.to_resched.retain(|other| *other != cpu as u32);
        self.rearm(cpu);
    }

    fn switch(&mut self, cpu: usize, prev: Option<TaskId>, next: Option<TaskId>) {
        if let Some(task) = prev {
            self.put(cpu, task, next);
        }
        let state = &mut self.cpus[cpu];
        (state.curr, state.charged, state.synced) = (next, self.now, self.now);
        self.idle.set(cpu, next.is_none());
        let Some(task) = next else {
            self.cpus[cpu].slice_end = NEVER;
            return;
        };
        self.set_current(cpu, task);
        self.stats.switches += 1;
        let state = &mut self.tasks[task as usize];
        state.place = Where::Running;
        state.delay_ns += self.now - state.waiting_since;
        state.guest.overhead = state.guest.overhead.max(self.costs.switch);
        if state.vm != NO_VM {
            self.stats.vcpu_runs += 1;
        }
        if let Some(at) = state.yielded_to_at.take() {
            self.stats.yield_to_run.0 += 1;
            self.stats.yield_to_run.1 += self.now - at;
        }
        self.seen_in(task);
        self.take_sem_at_last(task);
    }

    /// The previous task waits again, unless it has left.
    fn put(&mut self, cpu: usize, task: TaskId, next: Option<TaskId>) {
        let state = &mut self.tasks[task as usize];
        state.ran_until = self.now;
        let class = state.class;
        let left = state.place != Where::Running;
        if !left {
            state.place = Where::Waiting;
            state.waiting_since = self.now;
        }
        self.seen_out(task, !left);
        if class == Class::Vmf {
            if !left {
                self.vmf_put(task, cpu);
            }
            return;
        }
        let group = self.group(task, cpu);
        let stays = next.is_some_and(|next| !self.is_vmf(next) && self.group(next, cpu) == group);
        if let Some(group) = group {
            self.groups[group].queue.put_curr();
        }
        if group.is_none() || !stays {
            self.cpus[cpu].root.put_curr();
        }
    }

    fn set_current(&mut self, cpu: usize, task: TaskId) {
        self.cpus[cpu].picked_at = self.now;
        if self.is_vmf(task) {
            self.cpus[cpu].vmf.dequeue(task);
            return;
        }
        match self.group(task, cpu) {
            None => self.cpus[cpu].root.set_curr(task),
            Some(group) => {
                self.groups[group].queue.set_curr(task);
                let Cpu { root, .. } = &mut self.cpus[cpu];
                let id = GROUP | group as u32;
                if root.curr() != Some(id) {
                    root.set_curr(id);
                } else {
                    root.clear_buddy(id);
                }
            }
        }
    }
}
