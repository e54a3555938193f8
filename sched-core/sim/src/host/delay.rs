//! Delayed dequeue, DELAY_DEQUEUE and DELAY_ZERO of 6.12: who goes to sleep in debt stays
//! queued and competes until it is picked, which is when its debt is paid, or wakes up. So
//! nobody gets rid of debt by a short sleep.
//!
//! Differs from the kernel: balancing leaves them where they are.

use super::{GROUP, Host, TaskId, Where};

impl Host {
    /// A task goes to sleep. True if it owes and therefore stays queued.
    pub(super) fn delay(&mut self, task: TaskId) -> bool {
        let level = self.level(task);
        if level.eligible(task) {
            return false;
        }
        level.delay(task);
        let state = &mut self.tasks[task as usize];
        state.place = Where::Delayed;
        self.cpus[state.cpu as usize].delayed += 1;
        true
    }

    /// A task that sleeps in its queue no longer does.
    fn not_delayed(&mut self, task: TaskId) {
        self.level(task).end_delay();
        let cpu = self.tasks[task as usize].cpu as usize;
        self.cpus[cpu].delayed -= 1;
    }

    /// It was picked: now it leaves.
    pub(super) fn end_delay(&mut self, task: TaskId) {
        self.not_delayed(task);
        self.leave(task, true);
        self.tasks[task as usize].entity.end_delay();
    }

    /// It wakes up, on the CPU where it is queued.
    pub(super) fn requeue(&mut self, task: TaskId) {
        self.update_curr(self.tasks[task as usize].cpu as usize);
        self.not_delayed(task);
        let times = self.times;
        self.level(task).requeue(task, &times);
        let state = &mut self.tasks[task as usize];
        (state.place, state.waiting_since) = (Where::Waiting, self.now);
    }

    /// Nobody is left in a group's queue: the group leaves as well, unless it owes.
    pub(super) fn group_sleeps(&mut self, group: usize, cpu: usize) {
        let (id, times) = (GROUP | group as u32, self.times);
        let root = &mut self.cpus[cpu].root;
        if !root.eligible(id) {
            root.clear_buddy(id);
            self.groups[group].delayed = true;
        } else if let Some(entity) = root.leave(id, true, &times) {
            self.groups[group].entity = entity;
        }
    }

    /// Such a group was picked: now it leaves.
    pub(super) fn end_group_delay(&mut self, group: usize, cpu: usize) {
        let (id, times) = (GROUP | group as u32, self.times);
        let state = &mut self.groups[group];
        state.delayed = false;
        if let Some(entity) = self.cpus[cpu].root.leave(id, true, &times) {
            state.entity = entity;
            state.entity.end_delay();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Variant;
    use crate::scenario::Scenario;

    fn host(cpus: u32, layout: &str, steps: &str) -> Host {
        let text = format!(
            "name = \"t\"\nwindow_ms = 1\nvariants = [\"stock\"]\n[host]\ncpus = {cpus}\n\
             layout = \"{layout}\"\n[[vm]]\ncount = 2\nvcpus = 3\nworkload = \"w\"\n\
             steps = [{steps}]\n[[vm]]\nvcpus = 2\nworkload = \"hog\"\n\
             steps = [{{ do = \"compute\", ns = 1_000_000 }}]\n"
        );
        let scenario = Scenario::parse(&text, "t").unwrap();
        let variant = Variant::named("vmfirst", &[]).unwrap();
        Host::new(&scenario, &variant.policy().unwrap(), 1)
    }

    const STEPS: &str = r#"{ do = "compute", ns = 300_000 }, { do = "spinlock", ns = 20_000 },
        { do = "sleep", ns = 2_000_000 }, { do = "mutex", ns = 50_000 }"#;

    /// What the counts say is what is queued.
    fn check(host: &Host) {
        for (number, cpu) in host.cpus.iter().enumerate() {
            let here = host.tasks.iter().filter(|t| t.cpu as usize == number);
            let queued = here.clone().filter(|t| t.place != Where::Asleep).count();
            let delayed = here.filter(|t| t.place == Where::Delayed).count();
            assert_eq!((cpu.nr, cpu.delayed), (queued as u32, delayed as u32));
            assert!(cpu.curr.is_some() || queued == 0, "idle with tasks queued");
            let level = |id: u32| match id & GROUP {
                0 => 1,
                _ => host.groups[(id & !GROUP) as usize].queue.len(),
            };
            let all = cpu.root.waiting().iter().copied().chain(cpu.root.curr());
            assert_eq!(all.map(level).sum::<usize>(), queued);
        }
        let owing = host.groups.iter().filter(|g| g.delayed);
        assert!(owing.into_iter().all(|g| g.queue.is_empty()));
    }

    #[test]
    fn sleepers_in_debt_stay_queued_until_it_is_paid() {
        for layout in ["flat", "vm", "vcpu"] {
            let mut host = host(2, layout, STEPS);
            let (mut left, mut woken, mut groups) = (0, 0, 0);
            let mut before: Vec<Where> = host.tasks.iter().map(|t| t.place).collect();
            for _ in 0..40_000 {
                host.run(10_000);
                check(&host);
                for (task, before) in host.tasks.iter().zip(&mut before) {
                    if *before == Where::Delayed && task.place == Where::Asleep {
                        left += 1;
                        assert!(
                            task.entity.vlag <= 0,
                            "owed {} in its sleep",
                            task.entity.vlag
                        );
                    }
                    woken += u32::from(*before == Where::Delayed && task.place == Where::Waiting);
                    *before = task.place;
                }
                groups += u32::from(host.groups.iter().any(|g| g.delayed));
            }
            assert!(left > 20 && woken > 0, "{layout}: {left} {woken}");
            assert_eq!(groups > 0, layout != "flat", "{layout}");
        }
    }

    /// Debt is paid by competing: who comes back after a long sleep has none.
    #[test]
    fn a_long_sleep_leaves_no_debt() {
        let steps = r#"{ do = "compute", ns = 8_000_000 }, { do = "sleep", ns = 60_000_000 }"#;
        let mut host = host(1, "flat", steps);
        let mut seen = 0;
        for _ in 0..2_000 {
            host.run(1_000_000);
            for task in host.tasks.iter().filter(|t| t.place == Where::Asleep) {
                if host.now - task.ran_until > 50_000_000 {
                    seen += 1;
                    let slice = task.entity.slice as i64;
                    assert!(task.entity.vlag > -slice / 2, "{}", task.entity.vlag);
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }
}
