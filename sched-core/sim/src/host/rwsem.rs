//! The guest kernel's sleeping locks that spin first (`rwsem_down_write_slowpath`): mmap_lock.
//!
//! Who comes while a writer has it spins, in a queue whose head alone may take it: if the head
//! is preempted, the others wait for that, too. If a reader has it, the head spins for a while,
//! then sleeps, and nobody spins any more until there was a writer. A reader is who was the
//! writer and interrupts all others, as munmap does. Who lets it go wakes the first that sleeps,
//! which competes with who spins.
//!
//! Differs from the kernel: nobody comes to read, and nobody is handed the lock for having
//! slept too long.

use smallvec::SmallVec;

use super::{Host, TaskId, Where};
use crate::guest::{Held, State};

/// How long readers are spun for (`rwsem_rspin_threshold`), ns.
const PATIENCE_NS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Sem {
    owner: Option<TaskId>,
    /// Its owner only reads, since then.
    read_since: Option<u64>,
    /// In order of arrival; only the first may take it, and it is that since then.
    spinners: SmallVec<[TaskId; 4]>,
    first_since: u64,
    /// Somebody has spun for a reader in vain (`RWSEM_NONSPINNABLE`).
    in_vain: bool,
    sleepers: SmallVec<[TaskId; 4]>,
}

impl Sem {
    /// Without sleepers even who has just come may take it.
    fn free_for_all(&self) -> bool {
        self.owner.is_none() && (self.spinners.is_empty() || self.sleepers.is_empty())
    }

    fn take(&mut self, task: TaskId) {
        (self.owner, self.in_vain) = (Some(task), false);
    }

    /// `task` no longer spins.
    fn spins_no_longer(&mut self, task: TaskId, now: u64) {
        if self.spinners.first() == Some(&task) {
            self.first_since = now;
        }
        self.spinners.retain(|other| *other != task);
    }
}

impl Host {
    fn sem(&mut self, task: TaskId, lock: u32) -> &mut Sem {
        let vm = self.tasks[task as usize].vm as usize;
        &mut self.vms[vm].sems[lock as usize]
    }

    pub(super) fn take_sem(&mut self, task: TaskId, lock: u32) {
        let now = self.now;
        let sem = self.sem(task, lock);
        if sem.free_for_all() {
            sem.take(task);
            return self.hold(task, Held::Sem(lock));
        }
        if sem.in_vain {
            sem.sleepers.push(task);
            return self.guest(task).wait(State::WaitSem(lock));
        }
        if sem.spinners.is_empty() {
            sem.first_since = now;
        }
        sem.spinners.push(task);
        self.tasks[task as usize].guest.wait(State::SpinSem(lock));
    }

    /// Who spins for it and gets a CPU has it, if it is free and it is the first.
    pub(super) fn take_sem_at_last(&mut self, task: TaskId) {
        let State::SpinSem(lock) = self.tasks[task as usize].guest.state else {
            return;
        };
        let now = self.now;
        let sem = self.sem(task, lock);
        if sem.owner.is_none() && sem.spinners.first() == Some(&task) {
            sem.spins_no_longer(task, now);
            sem.take(task);
            self.hold(task, Held::Sem(lock));
        }
    }

    /// Who was woken for it has it, if it is free.
    pub(super) fn take_sem_awake(&mut self, task: TaskId, lock: u32) -> bool {
        let sem = self.sem(task, lock);
        if sem.owner.is_some() {
            return false;
        }
        sem.take(task);
        sem.sleepers.retain(|other| *other != task);
        self.hold(task, Held::Sem(lock));
        true
    }

    /// A writer goes on as a reader, for about `ns`. False: it doesn't, or has done so.
    pub(super) fn downgrade(&mut self, task: TaskId, ns: u64) -> bool {
        let (now, held) = (self.now, self.guest(task).held);
        let Some(Held::Sem(lock)) = held.filter(|_| ns > 0) else {
            return false;
        };
        let sem = self.sem(task, lock);
        if sem.read_since.is_some() {
            return false;
        }
        sem.read_since = Some(now);
        let spinners = sem.spinners.clone();
        for spinner in spinners {
            self.hope(spinner);
        }
        let guest = self.guest(task);
        let ns = guest.draw(ns);
        guest.run(ns, true);
        true
    }

    /// Does `task` spin for a reader?
    pub(super) fn spins_for_reader(&mut self, task: TaskId) -> bool {
        match self.tasks[task as usize].guest.state {
            State::SpinSem(lock) => self.sem(task, lock).read_since.is_some(),
            _ => false,
        }
    }

    /// Who has spun for a reader for long enough goes to sleep. True if so.
    pub(super) fn lose_patience(&mut self, task: TaskId) -> bool {
        let State::SpinSem(lock) = self.tasks[task as usize].guest.state else {
            return false;
        };
        let now = self.now;
        let sem = self.sem(task, lock);
        // Who isn't the first does not even look who has it.
        let (first, since) = (sem.spinners.first() == Some(&task), sem.first_since);
        let long = |at: u64| sem.in_vain || first && now - at.max(since) >= PATIENCE_NS;
        if !sem.read_since.is_some_and(long) {
            return false;
        }
        sem.in_vain = true;
        sem.spins_no_longer(task, now);
        sem.sleepers.push(task);
        self.tasks[task as usize].guest.wait(State::WaitSem(lock));
        true
    }

    pub(super) fn release_sem(&mut self, task: TaskId, lock: u32) {
        let sem = self.sem(task, lock);
        (sem.owner, sem.read_since) = (None, None);
        let (head, sleeper) = (sem.spinners.first().copied(), sem.sleepers.first().copied());
        if let Some(head) = head
            && self.tasks[head as usize].place == Where::Running
        {
            self.touch(head);
            self.take_sem_at_last(head);
            self.touched(head);
        }
        if let Some(sleeper) = sleeper {
            self.notify(task, sleeper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Variant;
    use crate::scenario::Scenario;

    fn host(last: &str) -> Host {
        let text = format!(
            "name = \"t\"\nwindow_ms = 1\nvariants = [\"stock\"]\n[host]\ncpus = 3\n\
             [[vm]]\ncount = 2\nvcpus = 4\nworkload = \"w\"\nsteps = [\
             {{ do = \"compute\", ns = 20_000 }}, {{ do = \"rwsem\", ns = 9_000, locks = 2 }},\
             {{ do = \"rwsem\", ns = 5_000, shootdown_ns = 2_000{last} }}]\n"
        );
        let scenario = Scenario::parse(&text, "t").unwrap();
        let variant = Variant::named("vmfirst", &[]).unwrap();
        Host::new(&scenario, &variant.policy().unwrap(), 1)
    }

    /// Runs a while; who spins, who sleeps and who holds is what the rwsems say. Returns how
    /// often somebody was seen to spin and to sleep.
    fn check(host: &mut Host) -> (usize, usize) {
        let (mut spun, mut slept) = (0, 0);
        for _ in 0..20_000 {
            host.run(3_000);
            for vm in &host.vms {
                let guest = |t: &TaskId| &host.tasks[*t as usize].guest;
                for (lock, sem) in (0..).zip(&vm.sems) {
                    let all = |state| vm.tasks().filter(|t| guest(t).state == state).count();
                    assert_eq!(all(State::SpinSem(lock)), sem.spinners.len());
                    assert_eq!(all(State::WaitSem(lock)), sem.sleepers.len());
                    let holds = |t: &TaskId| guest(t).held == Some(Held::Sem(lock));
                    assert_eq!(vm.tasks().find(holds), sem.owner);
                    assert!(vm.tasks().filter(holds).count() < 2);
                    (spun, slept) = (spun + sem.spinners.len(), slept + sem.sleepers.len());
                }
            }
        }
        assert!(host.tasks.iter().all(|t| t.guest.rounds > 10));
        (spun, slept)
    }

    /// The head alone looks who has it, and only since it is the head; when it has spun in
    /// vain, nobody spins until somebody writes.
    #[test]
    fn patience_is_the_heads() {
        let mut host = host(", read_ns = 20_000");
        let sem = host.sem(0, 0);
        (sem.owner, sem.read_since) = (Some(0), Some(0));
        let state = |host: &Host, task: usize| host.tasks[task].guest.state;
        host.now = PATIENCE_NS;
        host.take_sem(1, 0);
        host.take_sem(2, 0);
        assert!(!host.lose_patience(1), "it has just come");
        host.now = 2 * PATIENCE_NS;
        assert!(!host.lose_patience(2), "not the head");
        assert!(host.lose_patience(1) && host.lose_patience(2));
        host.take_sem(3, 0);
        assert!((1..4).all(|task| state(&host, task) == State::WaitSem(0)));
        let sem = host.sem(0, 0);
        (sem.owner, sem.read_since) = (None, None);
        assert!(host.take_sem_awake(1, 0));
        host.take_sem(0, 0);
        assert_eq!(state(&host, 0), State::SpinSem(0));
    }

    #[test]
    fn nobody_sleeps_for_a_writer() {
        let (spun, slept) = check(&mut host(""));
        assert!(spun > 100 && slept == 0, "{spun} {slept}");
    }

    #[test]
    fn who_waits_for_a_reader_long_sleeps() {
        let (spun, slept) = check(&mut host(", read_ns = 20_000"));
        assert!(spun > 100 && slept > 100, "{spun} {slept}");
    }
}
