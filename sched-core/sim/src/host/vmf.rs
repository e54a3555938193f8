//! The class VMF on a host: before fair, with fair's floor, by sched-core's queue.

use sched_core::vmf::{self, FAIR_PERIOD, FAIR_RUNTIME, Kind};

use super::{Host, TaskId, VMF_ROOM, Where};
use crate::scenario::Class;

impl Host {
    pub(super) fn is_vmf(&self, task: TaskId) -> bool {
        self.tasks[task as usize].class == Class::Vmf
    }

    /// Does somebody of the class wait on a CPU?
    pub(super) fn vmf_waits(&self, cpu: usize) -> bool {
        self.vmf && !self.cpus[cpu].vmf.is_empty()
    }

    /// A vCPU becomes runnable on a CPU that has room.
    pub(super) fn vmf_enqueue(&mut self, task: TaskId, cpu: usize) {
        let state = &self.tasks[task as usize];
        let from = self.cpus[state.cpu as usize].vmf.min_vtime();
        let mut entity = vmf::Task {
            id: task,
            vm: state.vm,
            kind: Kind::Vcpu,
            vtime: state.vtime,
        };
        let on = &self.cpus[cpu];
        on.vmf
            .place(&mut entity, from, &on.vmf_accounts[state.vm as usize]);
        self.tasks[task as usize].vtime = entity.vtime;
        self.vmf_queue(task, cpu);
    }

    fn vmf_task(&self, task: TaskId) -> vmf::Task {
        let state = &self.tasks[task as usize];
        vmf::Task {
            id: task,
            vm: state.vm,
            kind: Kind::Vcpu,
            vtime: state.vtime,
        }
    }

    fn vmf_queue(&mut self, task: TaskId, cpu: usize) {
        let entity = self.vmf_task(task);
        let queued = self.cpus[cpu].vmf.enqueue(entity);
        debug_assert!(queued.is_ok(), "scenarios and wake-ups leave room");
    }

    pub(super) fn vmf_dequeue(&mut self, task: TaskId) {
        let cpu = self.tasks[task as usize].cpu as usize;
        self.cpus[cpu].vmf.dequeue(task);
    }

    /// The running task waits again.
    pub(super) fn vmf_put(&mut self, task: TaskId, cpu: usize) {
        self.vmf_queue(task, cpu);
    }

    /// Charges the running task; its slice may be over, or fair's floor due.
    pub(super) fn vmf_charge(&mut self, cpu: usize, task: TaskId, ns: u64) {
        let mut entity = self.vmf_task(task);
        let state = &mut self.cpus[cpu];
        let siblings = state.vmf.iter().filter(|t| t.vm == entity.vm).count();
        entity.charge(ns, siblings as u32 + 1);
        self.tasks[task as usize].vtime = entity.vtime;
        state.vmf_accounts[entity.vm as usize].note(&entity);
        state.vmf.update_min(Some(&entity));
        let ran = self.now - state.picked_at;
        if state.vmf.slice_over(&entity, ran) || self.fair_is_due(cpu) {
            self.resched(cpu);
        }
    }

    /// When the running VMF task is to be looked at again.
    pub(super) fn vmf_slice_end(&self, cpu: usize) -> u64 {
        let state = &self.cpus[cpu];
        let slice = match state.vmf.is_empty() {
            true => u64::MAX,
            false => (state.picked_at + vmf::SLICE).max(self.now + 1),
        };
        let floor = state.fair_waits_since.map_or(u64::MAX, |since| {
            let wait = vmf::fair_longest_wait(FAIR_RUNTIME, FAIR_PERIOD);
            (since + wait).max(self.now + 1)
        });
        slice.min(floor)
    }

    fn fair_is_due(&self, cpu: usize) -> bool {
        let wait = vmf::fair_longest_wait(FAIR_RUNTIME, FAIR_PERIOD);
        let since = self.cpus[cpu].fair_waits_since;
        since.is_some_and(|since| self.now - since >= wait)
    }

    /// Which class a CPU picks from: VMF, unless it has nobody or fair's floor is due.
    pub(super) fn vmf_pick(&mut self, cpu: usize) -> Option<TaskId> {
        if !self.vmf {
            return None;
        }
        if self.fair_is_due(cpu) {
            self.cpus[cpu].fair_waits_since = None;
            self.cpus[cpu].fair_until = self.now + FAIR_RUNTIME;
        }
        let fair = !self.cpus[cpu].root.is_empty();
        if fair && self.now < self.cpus[cpu].fair_until {
            return None;
        }
        let next = self.cpus[cpu].vmf.pick().map(|t| t.id);
        let curr = self.cpus[cpu]
            .curr
            .filter(|t| self.is_vmf(*t) && self.tasks[*t as usize].place == Where::Running);
        let stays = |curr: TaskId| {
            let ran = self.now - self.cpus[cpu].picked_at;
            !self.cpus[cpu].vmf.slice_over(&self.vmf_task(curr), ran)
                && !self.cpus[cpu].vmf_give_way
        };
        let pick = match (curr, next) {
            (Some(curr), _) if stays(curr) => Some(curr),
            (curr, next) => next.or(curr),
        };
        self.cpus[cpu].vmf_give_way = false;
        let waits = &mut self.cpus[cpu].fair_waits_since;
        match pick {
            Some(_) if fair => _ = waits.get_or_insert(self.now),
            _ => *waits = None,
        }
        pick
    }

    /// A vCPU woke up: fair makes room at once, VMF if it is behind enough.
    pub(super) fn vmf_wakeup_preempt(&mut self, task: TaskId, cpu: usize) {
        let Some(curr) = self.cpus[cpu].curr else {
            return self.resched(cpu);
        };
        let min = self.cpus[cpu].vmf.min_vtime();
        if !self.is_vmf(curr) {
            self.resched(cpu);
        } else if self.vmf_task(task).preempts(&self.vmf_task(curr), min) {
            self.cpus[cpu].vmf_give_way = true;
            self.resched(cpu);
        }
    }

    /// Where a vCPU wakes up: where no other VMF task runs.
    pub(super) fn vmf_wake_cpu(&self, prev: usize) -> usize {
        let free = |cpu: &usize| self.cpus[*cpu].curr.is_none_or(|t| !self.is_vmf(t));
        if free(&prev) {
            return prev;
        }
        let near = self.llc_of(prev).find(free).unwrap_or(prev);
        let room = |cpu: &usize| self.vmf_has_room(*cpu);
        let all = std::iter::once(near).chain(0..self.cpus.len());
        // A scenario has fewer than there is room for.
        all.into_iter().find(room).unwrap_or(near)
    }

    fn vmf_has_room(&self, cpu: usize) -> bool {
        self.cpus[cpu].vmf.len() + 1 < VMF_ROOM
    }

    /// A directed yield within VMF. A target on another CPU comes here.
    pub(super) fn vmf_yield(&mut self, me: TaskId, target: TaskId) {
        let cpu = self.tasks[me as usize].cpu as usize;
        if self.tasks[target as usize].cpu as usize != cpu {
            if self.tasks[target as usize].pinned || !self.vmf_has_room(cpu) {
                return;
            }
            self.migrate(target, cpu);
        }
        let mut yielder = self.vmf_task(me);
        if self.cpus[cpu].vmf.yield_to(&mut yielder, target).is_some() {
            self.stats.settled += 1;
        }
        self.tasks[me as usize].vtime = yielder.vtime;
        let queue = &self.cpus[cpu].vmf;
        if let Some(vtime) = queue.iter().find(|t| t.id == target).map(|t| t.vtime) {
            self.tasks[target as usize].vtime = vtime;
        }
        self.cpus[cpu].vmf_give_way = true;
    }
}
