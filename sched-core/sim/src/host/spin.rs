//! A spin exit: whom KVM yields to, by sched-core's records, cascade and scan.

use sched_core::cascade::{self, Outcome, Rank, Vcpu};
use sched_core::ipi::word;
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
            (seen.spins, seen.irqs_off) = (false, false);
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
        let ticks = (self.now / self.times.tick) as u32;
        let record = &mut self.tasks[task as usize].record;
        match *receivers {
            [one] => record.sent_to(one - first, vector, ticks),
            _ if !self.policy.ipi_multicast => record.clear(),
            _ => record.sent_to_many(receivers.iter().map(|r| r - first), vector, ticks),
        }
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
        if self.policy.ipi_tracking {
            let ticks = (self.now / self.times.tick) as u32;
            let window = word::window_ticks(self.policy.ipi_window_ns, self.times.tick);
            let look = |idx: u32| seen.get(idx as usize);
            let record = &mut self.tasks[me as usize].record;
            let awaited = record.awaited(index, ticks, window, look);
            let (first, ranks) = (me - index, self.policy.ranks);
            let attempt =
                |to: u32, rank| self.yield_to(me, first + to, Some(rank)) == YieldTo::Taken;
            match cascade::cascade(index, awaited, true, seen, boosted, ranks, attempt) {
                Outcome::Yielded(..) => return true,
                Outcome::Served => return false,
                Outcome::Scan => {}
            }
        }
        self.scan(me, index, seen, boosted)
    }

    fn scan(&mut self, me: TaskId, index: u32, seen: &mut [Vcpu], boosted: &mut u32) -> bool {
        let look = self.costs.look * seen.len() as u64;
        self.tasks[me as usize].guest.overhead += look;
        let first = me - index;
        self.toggled = seen.iter().any(|vcpu| vcpu.spins && vcpu.ready);
        let rescan = self.policy.spin_rescan;
        scan::scan(index, true, rescan, seen, boosted, |to| {
            self.yield_to(me, first + to, None)
        })
        .is_some()
    }

    /// `kvm_vcpu_yield_to` and the first half of `yield_to`: is there anything to gain, and
    /// is the target there to be helped?
    pub(super) fn yield_to(&mut self, me: TaskId, target: TaskId, rank: Option<Rank>) -> YieldTo {
        self.stats.yield_attempts += 1;
        let (from, to) = (&self.tasks[me as usize], &self.tasks[target as usize]);
        let (cpu, other) = (from.cpu as usize, to.cpu as usize);
        if self.cpus[cpu].nr == 1 && self.cpus[other].nr == 1 {
            return YieldTo::Failed;
        }
        if to.place != Where::Waiting || from.class != to.class {
            return YieldTo::NotTaken;
        }
        self.count_hit(target, rank, cpu == other);
        self.tasks[me as usize].guest.overhead += self.costs.yielding;
        self.tasks[target as usize].yielded_to_at = Some(self.now);
        match self.is_vmf(me) {
            true => self.vmf_yield(me, target),
            false => self.directed_yield(me, target),
        }
        YieldTo::Taken
    }

    fn count_hit(&mut self, target: TaskId, rank: Option<Rank>, same_cpu: bool) {
        let in_kernel = self.tasks[target as usize].guest.in_kernel();
        let hits = match rank {
            Some(Rank::Ipi | Rank::Answer) => &mut self.stats.hits_ipi,
            Some(Rank::Irq) => &mut self.stats.hits_irq,
            Some(Rank::IrqsOff | Rank::Kernel) => &mut self.stats.hits_kernel,
            None if in_kernel => &mut self.stats.hits_kernel,
            Some(Rank::Relaxed) | None => &mut self.stats.hits_relaxed,
        };
        *hits += 1;
        if same_cpu {
            self.stats.same_cpu += 1;
        } else {
            self.stats.other_cpu += 1;
        }
    }
}
