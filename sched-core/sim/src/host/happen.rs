//! What guests do to one another: locks, interrupts, barriers, halting and waking.

use super::spin::{CALL_VECTOR, MANY_VECTOR};
use super::{Host, TaskId, Where};
use crate::guest::{Guest, Happening, Held, State};
use crate::scenario::{Action, Step};

impl Host {
    pub(super) fn guest(&mut self, task: TaskId) -> &mut Guest {
        &mut self.tasks[task as usize].guest
    }

    /// All that happens on a CPU at this moment.
    pub(super) fn happenings(&mut self, cpu: usize) {
        while let Some(task) = self.cpus[cpu].curr {
            match self.guest(task).happened() {
                None => return,
                Some(Happening::Answered) => self.answer(task),
                Some(Happening::Done) => self.done(task),
                Some(Happening::SpinExit) => self.spin_exit(cpu, task),
                Some(Happening::Halt) => {
                    if !self.take_free(task) && self.is_idle(task) && !self.poll(cpu, task) {
                        return self.halt(cpu, task);
                    }
                }
            }
        }
    }

    /// Before another's guest is changed: it gets on to now.
    pub(super) fn touch(&mut self, task: TaskId) {
        if self.tasks[task as usize].place == Where::Running {
            self.sync(self.tasks[task as usize].cpu as usize);
        }
    }

    /// After it was changed: its CPU's next event may be another one.
    pub(super) fn touched(&mut self, task: TaskId) {
        if self.tasks[task as usize].place == Where::Running {
            self.rearm(self.tasks[task as usize].cpu as usize);
        }
    }

    /// Its handlers have run.
    fn answer(&mut self, task: TaskId) {
        self.seen_irq(task, None);
        if self.policy.compare.is_some() {
            self.compare_eoi(task);
        }
        let mut callers = self.guest(task).answered();
        for &caller in &callers {
            let guest = self.guest(caller);
            guest.missing = guest.missing.saturating_sub(1);
            if guest.missing == 0 && guest.state == State::SpinAnswers {
                self.touch(caller);
                self.done(caller);
                self.touched(caller);
            }
        }
        callers.clear();
        self.guest(task).callers = callers;
    }

    /// The work of a step is done, or its answers are there.
    fn done(&mut self, task: TaskId) {
        let guest = self.guest(task);
        if guest.held.is_some() && guest.state == State::Run {
            let step = self.step_of(task);
            let ns = step.shootdown_ns.get();
            if self.downgrade(task, step.read_ns.get()) || ns > 0 && self.shoot_down(task, ns) {
                return;
            }
        }
        match self.guest(task).held.take() {
            Some(Held::Sem(lock)) => self.release_sem(task, lock),
            Some(Held::Spin(lock)) => self.release_spin(task, lock),
            Some(Held::Mutex(lock)) => self.release_mutex(task, lock),
            None => {}
        }
        self.next_step(task);
    }

    fn step_of(&self, task: TaskId) -> Step {
        let state = &self.tasks[task as usize];
        self.vms[state.vm as usize].steps[state.guest.step as usize].clone()
    }

    /// Goes on to the next step that takes time.
    pub(super) fn next_step(&mut self, task: TaskId) {
        let vm = self.tasks[task as usize].vm as usize;
        let steps = self.vms[vm].steps.len() as u32;
        loop {
            let guest = self.guest(task);
            guest.step += 1;
            if guest.step == steps {
                guest.step = 0;
                guest.rounds += 1;
            }
            let step = self.step_of(task);
            let guest = self.guest(task);
            if guest.below(1_000) < step.per_mille.get() && self.begin(task, &step) {
                return;
            }
        }
    }

    /// Begins a step. False if it is over already.
    fn begin(&mut self, task: TaskId, step: &Step) -> bool {
        let ns = step.ns.get();
        let locks = step.locks.get();
        let guest = self.guest(task);
        match step.action {
            Action::Compute | Action::Kernel => {
                let ns = guest.draw(ns);
                guest.run(ns, step.action == Action::Kernel);
            }
            Action::Spinlock => {
                let lock = guest.below(locks) as u32;
                guest.irqs_off = step.irqs_off;
                self.take_spin(task, lock);
            }
            Action::Mutex => {
                let lock = guest.below(locks) as u32;
                guest.wait(State::WaitMutex(lock));
                if !self.take_free_mutex(task) {
                    let vm = self.tasks[task as usize].vm as usize;
                    self.vms[vm].mutexes[lock as usize].waiters.push(task);
                }
            }
            Action::Rwsem => {
                let lock = guest.below(locks) as u32;
                self.take_sem(task, lock);
            }
            Action::Call => return self.call(task, ns),
            Action::Shootdown => return self.shoot_down(task, ns),
            Action::Barrier => return self.arrive(task),
            Action::Sleep => {
                let ns = guest.draw(ns);
                guest.wait(State::Sleep);
                let id = 2 * self.cpus.len() as u32 + task;
                self.timers.set(id, self.now + ns);
            }
        }
        true
    }

    fn take_spin(&mut self, task: TaskId, lock: u32) {
        let vm = self.tasks[task as usize].vm as usize;
        let state = &mut self.vms[vm].spinlocks[lock as usize];
        if state.owner.is_none() {
            state.owner = Some(task);
            self.hold(task, Held::Spin(lock));
        } else {
            state.waiters.push(task);
            self.guest(task).wait(State::SpinLock(lock));
        }
    }

    pub(super) fn hold(&mut self, task: TaskId, held: Held) {
        let ns = self.step_of(task).ns.get();
        let guest = self.guest(task);
        guest.held = Some(held);
        let ns = guest.draw(ns);
        guest.run(ns, true);
    }

    /// The first that waits has it: fair, as qspinlock.
    fn release_spin(&mut self, task: TaskId, lock: u32) {
        self.guest(task).irqs_off = false;
        let vm = self.tasks[task as usize].vm as usize;
        let state = &mut self.vms[vm].spinlocks[lock as usize];
        let first = !state.waiters.is_empty();
        state.owner = first.then(|| state.waiters.remove(0));
        if let Some(next) = state.owner {
            self.touch(next);
            self.hold(next, Held::Spin(lock));
            self.touched(next);
        }
    }

    /// The first that waits is woken; who comes meanwhile may have it.
    fn release_mutex(&mut self, task: TaskId, lock: u32) {
        let vm = self.tasks[task as usize].vm as usize;
        let state = &mut self.vms[vm].mutexes[lock as usize];
        state.owner = None;
        if let Some(&next) = state.waiters.first() {
            self.notify(task, next);
        }
    }

    /// A vCPU that sleeps for a lock has it if it is free.
    fn take_free(&mut self, task: TaskId) -> bool {
        let taken = match self.guest(task).state {
            State::WaitSem(lock) => self.take_sem_awake(task, lock),
            _ => self.take_free_mutex(task),
        };
        if taken {
            self.halted_until_now(task);
        }
        taken
    }

    /// A vCPU that waits for a mutex has it if it is free.
    fn take_free_mutex(&mut self, task: TaskId) -> bool {
        let State::WaitMutex(lock) = self.guest(task).state else {
            return false;
        };
        let vm = self.tasks[task as usize].vm as usize;
        let state = &mut self.vms[vm].mutexes[lock as usize];
        if state.owner.is_some() {
            return false;
        }
        state.owner = Some(task);
        state.waiters.retain(|other| *other != task);
        self.hold(task, Held::Mutex(lock));
        true
    }

    fn call(&mut self, task: TaskId, ns: u64) -> bool {
        let vm = &self.vms[self.tasks[task as usize].vm as usize];
        let (first, others) = (vm.first, vm.vcpus - 1);
        if others == 0 {
            return false;
        }
        let mut to = first + self.guest(task).below(u64::from(others)) as u32;
        if to >= task {
            to += 1;
        }
        self.send(task, to, ns, CALL_VECTOR);
        self.remember(task, &[to], CALL_VECTOR);
        self.await_answers(task)
    }

    fn shoot_down(&mut self, task: TaskId, ns: u64) -> bool {
        let vm = &self.vms[self.tasks[task as usize].vm as usize];
        let others = vm.tasks().filter(|to| *to != task);
        let busy = |to: &TaskId| !self.tasks[*to as usize].guest.state.halts();
        let receivers: Vec<TaskId> = others.filter(busy).collect();
        let vector = if receivers.len() == 1 {
            CALL_VECTOR
        } else {
            MANY_VECTOR
        };
        for &to in &receivers {
            self.send(task, to, ns, vector);
        }
        self.remember(task, &receivers, vector);
        self.await_answers(task)
    }

    /// `task` sends an interrupt, in its guest's kernel.
    pub(super) fn pay_for_sending(&mut self, task: TaskId) {
        let cost = self.costs.send;
        self.guest(task).kernel_first(cost);
    }

    fn send(&mut self, task: TaskId, to: TaskId, ns: u64, vector: u8) {
        self.stats.ipis += 1;
        self.guest(task).missing += 1;
        self.pay_for_sending(task);
        self.touch(to);
        self.halted_until_now(to);
        self.guest(to).interrupt(task, ns);
        self.seen_irq(to, Some(vector));
        self.wake(to, Some(task));
        self.touched(to);
    }

    fn await_answers(&mut self, task: TaskId) -> bool {
        let guest = self.guest(task);
        guest.wait(State::SpinAnswers);
        guest.missing > 0
    }

    fn arrive(&mut self, task: TaskId) -> bool {
        let vm = self.tasks[task as usize].vm as usize;
        self.vms[vm].arrived += 1;
        if self.vms[vm].arrived < self.vms[vm].vcpus {
            self.guest(task).wait(State::SpinBarrier);
            return true;
        }
        self.vms[vm].arrived = 0;
        for other in self.vms[vm].tasks() {
            if other != task {
                self.touch(other);
                self.next_step(other);
                self.touched(other);
            }
        }
        false
    }
}
