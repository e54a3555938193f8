//! Times of single CPUs, which cgroup v2 doesn't tell: cpu.stat is spread by a rule.
//!
//! The kernel's totals are dealt out in whole ticks, as many to each visible CPU, the rest to
//! the next in turn. So the CPUs' sum is the total at each look, and no figure of a CPU ever
//! shrinks: one that is hidden by a smaller quota or cpuset keeps what it has, as a CPU that
//! is unplugged does, and goes on from there when it is back.

use std::collections::BTreeMap;

/// Ticks a second: what the kernel calls USER_HZ.
pub const TICKS_A_SECOND: u64 = 100;
/// Time of a tick, in us.
const TICK_US: u64 = 1_000_000 / TICKS_A_SECOND;
/// By so many ticks a CPU may have run ahead of what it could, before the rest is forgotten:
/// looks that fall between a run and its accounting must not add idle time.
const AHEAD_TICKS: i64 = TICKS_A_SECOND as i64;

/// What a CPU did, or all of them, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Time in user mode at ordinary priority; a guest's is in it.
    pub user: u64,
    /// The same of tasks that are nice.
    pub nice: u64,
    /// Time in the kernel.
    pub system: u64,
    /// Time in which nothing could have run.
    pub idle: u64,
    /// Time in which the group's own limit kept a task from running.
    pub steal: u64,
}

/// What the kernel tells of a group since it was made, in us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Time in user mode, that of nice tasks included.
    pub user_usec: u64,
    /// Time in user mode of nice tasks; 0 where the kernel doesn't tell.
    pub nice_usec: u64,
    /// Time in the kernel.
    pub system_usec: u64,
    /// Time that runqueues were held off by cpu.max.
    pub throttled_usec: u64,
    /// How old the group is.
    pub age_usec: u64,
}

/// What was dealt out to each CPU until now.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    cpus: BTreeMap<u16, Ticks>,
    all: Ticks,
    /// What was taken note of: age, and time of being held off, whether it was dealt or not.
    age: u64,
    throttled: u64,
    /// Ticks that the CPUs had and that were not dealt out; below zero when they ran ahead.
    left: i64,
    /// Whose turn it is to have what can't be divided.
    turn: usize,
}

impl Ledger {
    /// Deals out what happened since the last look to the CPUs that are visible now.
    pub fn look(&mut self, visible: &[u16], now: Totals) {
        let count = visible.len() as u64;
        let user =
            (now.user_usec.saturating_sub(now.nice_usec) / TICK_US).saturating_sub(self.all.user);
        let nice = (now.nice_usec / TICK_US).saturating_sub(self.all.nice);
        let system = (now.system_usec / TICK_US).saturating_sub(self.all.system);
        let held = (now.throttled_usec / TICK_US).saturating_sub(self.throttled);
        let passed = (now.age_usec / TICK_US).saturating_sub(self.age);
        self.age += passed;
        self.throttled += held;

        let had = signed(passed.saturating_mul(count));
        let ran = signed(user.saturating_add(nice).saturating_add(system));
        let furthest = -AHEAD_TICKS.saturating_mul(signed(count));
        self.left = self
            .left
            .saturating_add(had)
            .saturating_sub(ran)
            .max(furthest);
        let room = u64::try_from(self.left).unwrap_or(0);
        // Held off are runqueues of all CPUs, more than the quota has.
        let steal = held.min(room);
        let idle = room - steal;
        self.left -= signed(room);

        for (part, ticks) in PARTS.into_iter().zip([user, nice, system, idle, steal]) {
            self.deal(visible, part, ticks);
        }
    }

    /// Gives each CPU as much, and the rest to those whose turn it is.
    fn deal(&mut self, visible: &[u16], part: Part, ticks: u64) {
        if visible.is_empty() {
            return;
        }
        let count = visible.len();
        let (each, rest) = (ticks / count as u64, ticks % count as u64);
        // Below the number of CPUs.
        let rest = rest as usize;
        for (at, cpu) in visible.iter().enumerate() {
            let in_turn = (at + count - self.turn % count) % count < rest;
            *part(self.cpus.entry(*cpu).or_default()) += each + u64::from(in_turn);
        }
        self.turn = (self.turn + rest) % count;
        *part(&mut self.all) += ticks;
    }

    /// What a CPU did.
    pub fn cpu(&self, cpu: u16) -> Ticks {
        self.cpus.get(&cpu).copied().unwrap_or_default()
    }

    /// What all did, those that are hidden now included.
    pub fn all(&self) -> Ticks {
        self.all
    }
}

/// A part of what a CPU did.
type Part = fn(&mut Ticks) -> &mut u64;

const PARTS: [Part; 5] = [
    |ticks| &mut ticks.user,
    |ticks| &mut ticks.nice,
    |ticks| &mut ticks.system,
    |ticks| &mut ticks.idle,
    |ticks| &mut ticks.steal,
];

/// Numbers that no time reaches are the largest.
fn signed(ticks: u64) -> i64 {
    i64::try_from(ticks).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn second(user: u64, system: u64, throttled: u64, age: u64) -> Totals {
        Totals {
            user_usec: user * 1_000_000,
            system_usec: system * 1_000_000,
            throttled_usec: throttled * 1_000_000,
            age_usec: age * 1_000_000,
            nice_usec: 0,
        }
    }

    #[test]
    fn a_quota_of_one_and_a_half_cpus_is_a_quarter_stolen() {
        let mut ledger = Ledger::default();
        ledger.look(&[0, 1], second(10, 0, 0, 100));
        let before = ledger.all();
        // Eight runqueues were held off most of the time.
        ledger.look(&[0, 1], second(25, 0, 80, 110));
        let after = ledger.all();
        assert_eq!(after.user - before.user, 1500);
        assert_eq!(after.steal - before.steal, 500);
        assert_eq!(after.idle, before.idle);
    }

    #[test]
    fn a_look_more_often_than_a_tick_adds_no_idle_time() {
        let mut ledger = Ledger::default();
        ledger.look(&[3], Totals::default());
        for ms in 1..10_000 {
            // Accounted in lumps of 4 ms.
            let user_usec = ms / 4 * 4000;
            ledger.look(
                &[3],
                Totals {
                    user_usec,
                    age_usec: ms * 1000,
                    ..Totals::default()
                },
            );
        }
        let all = ledger.all();
        assert!(all.idle <= 1 && all.user >= 998, "{all:?}");
    }

    #[test]
    fn a_hidden_cpu_goes_on_where_it_was() {
        let mut ledger = Ledger::default();
        ledger.look(&[0, 1, 2, 3], second(40, 0, 0, 10));
        let before = ledger.cpu(3);
        assert_eq!(before.user, 1000);
        ledger.look(&[0, 1], second(60, 0, 0, 20));
        assert_eq!((ledger.cpu(0).user, ledger.cpu(3)), (2000, before));
        ledger.look(&[0, 1, 2, 3], second(60, 4, 0, 21));
        assert_eq!((ledger.cpu(3).user, ledger.cpu(3).system), (1000, 100));
    }

    #[test]
    fn a_burst_of_the_past_does_not_stop_the_idle_time() {
        let mut ledger = Ledger::default();
        // 1000 s of CPU within 10 s: the quota was larger then.
        ledger.look(&[0], second(1000, 0, 0, 10));
        ledger.look(&[0], second(1000, 0, 0, 20));
        assert_eq!(ledger.all().idle, 900);
    }

    proptest! {
        /// Whatever the kernel says, in whatever order: sums are the totals, nothing shrinks.
        #[test]
        fn sums_are_the_totals_and_nothing_shrinks(
            looks in prop::collection::vec(
                (prop::collection::btree_set(0u16..8, 1..8), any::<[u32; 5]>(), any::<bool>()), 1..20)
        ) {
            let mut ledger = Ledger::default();
            let mut now = Totals::default();
            for (visible, more, lies) in looks {
                let visible: Vec<_> = visible.into_iter().collect();
                let more = more.map(u64::from);
                if lies {
                    now = Totals { user_usec: u64::MAX / 2 * (more[0] & 1), age_usec: more[1], ..now };
                }
                now.nice_usec += more[1];
                now.user_usec = now.user_usec.saturating_add(more[0] + more[1]);
                now.system_usec += more[2];
                now.throttled_usec += more[3];
                now.age_usec += more[4];
                let before = ledger.clone();
                ledger.look(&visible, now);
                let sum = |part: fn(Ticks) -> u64| -> u64 { (0..8).map(|cpu| part(ledger.cpu(cpu))).sum() };
                let all = ledger.all();
                prop_assert_eq!(sum(|t| t.user), all.user);
                prop_assert_eq!(sum(|t| t.nice), all.nice);
                prop_assert_eq!(sum(|t| t.system), all.system);
                prop_assert_eq!(sum(|t| t.idle), all.idle);
                prop_assert_eq!(sum(|t| t.steal), all.steal);
                prop_assert!(all.system == now.system_usec / TICK_US);
                prop_assert!(all.user >= now.user_usec.saturating_sub(now.nice_usec) / TICK_US);
                for cpu in 0..8 {
                    let (old, new) = (before.cpu(cpu), ledger.cpu(cpu));
                    prop_assert!(old.user <= new.user && old.idle <= new.idle && old.steal <= new.steal);
                    prop_assert!(visible.contains(&cpu) || old == new);
                }
            }
        }
    }
}
