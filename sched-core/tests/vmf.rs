//! The class VMF: its queue against a sorted list, and what its charging must keep.

use proptest::prelude::*;
use sched_core::vmf::{
    self, Account, FAIR_PERIOD, FAIR_RUNTIME, Full, HELPER_BURST, Kind, Queue, SLICE, Task,
    WAKE_MARGIN,
};

#[path = "support/arbitrary.rs"]
mod arbitrary;
use arbitrary::cases;

const ROOM: usize = 24;

fn task(id: u32, vm: u32, vtime: u64) -> Task {
    Task {
        id,
        vm,
        kind: Kind::Vcpu,
        vtime,
    }
}

/// a - b, signed: vtimes wrap.
fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

#[test]
fn a_full_queue_says_so_and_stays_as_it_is() {
    let mut queue = Queue::<2>::default();
    assert!(queue.is_empty() && queue.pick().is_none() && queue.run_next().is_none());
    queue.enqueue(task(1, 0, 5)).unwrap();
    queue.enqueue(task(2, 0, 3)).unwrap();
    assert_eq!(queue.enqueue(task(3, 0, 1)), Err(Full));
    let order: Vec<u32> = queue.iter().map(|t| t.id).collect();
    assert_eq!(order, [2, 1]);
    assert_eq!(queue.dequeue(7), None);
}

#[test]
fn a_wakeup_preempts_by_a_margin_and_a_helper_within_its_burst() {
    let running = task(0, 0, 1_000_000);
    let behind = |ns| task(1, 1, 1_000_000 - ns);
    assert!(!behind(WAKE_MARGIN).preempts(&running, 0));
    assert!(behind(WAKE_MARGIN + 1).preempts(&running, 0));
    let helper = |vtime| Task {
        kind: Kind::Helper,
        ..task(2, 0, vtime)
    };
    let min = 700_000;
    assert!(helper(min + HELPER_BURST).preempts(&running, min));
    assert!(!helper(min + HELPER_BURST + 1).preempts(&running, min));
    // Among helpers the margin holds, and none is pre-empted by a vCPU without it.
    assert!(!helper(min).preempts(&helper(min), min));
    assert!(!task(1, 1, min).preempts(&helper(min), min));
}

#[test]
fn fair_waits_for_its_period_less_its_runtime() {
    assert_eq!(
        vmf::fair_longest_wait(FAIR_RUNTIME, FAIR_PERIOD),
        95_000_000
    );
    assert_eq!(vmf::fair_longest_wait(10, 5), 0);
}

#[test]
fn a_yield_stays_within_a_vm() {
    let mut queue = Queue::<ROOM>::default();
    queue.enqueue(task(1, 0, 10)).unwrap();
    queue.enqueue(task(2, 1, 20)).unwrap();
    let mut me = task(0, 1, 0);
    assert_eq!(queue.yield_to(&mut me, 1), None, "another VM's");
    assert_eq!(queue.yield_to(&mut me, 9), None, "not here");
    assert_eq!(queue.pick().map(|t| t.id), Some(1));
    assert_eq!(queue.yield_to(&mut me, 2), Some(21));
    assert_eq!(queue.pick().map(|t| t.id), Some(2));
    // The hint ends with the task that it named.
    queue.dequeue(2);
    assert_eq!(queue.pick().map(|t| t.id), Some(1));
}

/// Of a sorted list: whom somebody yielded to unless too far ahead, or the first.
fn next(model: &[Task], buddy: Option<u32>) -> Option<&Task> {
    let first = model.first()?;
    let near = |t: &&Task| Some(t.id) == buddy && ahead(t.vtime, first.vtime) <= SLICE as i64;
    model.iter().find(near).or(Some(first))
}

#[derive(Debug, Clone)]
enum Op {
    Enqueue(u64),
    Dequeue(prop::sample::Index),
    RunNext(u64),
    YieldTo(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let span = || 0..3 * SLICE;
    prop_oneof![
        4 => span().prop_map(Op::Enqueue),
        1 => any::<prop::sample::Index>().prop_map(Op::Dequeue),
        3 => span().prop_map(Op::RunNext),
        2 => any::<prop::sample::Index>().prop_map(Op::YieldTo),
    ]
}

proptest! {
    #![proptest_config(cases(1500))]

    /// The queue is a list sorted by vtime, the first come of equals first; whom somebody
    /// yielded to comes before all. vtimes wrap on the way.
    #[test]
    fn a_queue_is_a_sorted_list(ops in prop::collection::vec(op(), 1..80), base: u64) {
        let mut queue = Queue::<ROOM>::default();
        let mut model: Vec<Task> = Vec::new();
        let (mut buddy, mut running) = (None, task(0, 0, base));
        for (n, op) in ops.iter().enumerate() {
            match op {
                Op::Enqueue(off) => {
                    let new = task(n as u32 + 1, n as u32 % 3, base.wrapping_add(*off));
                    prop_assert_eq!(queue.enqueue(new).is_err(), model.len() == ROOM);
                    if model.len() < ROOM {
                        model.push(new);
                    }
                }
                Op::Dequeue(which) if !model.is_empty() => {
                    let gone = model.remove(which.index(model.len()));
                    prop_assert_eq!(queue.dequeue(gone.id), Some(gone));
                    buddy = buddy.filter(|b| *b != gone.id);
                }
                Op::RunNext(ran) if !model.is_empty() => {
                    let first = next(&model, buddy).unwrap().id;
                    let picked = queue.run_next();
                    prop_assert_eq!(picked.map(|t| t.id), Some(first));
                    model.retain(|t| t.id != first);
                    buddy = buddy.filter(|b| *b != first);
                    running = picked.unwrap();
                    running.charge(*ran, 2);
                }
                Op::YieldTo(which) if !model.is_empty() => {
                    let at = which.index(model.len());
                    let before = running;
                    let paid = queue.yield_to(&mut running, model[at].id);
                    prop_assert_eq!(paid.is_some(), model[at].vm == running.vm);
                    if let Some(paid) = paid {
                        prop_assert!((1..=SLICE + 1).contains(&paid));
                        let mut target = model.remove(at);
                        target.vtime = target.vtime.wrapping_sub(paid);
                        // Nothing is minted.
                        prop_assert_eq!(running.vtime, before.vtime.wrapping_add(paid));
                        buddy = Some(target.id);
                        model.push(target);
                    }
                }
                _ => {}
            }
            model.sort_by(|a, b| ahead(a.vtime, b.vtime).cmp(&0));
            prop_assert!(queue.iter().eq(&model));
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.pick(), next(&model, buddy));
        }
    }

    /// The minimum never goes down, and is never above who is there.
    #[test]
    fn the_minimum_only_grows(vtimes in prop::collection::vec(0..10 * SLICE, 1..40), base: u64) {
        let mut queue = Queue::<ROOM>::default();
        let mut running = task(0, 0, 0);
        let mut account = Account::default();
        account.note(&task(0, 0, base));
        for (n, off) in vtimes.iter().enumerate() {
            let before = queue.min_vtime();
            let mut new = task(n as u32, 0, base.wrapping_add(*off));
            queue.place(&mut new, base, &account);
            prop_assert!(ahead(new.vtime, queue.min_vtime()) >= -(SLICE as i64));
            if queue.enqueue(new).is_ok() && n % 3 == 2 {
                running = queue.run_next().unwrap();
                running.charge(*off, 1);
            }
            queue.update_min(Some(&running));
            prop_assert!(ahead(queue.min_vtime(), before) >= 0);
        }
    }

    /// VMs that always want to run share a CPU equally, whatever the number of their vCPUs
    /// and however one of them yields. And nobody starves, by the bound of `Queue::pick`.
    #[test]
    fn vms_have_equal_shares_and_nobody_starves(
        sizes in prop::collection::vec(1..5u32, 2..5), yields in prop::option::of(1..20u32),
    ) {
        let mut queue = Queue::<ROOM>::default();
        for (vm, size) in sizes.iter().enumerate() {
            (0..*size).for_each(|n| queue.enqueue(task(vm as u32 * 8 + n, vm as u32, 0)).unwrap());
        }
        let tasks = queue.len() as u64;
        let largest = u64::from(*sizes.iter().max().unwrap());
        let mut had = vec![0; sizes.len()];
        let (mut now, mut last_ran) = (0, [0; 40]);
        for round in 0..3_000 {
            let mut running = queue.run_next().unwrap();
            let siblings = sizes[running.vm as usize];
            let mut ran = 0;
            while ran == 0 || !queue.slice_over(&running, ran) && ran < 4 * SLICE {
                ran += SLICE / 4;
                running.charge(SLICE / 4, siblings);
                queue.update_min(Some(&running));
                if running.vm == 0 && yields.is_some_and(|every| round % every == 0) {
                    let mate = queue.iter().find(|t| t.vm == 0).map(|t| t.id);
                    if mate.is_some_and(|mate| queue.yield_to(&mut running, mate).is_some()) {
                        break;
                    }
                }
            }
            now += ran;
            had[running.vm as usize] += ran;
            last_ran[running.id as usize] = now;
            queue.enqueue(running).unwrap();
            let most = tasks * (6 + 2 * largest) * SLICE;
            for waiting in queue.iter() {
                let waited = now - last_ran[waiting.id as usize];
                prop_assert!(waited <= most, "{} waited {waited} of {most}", waiting.id);
            }
        }
        let share = now / sizes.len() as u64;
        for (vm, had) in had.iter().enumerate() {
            let most = tasks * (6 + 2 * largest) * SLICE;
            prop_assert!(had.abs_diff(share) <= most, "VM {vm} had {had} of {share}");
        }
    }

    /// A VM whose vCPUs sleep and wake up by turns has no credit of a sleeper for each of
    /// them: beside one that computes it has half of the CPU.
    #[test]
    fn vcpus_that_wake_by_turns_have_the_share_of_one_vm(vcpus in 1..9u32, ran in 1_000..SLICE) {
        let mut queue = Queue::<ROOM>::default();
        let mut accounts = [Account::default(); 2];
        queue.enqueue(task(100, 1, 0)).unwrap();
        let mut sleepers: Vec<Task> = (0..vcpus).map(|id| task(id, 0, 0)).collect();
        let (mut now, mut had) = (0, [0; 2]);
        while now < 2_000 * SLICE {
            // One of the sleepers always wants to run.
            if queue.iter().all(|t| t.vm == 1) {
                let mut waking = sleepers.remove(0);
                queue.place(&mut waking, queue.min_vtime(), &accounts[0]);
                queue.enqueue(waking).unwrap();
            }
            let mut running = queue.run_next().unwrap();
            running.charge(ran, 1);
            now += ran;
            let vm = running.vm as usize;
            had[vm] += ran;
            accounts[vm].note(&running);
            queue.update_min(Some(&running));
            match vm {
                0 => sleepers.push(running),
                _ => queue.enqueue(running).unwrap(),
            }
        }
        prop_assert!(had[0].abs_diff(had[1]) <= 4 * SLICE, "{had:?}");
    }

    /// Who sleeps before each tick pays what it ran all the same, whatever the pieces.
    #[test]
    fn charging_is_exact(pieces in prop::collection::vec(1..4_000_000u64, 1..50), siblings in 0..9u32) {
        let (mut cut, mut whole) = (task(0, 0, 7), task(0, 0, 7));
        pieces.iter().for_each(|ns| cut.charge(*ns, siblings));
        whole.charge(pieces.iter().sum(), siblings);
        prop_assert_eq!(cut.vtime, whole.vtime);
        prop_assert_eq!(whole.vtime - 7, pieces.iter().sum::<u64>() * u64::from(siblings.max(1)));
    }
}
