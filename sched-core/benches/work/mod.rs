//! What is measured: the functions that run at every IPI, spin exit and yield.

use std::hint::black_box;
use std::sync::atomic::AtomicU32;

use sched_core::cascade::{Outcome, Vcpu, cascade};
use sched_core::debooster::{
    self, Host, Level, Mode, Settlement, TaskState, Tunables, Yield, settle,
};
use sched_core::eevdf::{Average, Entity};
use sched_core::ipi::eoi::{Asked, Sequence};
use sched_core::ipi::{Awaited, Receivers, Record};
use sched_core::scan::{self, YieldTo};
use sched_core::vmf::{Kind, Queue, Task};
use sched_core::weight::LoadWeight;

/// One call of what is measured.
pub type Call = Box<dyn FnMut() -> u64>;

/// Something to measure: its name, and how it is set up with a seed for its inputs.
pub struct Work {
    /// As in the table.
    pub name: &'static str,
    /// Makes the calls' state.
    pub set_up: fn(u64) -> Call,
}

/// All, in the order of the table. The first one is what a call costs by itself.
pub const ALL: &[Work] = &[
    work("nothing", |seed| Box::new(move || black_box(seed))),
    work("IPI to one: record it", send_one),
    work("IPI to 15 of 240: record it", send_many),
    work("IPI followed: leave the word", ask),
    work("EOI that nobody follows", |seed| eoi(seed, 0)),
    work("EOI that somebody follows", |seed| eoi(seed, VECTOR)),
    work("spin exit: ask one receiver", ask_one),
    work("spin exit: ask 15 receivers", ask_many),
    work("scan, 16 vCPUs, the first is taken", |seed| {
        net(seed, 16, YieldTo::Taken)
    }),
    work("scan, 240 vCPUs, the first is taken", |seed| {
        net(seed, 240, YieldTo::Taken)
    }),
    work("scan, 4,096 vCPUs, the first is taken", |seed| {
        net(seed, 4096, YieldTo::Taken)
    }),
    work("stock's scan, 16 vCPUs, nobody to take", |seed| {
        stock(seed, 16)
    }),
    work("stock's scan, 240 vCPUs, nobody to take", |seed| {
        stock(seed, 240)
    }),
    work("stock's scan, 4,096 vCPUs, nobody to take", |seed| {
        stock(seed, 4096)
    }),
    work("advance: may the target run", advance),
    work("lend: who borrows, of 1", |seed| lend(seed, 1)),
    work("lend: who borrows, of 8", |seed| lend(seed, 8)),
    work("transfer: decide and apply, one level", |seed| {
        transfer(seed, 1)
    }),
    work("transfer: decide and apply, three levels", |seed| {
        transfer(seed, 3)
    }),
    work("VMF: pick of 8", vmf_pick),
    work("VMF: run, charge and queue again, of 8", vmf_turn),
    work("VMF: yield, of 8", vmf_yield),
];

const fn work(name: &'static str, set_up: fn(u64) -> Call) -> Work {
    Work { name, set_up }
}

const VECTOR: u8 = 0xfb;
/// In ticks.
const WINDOW: u32 = 13;

/// splitmix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ *seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Preempted in the kernel, as most are when they share CPUs; one in eight runs, one in
/// eight spins.
fn vcpus(seed: u64, count: usize) -> Vec<Vcpu> {
    let mut seed = seed;
    let vcpu = |_| {
        let r = random(&mut seed);
        Vcpu {
            ready: r & 7 != 0,
            preempted: r & 7 != 0,
            in_kernel: true,
            irqs_off: r >> 3 & 7 == 0,
            spins: r >> 6 & 7 == 0,
            wants_to_run: true,
            off_since: r >> 32,
            scheduled_out: r & 7 != 0,
            ..Vcpu::default()
        }
    };
    (0..count).map(vcpu).collect()
}

fn send_one(seed: u64) -> Call {
    let mut record = Record::<4>::default();
    let mut receiver = seed as u32;
    Box::new(move || {
        receiver = (receiver + 7) % 240;
        record.clear();
        record.sent(black_box(receiver), VECTOR, 1, WINDOW);
        u64::from(record.word())
    })
}

fn send_many(seed: u64) -> Call {
    let mut record = Record::<4>::default();
    let first = seed as u32 % 16;
    Box::new(move || {
        record.clear();
        for receiver in (first..240).step_by(16) {
            record.sent(receiver, VECTOR, black_box(1), WINDOW);
        }
        u64::from(record.word())
    })
}

fn ask(seed: u64) -> Call {
    let (mut sequence, asked) = (Sequence::default(), Asked(AtomicU32::default()));
    Box::new(move || {
        asked.ask(sequence.cookie(black_box(seed as u32 & 0xff), VECTOR));
        u64::from(asked.word())
    })
}

/// `vector`: whose EOI the cookie asks for.
fn eoi(seed: u64, vector: u8) -> Call {
    let (mut sequence, asked) = (Sequence::default(), Asked(AtomicU32::default()));
    let cookie = match vector {
        0 => 0,
        _ => sequence.cookie(seed as u32 & 0xff, vector),
    };
    Box::new(move || {
        // An EOI takes the cookie's mark off: the next one needs it again.
        if cookie != 0 {
            asked.ask(black_box(cookie));
        }
        asked.eoi(VECTOR, || black_box(false));
        0
    })
}

fn ask_one(seed: u64) -> Call {
    let (mut record, mut vcpus) = (Record::<4>::default(), vcpus(seed, 16));
    vcpus.iter_mut().for_each(|v| v.irr[7] = 1 << (VECTOR % 32));
    Box::new(move || {
        record.clear();
        record.sent(5, VECTOR, 0, WINDOW);
        let look = |idx: u32| vcpus.get(idx as usize);
        let found = record.receivers(black_box(1), WINDOW, look);
        u64::from(found.pending.unwrap_or(0))
    })
}

fn ask_many(seed: u64) -> Call {
    let (mut record, mut vcpus) = (Record::<4>::default(), vcpus(seed, 16));
    vcpus.iter_mut().for_each(|v| v.irr[7] = 1 << (VECTOR % 32));
    for receiver in 1..16 {
        record.sent(receiver, VECTOR, 0, WINDOW);
    }
    Box::new(move || {
        let look = |idx: u32| vcpus.get(idx as usize);
        let found = record.receivers(black_box(1), WINDOW, look);
        u64::from(found.pending.unwrap_or(0))
    })
}

fn net(seed: u64, count: usize, result: YieldTo) -> Call {
    let mut vcpus = vcpus(seed, count);
    let mut last = seed as u32 % count as u32;
    Box::new(move || {
        let none = black_box(Receivers::default());
        let taken = cascade(
            0,
            Awaited::One,
            |_| none,
            true,
            &mut vcpus,
            &mut last,
            |_, _| black_box(result),
        );
        u64::from(matches!(taken, Outcome::Yielded(..)))
    })
}

fn stock(seed: u64, count: usize) -> Call {
    let mut vcpus = vcpus(seed, count);
    let mut last = seed as u32 % count as u32;
    Box::new(move || {
        let taken = scan::stock(0, true, &mut vcpus, &mut last, |_, _| {
            black_box(YieldTo::NotTaken)
        });
        u64::from(taken.is_some())
    })
}

const HOST: Host = Host {
    tick: 4_000_000,
    base_slice: 2_800_000,
};

fn transfer(seed: u64, levels: usize) -> Call {
    let level = |vlag| Level {
        vlag,
        load: LoadWeight::from_nice(0),
        slice: HOST.base_slice,
        queue_weight: 3 * 1024,
        alone: false,
    };
    let lacks = (seed % 500_000) as i64 + 1;
    let (from, to) = (vec![level(lacks); levels], vec![level(-lacks); levels]);
    let mut entities = [Entity::new(LoadWeight::from_nice(0), HOST.base_slice); 2];
    let mut state = TaskState::default();
    let tunables = Tunables {
        mode: Mode::Transfer,
        ..Tunables::default()
    };
    Box::new(move || {
        let pair = Yield {
            from: &from,
            to: &to,
            gap: 2 * lacks,
            n: 3,
            now: black_box(1_000_000_000),
        };
        let settled = settle(&pair, false, 1, &mut state, &tunables, &HOST);
        if let Ok(Settlement::Transfer { amount }) = settled {
            (0..levels).for_each(|_| {
                entities[0].pay(amount);
                entities[1].get(amount);
            });
        }
        entities[0].vruntime
    })
}

/// `count` nice-0 entities that wait, and what their queue knows of them.
fn waiting(seed: u64, count: usize) -> (Vec<Entity>, Average) {
    let (mut seed, mut average) = (seed, Average::default());
    let mut entity = |_| {
        let mut entity = Entity::new(LoadWeight::from_nice(0), HOST.base_slice);
        entity.vruntime = random(&mut seed) % 2_000_000;
        entity.deadline += entity.vruntime;
        average.add(&entity);
        entity
    };
    let entities = (0..count).map(&mut entity).collect();
    (entities, average)
}

fn advance(seed: u64) -> Call {
    let (entities, average) = waiting(seed, 2);
    let curr = Entity::new(LoadWeight::from_nice(0), HOST.base_slice);
    Box::new(move || {
        let queued = black_box(&entities);
        let may = debooster::may_run_ahead(queued, &average, Some(&curr), 0, &HOST);
        u64::from(may)
    })
}

fn lend(seed: u64, count: usize) -> Call {
    let (entities, average) = waiting(seed, count);
    let curr = Entity::new(LoadWeight::from_nice(0), HOST.base_slice);
    Box::new(move || {
        let queued = black_box(&entities);
        let to = debooster::borrower(queued, &average, &curr, &HOST);
        to.map_or(0, |index| index as u64)
    })
}

fn queue(seed: u64) -> Queue<16> {
    let (mut seed, mut queue) = (seed, Queue::default());
    for id in 1..9 {
        let task = Task {
            id,
            vm: id % 2,
            kind: Kind::Vcpu,
            vtime: random(&mut seed) % 1_000_000,
        };
        // There is room for twice as many.
        let _ = queue.enqueue(task);
    }
    queue
}

fn vmf_pick(seed: u64) -> Call {
    let queue = queue(seed);
    Box::new(move || black_box(&queue).pick().map_or(0, |t| t.vtime))
}

fn vmf_turn(seed: u64) -> Call {
    let mut queue = queue(seed);
    Box::new(move || {
        let Some(mut task) = queue.run_next() else {
            return 0;
        };
        task.charge(black_box(300_000), 4);
        queue.update_min(Some(&task));
        let _ = queue.enqueue(task);
        task.vtime
    })
}

fn vmf_yield(seed: u64) -> Call {
    let mut queue = queue(seed);
    let mut target = 0;
    Box::new(move || {
        target = target % 8 + 1;
        let mut me = Task {
            id: 0,
            vm: target % 2,
            kind: Kind::Vcpu,
            vtime: 500_000,
        };
        queue.yield_to(&mut me, black_box(target)).unwrap_or(0)
    })
}
