//! What a yield may do to whom: sums, bounds, third parties.

use proptest::prelude::*;
use sched_core::debooster::{self, Host, Level, Mode, Settlement, TaskState, Tunables, Yield};
use sched_core::eevdf::{self, Entity, Pick};
use sched_core::weight::LoadWeight;

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::{average, cases, load, queue, rounding, weighted_sum};

const HOST: Host = Host {
    tick: 4_000_000,
    base_slice: 2_800_000,
};

/// The yielder is current, its target the first of the others.
const Y: usize = 0;
const T: usize = 1;

fn tunables(mode: Mode) -> Tunables {
    Tunables {
        mode,
        ..Tunables::default()
    }
}

fn level(queue: &[Entity], who: usize) -> Level {
    let mut average = average(queue);
    let avg = average.avg_vruntime(Some(&queue[Y]));
    Level {
        vlag: avg.wrapping_sub(queue[who].vruntime) as i64,
        load: queue[who].load,
        slice: queue[who].slice,
        queue_weight: average.queue_weight(Some(&queue[Y])),
        alone: queue.len() == 1,
    }
}

/// All on one queue: what the modes decide.
fn settle(queue: &[Entity], mode: Mode, damped: bool) -> Result<Settlement, debooster::Refusal> {
    let (from, to) = ([level(queue, Y)], [level(queue, T)]);
    let y = Yield {
        from: &from,
        to: &to,
        gap: queue[T].key(queue[Y].vruntime),
        n: queue.len() as u32,
        now: 10_000_000_000,
    };
    let mut state = TaskState::default();
    debooster::settle(&y, damped, 1, &mut state, &tunables(mode), &HOST)
}

/// Lag as service, exactly but for the last digit.
fn lag(queue: &[Entity], who: usize) -> i128 {
    let zero = queue[Y].vruntime;
    let total: i128 = queue.iter().map(|e| i128::from(e.load.weight())).sum();
    let (w, key) = (queue[who].load.weight(), queue[who].key(zero));
    i128::from(w) * (weighted_sum(queue, zero) - i128::from(key) * total) / total / 1024
}

fn eligible(queue: &[Entity], who: usize) -> bool {
    average(queue).eligible(Some(&queue[Y]), queue[who].vruntime)
}

proptest! {
    #![proptest_config(cases(2000))]

    /// `calc_delta_fair` is as near to service * 1024 / w as it says.
    #[test]
    fn calc_delta_fair_rounds_as_stated(load in load(), service in 0..1u64 << 40) {
        let weight = i128::from(load.weight());
        let off = weight * i128::from(load.calc_delta_fair(service)) - 1024 * i128::from(service);
        let most = weight + ((i128::from(service) * (weight + 3)) >> 22) + 1;
        prop_assert!(off.abs() <= most, "off by {off}, at most {most}");
    }

    /// The sums that a queue keeps are those of its entities, wherever its zero is.
    #[test]
    fn average_is_the_weighted_mean(queue in queue(1..8)) {
        let mut avg = average(&queue);
        let v = avg.avg_vruntime(Some(&queue[Y]));
        let zero = queue[Y].vruntime;
        let total: i128 = queue.iter().map(|e| i128::from(e.load.weight())).sum();
        let mean = weighted_sum(&queue, zero).div_euclid(total);
        prop_assert_eq!(i128::from(v.wrapping_sub(zero) as i64), mean);
        // Moving the zero changes nothing.
        prop_assert_eq!(avg.avg_vruntime(Some(&queue[Y])), v);
        prop_assert!(avg.eligible(Some(&queue[Y]), v));
    }

    /// A transfer keeps the weighted sum of vruntimes, but for rounding: V stays.
    #[test]
    fn transfer_conserves(queue in queue(2..8), amount in 0..40_000_000u64) {
        let zero = queue[Y].vruntime;
        let mut after = queue.clone();
        after[Y].pay(amount);
        after[T].get(amount);
        let moved = weighted_sum(&after, zero) - weighted_sum(&queue, zero);
        let most = rounding(queue[Y].load, amount) + rounding(queue[T].load, amount);
        prop_assert!(moved.abs() <= most, "moved by {moved}, at most {most}");
        for who in [Y, T] {
            let left = |q: &[Entity]| q[who].deadline.wrapping_sub(q[who].vruntime);
            prop_assert_eq!(left(&after), left(&queue));
        }
    }

    /// V itself moves by less than 2 + L / 2^22 * (1 + 6 / W) virtual ns, and for nice 0 by
    /// at most 1, ahead.
    #[test]
    fn a_transfer_moves_the_average_as_little_as_stated(
        from in load(), to in load(), amount in prop_oneof![0..40_000_000u64, 0..1u64 << 42],
    ) {
        let moved = |from: LoadWeight, to: LoadWeight| {
            let (mut y, mut t) = (Entity::new(from, 1), Entity::new(to, 1));
            y.pay(amount);
            t.get(amount);
            weighted_sum(&[y, t], 0)
        };
        let total = i128::from(from.weight()) + i128::from(to.weight());
        let most = 2 * total + ((i128::from(amount) * (total + 6)) >> 22) + 1;
        let ahead = moved(from, to);
        prop_assert!(ahead.abs() < most, "{ahead} / {total}, less than {most}");
        let nice_0 = LoadWeight::from_nice(0);
        prop_assert_eq!(moved(nice_0, nice_0), 1024);
    }

    /// Nobody else's lag changes by more than rounding, nor does anybody else's eligibility
    /// unless V is just there.
    #[test]
    fn third_parties_are_left_alone(queue in queue(3..8), damped: bool) {
        let Ok(Settlement::Transfer { amount }) = settle(&queue, Mode::Transfer, damped) else {
            return Ok(());
        };
        let mut after = queue.clone();
        after[Y].pay(amount);
        after[T].get(amount);
        let total: i128 = queue.iter().map(|e| i128::from(e.load.weight())).sum();
        let moved = rounding(queue[Y].load, amount) + rounding(queue[T].load, amount);
        for who in 2..queue.len() {
            let most = moved * i128::from(queue[who].load.weight()) / total / 1024 + 2;
            let change = lag(&after, who) - lag(&queue, who);
            prop_assert!(change.abs() <= most, "{who}: {change}, at most {most}");
            if lag(&queue, who).abs() > most {
                prop_assert_eq!(eligible(&after, who), eligible(&queue, who));
            }
        }
    }

    /// The target is eligible afterwards, and neither of the two is out of its bound. On one
    /// level a target that gets what it lacks and a margin never is: the kernel does not ask
    /// (`yield_pair_may_refund`).
    #[test]
    fn transfer_reaches_its_end_within_bounds(queue in queue(2..8), damped: bool) {
        match settle(&queue, Mode::Transfer, damped) {
            Ok(Settlement::Eligible) => prop_assert!(eligible(&queue, T)),
            Ok(Settlement::Transfer { amount }) => {
                prop_assert!(!eligible(&queue, T) || level(&queue, T).vlag < 0);
                let mut after = queue.clone();
                after[Y].pay(amount);
                after[T].get(amount);
                prop_assert!(eligible(&after, T));
                let slack = |who: usize| rounding(queue[who].load, amount) / 512 + 2;
                let limit = |who: usize, slices| {
                    i128::from(debooster::limit(slices * queue[who].slice, HOST.tick))
                };
                prop_assert!(lag(&after, Y) >= -limit(Y, 1) - slack(Y));
                prop_assert!(lag(&after, T) <= limit(T, 2) + slack(T));
            }
            Ok(other) => prop_assert!(false, "{other:?} in mode transfer"),
            Err(why) => prop_assert_eq!(why, debooster::Refusal::Debt),
        }
    }

    /// Below the LCA nobody of the target's queue pays: V moves with the refund, and the need
    /// takes that into account.
    #[test]
    fn refund_below_the_lca_reaches_a_moving_average(mut queue in queue(3..8), gran in 100_000..3_000_000u64) {
        let level = level(&queue, T);
        let need = debooster::need(level.vlag, level.load.weight(), level.queue_weight);
        // The bound of a refund.
        prop_assume!(need < debooster::limit(2 * queue[T].slice, HOST.tick));
        let margin = debooster::margin(3, gran, queue[T].slice, false);
        queue[T].get(need + margin);
        prop_assert!(eligible(&queue, T));
    }

    /// The other modes move V to one side only, within their caps.
    #[test]
    fn other_modes_move_the_average_one_way(queue in queue(2..8), damped: bool) {
        let zero = queue[Y].vruntime;
        let before = weighted_sum(&queue, zero);
        let mut after = queue.clone();
        match settle(&queue, Mode::Penalty, damped) {
            Ok(Settlement::Penalty { virtual_ns }) => {
                let gran = queue[Y].load.calc_delta_fair(HOST.base_slice);
                prop_assert!(virtual_ns <= 6 * gran);
                after[Y].pay_virtual(virtual_ns);
                prop_assert!(weighted_sum(&after, zero) > before);
            }
            other => prop_assert!(false, "{other:?} in mode penalty"),
        }
        after.clone_from(&queue);
        if let Ok(Settlement::Credit { amount }) = settle(&queue, Mode::Credit, damped) {
            after[T].get(amount);
            prop_assert!(weighted_sum(&after, zero) < before);
        }
        prop_assert!(settle(&queue, Mode::Lend, damped).is_err());
    }

    /// More competitors never make anything larger; a larger gap never makes it smaller.
    #[test]
    fn caps_are_monotone(n in 0..40u32, gran in 0..1u64 << 40, slice in 0..1u64 << 40,
                         gap in 0..1i64 << 40, more in 0..1i64 << 20, w in 2..1u32 << 20) {
        prop_assert!(debooster::cap_halves(n + 1) <= debooster::cap_halves(n));
        prop_assert!(debooster::margin(n + 1, gran, slice, false) <= debooster::margin(n, gran, slice, false));
        for damped in [false, true] {
            let of = |gap, n| debooster::penalty(gran, gap, n, damped);
            prop_assert!(of(gap, n + 1) <= of(gap, n));
            prop_assert!(of(gap + more, n) >= of(gap, n));
            prop_assert!(of(gap, n) <= gran * u64::from(debooster::cap_halves(n)) / 2);
        }
        prop_assert!(debooster::margin(n, gran, slice, true) <= debooster::margin(n, gran, slice, false));
        prop_assert!(debooster::need(-gap - more, w, 0) >= debooster::need(-gap, w, 0));
        prop_assert!(debooster::need(-gap, w, u64::from(w) + 1024) >= debooster::need(-gap, w, 0));
    }

}

/// A CPU on which two tasks yield to each other as often as they can.
struct Cpu {
    queue: Vec<Entity>,
    /// Indices of the queue as it was at the start.
    names: Vec<usize>,
    states: [TaskState; 2],
    now: u64,
}

const QUANTUM: u64 = 50_000;

impl Cpu {
    fn new(queue: Vec<Entity>) -> Self {
        let names = (0..queue.len()).collect();
        let states = [TaskState::default(); 2];
        let mut cpu = Self {
            queue,
            names,
            states,
            now: 0,
        };
        cpu.queue[Y].protect();
        cpu
    }

    /// Runs the current task for a quantum, has it yield if it is one of the pair, and picks.
    /// Returns the name of who has run.
    fn step(&mut self) -> usize {
        let name = self.names[Y];
        self.now += QUANTUM;
        self.queue[Y].run(QUANTUM, HOST.base_slice);
        let mut buddy = None;
        if name < 2 {
            buddy = self.yield_to_other(name);
        }
        let average = average(&self.queue);
        let next = match buddy {
            Some(at) if average.eligible(Some(&self.queue[Y]), self.queue[at].vruntime) => at,
            _ => match eevdf::pick(&self.queue[1..], &average, Some(&self.queue[Y])) {
                Some(Pick::Queued(index)) => index + 1,
                _ => Y,
            },
        };
        if next != Y {
            self.queue.swap(Y, next);
            self.names.swap(Y, next);
            self.queue[Y].protect();
        }
        name
    }

    fn yield_to_other(&mut self, name: usize) -> Option<usize> {
        let other = 1 - name;
        let at = self.names.iter().position(|&n| n == other)?;
        let (from, to) = ([level(&self.queue, Y)], [level(&self.queue, at)]);
        let y = Yield {
            from: &from,
            to: &to,
            gap: self.queue[at].key(self.queue[Y].vruntime),
            n: self.queue.len() as u32,
            now: self.now,
        };
        let tunables = Tunables::default();
        let damped = self.states[other].reversed(name as u64, self.now, tunables.pair_window_ns);
        let state = &mut self.states[name];
        match debooster::settle(&y, damped, other as u64, state, &tunables, &HOST) {
            Ok(Settlement::Transfer { amount }) => {
                self.queue[Y].pay(amount);
                self.queue[at].get(amount);
            }
            Ok(_) => {}
            Err(_) => {
                let average = average(&self.queue);
                let eligible = average.eligible(Some(&self.queue[Y]), self.queue[Y].vruntime);
                self.queue[Y].forfeit(eligible, HOST.base_slice);
            }
        }
        Some(at)
    }

    fn lag_of(&self, name: usize) -> i128 {
        let at = self.names.iter().position(|&n| n == name).unwrap();
        lag(&self.queue, at)
    }
}

/// Equal tasks that begin together, with slices of their own.
fn equals() -> impl Strategy<Value = Vec<Entity>> {
    let entity = (prop_oneof![Just(0), -5..6], 700_000..6_000_000u64);
    prop::collection::vec(entity, 3..8).prop_map(|list| {
        let entity = |(nice, slice)| Entity {
            custom_slice: true,
            ..Entity::new(LoadWeight::from_nice(nice), slice)
        };
        list.into_iter().map(entity).collect()
    })
}

proptest! {
    #![proptest_config(cases(60))]

    /// However often two tasks yield to each other:
    /// - together they never owe more than a limit and a slice, each being the larger one;
    /// - who yields runs again within (limit + 2 slices) * W / w, in time of the CPU.
    #[test]
    fn a_pair_that_yields_all_the_time_is_bounded(queue in equals()) {
        let slice = queue.iter().map(|e| e.slice).max().unwrap();
        let limit = debooster::limit(slice, HOST.tick);
        let total: u64 = queue.iter().map(|e| u64::from(e.load.weight())).sum();
        let weights: Vec<_> = queue.iter().map(|e| u64::from(e.load.weight())).collect();
        let mut cpu = Cpu::new(queue);
        let mut last_ran = [0; 8];
        for _ in 0..4000 {
            let who = cpu.step();
            last_ran[who] = cpu.now;
            let joint = cpu.lag_of(0) + cpu.lag_of(1);
            prop_assert!(joint >= -i128::from(limit + slice + QUANTUM), "joint lag {joint}");
            for (name, &weight) in weights.iter().enumerate() {
                let waited = cpu.now - last_ran[name];
                let most = (limit + 2 * slice + QUANTUM) * total / weight;
                prop_assert!(waited <= most, "{name} waited {waited}, at most {most}");
            }
        }
    }
}
