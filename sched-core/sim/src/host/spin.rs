//! A spin exit: which vCPU KVM yields to, by sched-core's records, cascade and scan.

use sched_core::cascade::{self, Outcome, Reason, Vcpu};
use sched_core::ipi::{Receivers, word};
use sched_core::scan::{self, YieldTo};

use super::{Host, TaskId, Where};

/// The vector of calls to one CPU (`CALL_FUNCTION_SINGLE_VECTOR`), and to several.
pub(super) const CALL_VECTOR: u8 = 0xfb;
pub(super) const MANY_VECTOR: u8 = 0xfc;

impl Host {
    /// A vCPU's VM, and its index there.
    fn vcpu(&self, task: TaskId) -> (usize, u32) {
        let vm = self.tasks[task as usize].vm as usize;
        (vm, task - self.vms[vm].first)
    }

    /// What KVM sees of a vCPU.
    fn seen(&mut self, task: TaskId) -> Option<&mut Vcpu> {
        if !self.is_vcpu(task) {
            return None;
        }
        let (vm, index) = self.vcpu(task);
        self.vms[vm].seen.get_mut(index as usize)
    }

    /// It was switched out (`kvm_sched_out`): it could go on, or it halts.
    pub(super) fn seen_out(&mut self, task: TaskId, could_go_on: bool) {
        let now = self.now;
        let guest = &self.tasks[task as usize].guest;
        let (in_kernel, irqs_off, handling) = (guest.in_kernel(), guest.irqs_off, guest.handling());
        let in_spin = self.tasks[task as usize].in_spin;
        let Some(seen) = self.seen(task) else { return };
        seen.ready = could_go_on;
        seen.blocking = !could_go_on;
        seen.scheduled_out = true;
        seen.preempted = could_go_on;
        seen.in_kernel = in_kernel;
        seen.irqs_off = irqs_off || handling;
        seen.spins = in_spin;
        seen.off_since = now;
        if handling {
            // Linux acknowledges before it handles.
            seen.irr = [0; 8];
        }
        self.spin_in_hope(task);
    }

    /// It got a CPU.
    pub(super) fn seen_in(&mut self, task: TaskId) {
        if let Some(seen) = self.seen(task) {
            (seen.ready, seen.blocking, seen.preempted) = (false, false, false);
            (seen.spins, seen.irqs_off, seen.scheduled_out) = (false, false, false);
            self.spin_in_hope(task);
        }
    }

    /// It was woken up.
    pub(super) fn seen_awake(&mut self, task: TaskId) {
        if let Some(seen) = self.seen(task) {
            (seen.ready, seen.blocking, seen.preempted) = (true, false, false);
            self.spin_in_hope(task);
        }
    }

    /// An IPI reaches its interrupt controller, or all have been handled.
    pub(super) fn seen_irq(&mut self, task: TaskId, vector: Option<u8>) {
        if let Some(seen) = self.seen(task) {
            match vector {
                Some(v) => seen.irr[usize::from(v / 32)] |= 1 << (v % 32),
                None => seen.irr = [0; 8],
            }
            self.spin_in_hope(task);
        }
    }

    /// A sender remembers its last IPI.
    pub(super) fn remember(&mut self, task: TaskId, receivers: &[TaskId], vector: u8) {
        if self.policy.compare.is_some() {
            return self.compare_sent(task, receivers, vector);
        }
        if !self.policy.ipi_tracking {
            return;
        }
        let first = self.vms[self.tasks[task as usize].vm as usize].first;
        let (now, window) = self.record_ticks();
        let record = &mut self.tasks[task as usize].record;
        for receiver in receivers {
            record.sent(receiver - first, vector, now, window);
        }
    }

    /// The time and the window of records, in ticks.
    fn record_ticks(&self) -> (u32, u32) {
        let tick = self.times.tick;
        let window = word::window_ticks(self.policy.ipi_window_ns, tick);
        ((self.now / tick) as u32, window)
    }

    /// A vCPU has spun for the window (`kvm_vcpu_on_spin`).
    pub(super) fn spin_exit(&mut self, cpu: usize, me: TaskId) {
        let cost = self.costs.spin_exit;
        self.tasks[me as usize].guest.spin_again(cost);
        if self.lose_patience(me) {
            return;
        }
        self.tasks[me as usize].in_spin = true;
        let (vm, index) = self.vcpu(me);
        let mut seen = std::mem::take(&mut self.vms[vm].seen);
        let mut boosted = self.vms[vm].last_boosted;
        let before = (
            self.stats.yield_attempts,
            self.tasks[me as usize].record.word(),
        );
        self.toggled = false;
        let yielded = self.search(me, index, &mut seen, &mut boosted);
        let after = (
            self.stats.yield_attempts,
            self.tasks[me as usize].record.word(),
        );
        self.vms[vm].seen = seen;
        self.vms[vm].last_boosted = boosted;
        if yielded {
            self.resched(cpu);
            return;
        }
        self.tasks[me as usize].in_spin = false;
        if before == after && !self.toggled && !self.spins_for_reader(me) {
            // The next ones will find nobody either; a record ends by time, so look now
            // and then.
            self.tasks[me as usize].guest.spin_in_vain(self.times.tick);
            self.vms[vm].in_vain.push(me);
        }
    }

    /// Something about a VM's vCPUs has changed: who spun in vain may find somebody.
    fn spin_in_hope(&mut self, task: TaskId) {
        let vm = self.tasks[task as usize].vm as usize;
        while let Some(spinner) = self.vms[vm].in_vain.pop() {
            self.hope(spinner);
        }
    }

    /// What a vCPU spins for has changed: its next exit counts.
    pub(super) fn hope(&mut self, spinner: TaskId) {
        self.touch(spinner);
        self.tasks[spinner as usize].guest.spin_in_hope();
        self.touched(spinner);
    }

    fn search(&mut self, me: TaskId, index: u32, seen: &mut [Vcpu], boosted: &mut u32) -> bool {
        if self.policy.compare.is_some() {
            return self.compare_search(me, index, seen, boosted);
        }
        let first = me - index;
        let receivers = self.receivers(me, index, seen);
        let mut attempt = |to: u32, reason| self.yield_to(me, first + to, reason);
        match cascade::to_receiver(receivers, &mut attempt) {
            Some(outcome) => matches!(outcome, Outcome::Yielded(..)),
            None => self.scan(me, index, seen, boosted),
        }
    }

    fn receivers(&mut self, me: TaskId, index: u32, seen: &[Vcpu]) -> Receivers {
        if !self.policy.ipi_tracking {
            return Receivers::default();
        }
        let (now, window) = self.record_ticks();
        let record = &mut self.tasks[me as usize].record;
        match cascade::worth_asking(index, record.awaited(true), seen) {
            true => record.receivers(now, window, |idx| seen.get(idx as usize)),
            false => Receivers::default(),
        }
    }

    fn scan(&mut self, me: TaskId, index: u32, seen: &mut [Vcpu], boosted: &mut u32) -> bool {
        let look = self.costs.look * seen.len() as u64;
        self.tasks[me as usize].guest.overhead += look;
        let first = me - index;
        self.toggled = seen.iter().any(|vcpu| vcpu.spins && vcpu.ready);
        let stock = self.policy.stock_scan;
        let attempt = |to: u32, reason| self.yield_to(me, first + to, reason);
        let taken = match stock {
            true => scan::stock(index, true, seen, boosted, attempt),
            false => scan::scan(index, true, seen, boosted, attempt),
        };
        taken.is_some()
    }

    /// `kvm_vcpu_yield_to` and the first half of `yield_to`: is there anything to gain, and
    /// is the target there to be helped?
    pub(super) fn yield_to(&mut self, me: TaskId, target: TaskId, reason: Reason) -> YieldTo {
        self.stats.yield_attempts += 1;
        let (from, to) = (&self.tasks[me as usize], &self.tasks[target as usize]);
        let (cpu, other) = (from.cpu as usize, to.cpu as usize);
        if self.cpus[cpu].nr == 1 && self.cpus[other].nr == 1 {
            return YieldTo::Failed;
        }
        if to.place != Where::Waiting || from.class != to.class {
            return YieldTo::NotTaken;
        }
        self.tasks[me as usize].guest.overhead += self.costs.yielding;
        match self.is_vmf(me) {
            true => self.vmf_yield(me, target),
            false if !self.directed_yield(me, target) => return YieldTo::NotTaken,
            false => {}
        }
        self.count_hit(reason, cpu == other);
        self.tasks[target as usize].yielded_to_at = Some(self.now);
        YieldTo::Taken
    }

    fn count_hit(&mut self, reason: Reason, same_cpu: bool) {
        let hits = match reason {
            Reason::Ipi | Reason::Answer => &mut self.stats.hits_ipi,
            Reason::Irq => &mut self.stats.hits_irq,
            Reason::Kernel => &mut self.stats.hits_kernel,
            Reason::Relaxed => &mut self.stats.hits_relaxed,
        };
        *hits += 1;
        if same_cpu {
            self.stats.same_cpu += 1;
        } else {
            self.stats.other_cpu += 1;
        }
    }
}
