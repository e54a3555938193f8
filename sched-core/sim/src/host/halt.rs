//! Halting and waking. A vCPU that halts alone on its CPU is polled for a while before its
//! thread sleeps (`kvm_vcpu_halt`), so that the CPU is not idle, and a short halt costs no
//! switch. For how long is learnt from how long it halts.

use super::{Host, TaskId, Where};
use crate::guest::State;
use crate::timers::NEVER;

/// The first time, and by what it grows (`halt_poll_ns_grow_start`, `halt_poll_ns_grow`).
const POLL_NS: u64 = 10_000;
const GROW: u64 = 2;

/// Of a vCPU.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// For how long it is polled.
    ns: u64,
    /// It halts since then.
    since: Option<u64>,
}

impl Host {
    /// A vCPU halts: is it polled? Not if it has been, or if another thread wants its CPU.
    pub(super) fn poll(&mut self, cpu: usize, task: TaskId) -> bool {
        let (now, alone) = (self.now, self.cpus[cpu].nr == 1);
        let polling = &mut self.tasks[task as usize].polling;
        if polling.since.is_some() {
            return false;
        }
        polling.since = Some(now);
        let ns = polling.ns;
        self.stats.halts += 1;
        if !alone || ns == 0 {
            return false;
        }
        self.guest(task).poll_left = ns;
        true
    }

    /// The end of a halt, polled or slept.
    pub(super) fn halted_until_now(&mut self, task: TaskId) {
        let (now, most) = (self.now, self.halt_poll_ns);
        let state = &mut self.tasks[task as usize];
        let Some(since) = state.polling.since.take() else {
            return;
        };
        state.guest.poll_left = 0;
        let (halted, ns) = (now - since, &mut state.polling.ns);
        if halted > *ns {
            *ns = match halted < most {
                true => (*ns * GROW).max(POLL_NS).min(most),
                false => 0,
            };
        }
    }

    /// Another thread wants the CPU: nobody is polled there any longer.
    pub(super) fn end_poll(&mut self, task: TaskId) {
        if self.guest(task).poll_left > 0 {
            self.touch(task);
            self.guest(task).poll_left = 0;
            self.touched(task);
        }
    }

    /// Has it done what comes before a halt? It begins to.
    pub(super) fn is_idle(&mut self, task: TaskId) -> bool {
        let cost = self.costs.halt;
        let guest = self.guest(task);
        if guest.idle || cost == 0 {
            return true;
        }
        guest.idle = true;
        guest.kernel_first(cost);
        false
    }

    /// It no longer halts, polled or not.
    fn is_idle_no_longer(&mut self, task: TaskId) {
        let cost = self.costs.halt;
        let guest = self.guest(task);
        if std::mem::replace(&mut guest.idle, false) {
            guest.kernel_first(cost);
        }
    }

    pub(super) fn halt(&mut self, cpu: usize, task: TaskId) {
        self.dequeue(task, true);
        self.schedule(cpu);
    }

    /// A timer of a halted vCPU.
    pub(super) fn timer_fires(&mut self, task: TaskId) {
        let id = 2 * self.cpus.len() as u32 + task;
        self.timers.set(id, NEVER);
        if self.guest(task).state != State::Sleep {
            return;
        }
        self.touch(task);
        self.halted_until_now(task);
        self.is_idle_no_longer(task);
        self.next_step(task);
        self.wake(task, None);
        self.touched(task);
    }

    /// `waker` tells a vCPU that halts that it need not.
    pub(super) fn notify(&mut self, waker: TaskId, task: TaskId) {
        let place = self.tasks[task as usize].place;
        if place.sleeps() {
            self.pay_for_sending(waker);
            self.wake(task, Some(waker));
        } else if self.guest(task).poll_left > 0 {
            self.pay_for_sending(waker);
            self.end_poll(task);
            self.is_idle_no_longer(task);
        }
    }

    /// Makes a halted vCPU runnable.
    pub(super) fn wake(&mut self, task: TaskId, waker: Option<TaskId>) {
        let place = self.tasks[task as usize].place;
        if !place.sleeps() {
            return;
        }
        self.halted_until_now(task);
        self.guest(task).overhead += self.costs.wake;
        self.is_idle_no_longer(task);
        self.seen_awake(task);
        if place == Where::Delayed {
            self.requeue(task);
        } else {
            let waker = waker.map(|w| self.tasks[w as usize].cpu as usize);
            let cpu = self.wake_cpu(task, waker);
            if self.tasks[task as usize].cpu as usize != cpu {
                self.stats.migrations += 1;
            }
            self.enqueue(task, cpu);
        }
        self.wakeup_preempt(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Variant;
    use crate::scenario::Scenario;

    /// Halts and switches in 100 ms of a vCPU that halts for `ns` again and again.
    fn halts_and_switches(ns: u64, host: &str) -> (u64, u64) {
        let text = format!(
            "name = \"t\"\nwindow_ms = 1\nvariants = [\"stock\"]\n[host]\ncpus = 1\n{host}\n\
             [[vm]]\nvcpus = 1\nworkload = \"w\"\nsteps = [\
             {{ do = \"compute\", ns = 20_000 }}, {{ do = \"sleep\", ns = {ns} }}]\n"
        );
        let scenario = Scenario::parse(&text, "t").unwrap();
        let variant = Variant::named("stock", &[]).unwrap();
        let mut host = Host::new(&scenario, &variant.policy().unwrap(), 1);
        host.run(100_000_000);
        host.begin_window();
        host.run(100_000_000);
        (host.stats.halts, host.stats.switches)
    }

    #[test]
    fn a_short_halt_is_polled_if_nobody_else_wants_the_cpu() {
        let (halts, switches) = halts_and_switches(50_000, "");
        assert!(halts > 1_000 && switches == 0, "{halts} {switches}");
        let (halts, switches) = halts_and_switches(50_000, "halt_poll_ns = 0");
        assert!(
            halts > 1_000 && switches.abs_diff(halts) < 2,
            "{halts} {switches}"
        );
        let (halts, switches) = halts_and_switches(50_000, "[hogs]\ncount = 1");
        assert!(switches > halts, "{halts} {switches}");
    }

    /// 20 us of work and 50 us of sleep: what comes before the halt is a part of the sleep.
    #[test]
    fn a_guest_goes_idle_and_back_polled_or_not() {
        for host in ["", "halt_poll_ns = 0"] {
            let costs = "[host.cost]\nswitch_ns = 0\nwake_ns = 0\nhalt_ns";
            let (free, _) = halts_and_switches(50_000, &format!("{host}\n{costs} = 0"));
            let (halts, _) = halts_and_switches(50_000, &format!("{host}\n{costs} = 10_000"));
            assert!(free.abs_diff(100_000 / 70) < 30, "{host}: {free}");
            assert!(halts.abs_diff(100_000 / 80) < 30, "{host}: {halts}");
        }
    }

    #[test]
    fn a_long_halt_is_not_polled() {
        let (halts, switches) = halts_and_switches(2_000_000, "");
        assert!(
            halts > 30 && switches.abs_diff(halts) < 2,
            "{halts} {switches}"
        );
    }
}
