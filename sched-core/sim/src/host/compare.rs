//! The comparison variants `v2`, `v3` and `hier`, as `kernel-patches/linux-6.12/compare`
//! does them (`directed_yield_compare.c`, `ipi_compare.h`).

use sched_core::cascade::{Reason, Vcpu};
use sched_core::debooster::{self, Settlement};
use sched_core::scan::YieldTo;

use super::{Host, TaskId};
use crate::policy::{Compare, Mode};

/// A yield back within this is damped, ns.
const PAIR_NS: u64 = 600_000;
/// How long an IPI is waited for, ns.
const IPI_WINDOW_NS: u64 = 50_000_000;

/// Of a runqueue.
#[derive(Debug, Default)]
pub(super) struct OnCpu {
    limited_at: Option<u64>,
    /// Who yielded last, to whom, when.
    gave: Option<(TaskId, TaskId, u64)>,
}

/// Of a vCPU: its last IPI to one other, and who last sent it one.
#[derive(Debug, Default)]
pub(super) struct Compared {
    sent: Option<(TaskId, u8, u64)>,
    sender: Option<TaskId>,
}

impl Host {
    /// A yield to `target`, who is the buddy of its levels.
    pub(super) fn compare_yield(&mut self, me: TaskId, target: TaskId) {
        let cpu = self.tasks[me as usize].cpu as usize;
        let other = self.tasks[target as usize].cpu as usize;
        if self.cpus[cpu].nr > 1 {
            match self.policy.mode {
                Mode::Hier => self.hier(me),
                mode => {
                    if cpu == other && mode == Mode::V2 {
                        self.v2(me, target);
                    } else if cpu == other {
                        self.v3(me, target);
                    }
                    self.forfeit(me);
                }
            }
        }
        if cpu != other {
            self.resched(other);
        }
    }

    /// The yielder pays, once in a window for all of its runqueue.
    fn v2(&mut self, me: TaskId, target: TaskId) {
        let (now, window) = (self.now, self.tunables.rate_window_ns);
        let cpu = &mut self.cpus[self.tasks[me as usize].cpu as usize].compare;
        let recent = |at| window > 0 && debooster::recent(now, at, window);
        if cpu.limited_at.is_some_and(recent) {
            self.stats.refused += 1;
            return;
        }
        cpu.limited_at = Some(now);
        let damped = cpu.gave.is_some_and(|(from, to, at)| {
            (from, to) == (target, me) && debooster::recent(now, at, PAIR_NS)
        });
        cpu.gave = Some((me, target, now));
        let base = self.times.base_slice;
        if let Some((from, _, gap, n)) = self.pair(me, target) {
            let gran = from.load.calc_delta_fair(base);
            let virtual_ns = debooster::penalty(gran, gap, n, damped);
            self.apply(me, target, Settlement::Penalty { virtual_ns });
        }
    }

    /// The target gets what it lacks, up to a slice or a tick.
    fn v3(&mut self, me: TaskId, target: TaskId) {
        let tick = self.times.tick;
        if let Some((_, to, _, n)) = self.pair(me, target) {
            let need = debooster::need(to.vlag, to.load.weight(), to.queue_weight);
            let amount = need.min(debooster::limit(to.slice, tick));
            if amount > 0 && n > 1 {
                self.apply(me, target, Settlement::Credit { amount });
            }
        }
    }

    /// A forfeit on each level, up from the task while that is eligible.
    fn hier(&mut self, me: TaskId) {
        let (times, mut up) = (self.times, true);
        self.path(me, |queue, id| {
            up &= queue.eligible(id);
            if up {
                queue.forfeit(&times);
            }
        });
    }

    /// An IPI to one other is remembered at both.
    pub(super) fn compare_sent(&mut self, sender: TaskId, receivers: &[TaskId], vector: u8) {
        if let [receiver] = *receivers {
            let now = self.now;
            self.tasks[sender as usize].compare.sent = Some((receiver, vector, now));
            self.tasks[receiver as usize].compare.sender = Some(sender);
        }
    }

    /// The receiver's EOI ends what it owes its last sender: of any vector in v2.
    pub(super) fn compare_eoi(&mut self, receiver: TaskId) {
        let Some(sender) = self.tasks[receiver as usize].compare.sender else {
            return;
        };
        let any = self.policy.compare == Some(Compare::V2);
        let sent = &mut self.tasks[sender as usize].compare.sent;
        if sent.is_some_and(|(to, v, _)| to == receiver && (any || v == super::spin::CALL_VECTOR)) {
            *sent = None;
        }
    }

    /// Two rounds over all vCPUs from the last boosted one on: those for whom something
    /// speaks, then any (`kvm_compare_round`).
    pub(super) fn compare_search(
        &mut self,
        me: TaskId,
        index: u32,
        seen: &mut [Vcpu],
        boosted: &mut u32,
    ) -> bool {
        let look = self.costs.look * seen.len() as u64;
        self.tasks[me as usize].guest.overhead += look;
        self.toggled = seen.iter().any(|vcpu| vcpu.spins && vcpu.ready);
        [false, true]
            .into_iter()
            .any(|relaxed| self.compare_round(me, index, relaxed, seen, boosted))
    }

    fn compare_round(
        &mut self,
        me: TaskId,
        index: u32,
        relaxed: bool,
        seen: &mut [Vcpu],
        boosted: &mut u32,
    ) -> bool {
        let (first, online) = (me - index, seen.len() as u32);
        let owes = self.tasks[me as usize].compare.sent;
        let owes = owes.filter(|(_, _, at)| self.now - at < IPI_WINDOW_NS);
        let owes = owes.map(|(receiver, ..)| receiver - first);
        let (mut idx, mut tries) = (*boosted, 3);
        for _ in 0..online {
            idx = if idx + 1 >= online { 0 } else { idx + 1 };
            let vcpu = &mut seen[idx as usize];
            let answers = owes == Some(idx);
            let speaks = answers || relaxed || !vcpu.preempted || vcpu.in_kernel;
            if idx == index || !vcpu.ready || !speaks || (!answers && !vcpu.every_other_time()) {
                continue;
            }
            let reason = match answers {
                true => Reason::Ipi,
                false => vcpu.reason(),
            };
            match self.yield_to(me, first + idx, reason) {
                YieldTo::Taken => {
                    *boosted = idx;
                    return true;
                }
                YieldTo::NotTaken => {}
                YieldTo::Failed => tries -= 1,
            }
            if tries == 0 {
                break;
            }
        }
        false
    }
}
