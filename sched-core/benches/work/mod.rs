//! What is measured: the functions that run at every IPI, spin exit and yield.

use std::hint::black_box;
use std::sync::atomic::AtomicU32;

use sched_core::cascade::{Ranks, Vcpu, cascade};
use sched_core::debooster::{
    self, Host, Level, Mode, Place, Settlement, TaskState, Tunables, Yield, settle,
};
use sched_core::eevdf::{Average, Entity};
use sched_core::ipi::{Asked, Awaited, Record};
use sched_core::scan::{YieldTo, scan};
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
    work("spin exit: ask one receiver", awaited_one),
    work("spin exit: ask 15 receivers", awaited_many),
    work("cascade, 16 vCPUs", |seed| walk(seed, 16)),
    work("cascade, 240 vCPUs", |seed| walk(seed, 240)),
    work("cascade, 4,096 vCPUs", |seed| walk(seed, 4096)),
    work("stock's scan, 16 vCPUs, nobody to take", |seed| {
        net(seed, 16)
    }),
    work("stock's scan, 240 vCPUs, nobody to take", |seed| {
        net(seed, 240)
    }),
    work("stock's scan, 4,096 vCPUs, nobody to take", |seed| {
        net(seed, 4096)
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
    work("exchange: two places", places),
    work("VMF: pick of 8", vmf_pick),
    work("VMF: run, charge and queue again, of 8", vmf_turn),
    work("VMF: yield, of 8", vmf_yield),
];

const fn work(name: &'static str, set_up: fn(u64) -> Call) -> Work {
    Work { name, set_up }
}

const VECTOR: u8 = 0xfb;

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
            timer_vector: 0xec,
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
        record.sent_to(black_box(receiver), VECTOR, 1);
        u64::from(record.word())
    })
}

fn send_many(seed: u64) -> Call {
    let mut record = Record::<4>::default();
    let first = seed as u32 % 16;
    Box::new(move || {
        record.sent_to_many((first..240).step_by(16), VECTOR, black_box(1));
        u64::from(record.word())
    })
}

fn ask(seed: u64) -> Call {
    let (mut record, asked) = (Record::<4>::default(), Asked(AtomicU32::default()));
    record.sent_to(3, VECTOR, 0);
    Box::new(move || {
        asked.ask(record.ask(black_box(seed as u32 & 0xff)));
        u64::from(asked.word())
    })
}

/// `vector`: whose EOI the word asks for.
fn eoi(seed: u64, vector: u8) -> Call {
    let (mut record, asked) = (Record::<4>::default(), Asked(AtomicU32::default()));
    record.sent_to(3, vector, 0);
    let word = match vector {
        0 => 0,
        _ => record.ask(seed as u32 & 0xff),
    };
    Box::new(move || {
        // An EOI takes the word's mark off: the next one needs it again.
        if word != 0 {
            asked.ask(black_box(word));
        }
        asked.eoi(VECTOR, || black_box(false));
        0
    })
}

fn awaited_one(seed: u64) -> Call {
    let (mut record, mut vcpus) = (Record::<4>::default(), vcpus(seed, 16));
    vcpus.iter_mut().for_each(|v| v.irr[7] = 1 << (VECTOR % 32));
    Box::new(move || {
        record.sent_to(5, VECTOR, 0);
        let awaited = record.awaited(0, black_box(1), 13, |idx| vcpus.get(idx as usize));
        u64::from(awaited.pending.unwrap_or(0))
    })
}

fn awaited_many(seed: u64) -> Call {
    let (mut record, mut vcpus) = (Record::<4>::default(), vcpus(seed, 16));
    vcpus.iter_mut().for_each(|v| v.irr[7] = 1 << (VECTOR % 32));
    record.sent_to_many(1..16, VECTOR, 0);
    Box::new(move || {
        let awaited = record.awaited(0, black_box(1), 13, |idx| vcpus.get(idx as usize));
        u64::from(awaited.pending.unwrap_or(0))
    })
}

fn walk(seed: u64, count: usize) -> Call {
    let vcpus = vcpus(seed, count);
    let (mut last, ranks) = (seed as u32 % count as u32, Ranks::default());
    Box::new(move || {
        let none = black_box(Awaited::default());
        cascade(0, none, true, &vcpus, &mut last, ranks, |_, _| true);
        u64::from(last)
    })
}

fn net(seed: u64, count: usize) -> Call {
    let mut vcpus = vcpus(seed, count);
    let mut last = seed as u32 % count as u32;
    Box::new(move || {
        let taken = scan(0, true, true, &mut vcpus, &mut last, |_| {
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
    let (entities, mut average) = waiting(seed, 2);
    Box::new(move || {
        let [target, curr] = black_box(&entities)[..] else {
            return 0;
        };
        let vlag = average
            .avg_vruntime(Some(&curr))
            .wrapping_sub(target.vruntime) as i64;
        let lag = debooster::lag(vlag, target.load.weight());
        u64::from(debooster::may_advance(lag, target.slice, HOST.tick))
    })
}

fn lend(seed: u64, count: usize) -> Call {
    let (entities, mut average) = waiting(seed, count);
    let curr = Entity::new(LoadWeight::from_nice(0), HOST.base_slice);
    Box::new(move || {
        let queued = black_box(&entities);
        let to = debooster::borrower(queued, &mut average, &curr, None, HOST.tick);
        to.map_or(0, |index| index as u64)
    })
}

fn places(seed: u64) -> Call {
    let mut entity = Entity::new(LoadWeight::from_nice(0), HOST.base_slice);
    entity.vruntime = seed % 1_000_000;
    Box::new(move || {
        let mine = Place::of(black_box(&entity), 700_000, HOST.tick).beside(3 * 1024, 1024);
        let theirs = Place::of(black_box(&entity), 300_000, HOST.tick);
        let (mut a, mut b) = (entity, entity);
        mine.take(&mut a);
        theirs.take(&mut b);
        (a.vlag ^ b.vlag) as u64
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
