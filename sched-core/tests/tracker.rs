//! The IPI tracker against a set of pairs: who waits for whom, on which vector.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use sched_core::cascade::Vcpu;
use sched_core::ipi::{Asked, Awaited, Record, word};

const VCPUS: u32 = 40;
const WINDOW: u32 = 12;
/// A reschedule, a function call, and a vector in another word of the registers.
const VECTORS: [u8; 3] = [0xfd, 0xfb, 0x31];

#[derive(Debug, Clone)]
enum Op {
    Send(u32, u32, u8),
    SendMany(u32, BTreeSet<u32>, u8),
    /// Takes the highest interrupt, if it may.
    Take(u32),
    /// Acknowledges the highest one in service.
    Eoi(u32),
    Preempt(u32, Preempted),
    Run(u32),
    Halt(u32),
    Reset(u32),
    Wait(u32),
    Spin(u32),
}

#[derive(Debug, Clone, Copy)]
struct Preempted {
    in_kernel: bool,
    irqs_off: bool,
    spins: bool,
}

fn op() -> impl Strategy<Value = Op> {
    // A few vCPUs have most of the business, so that it overlaps.
    let vcpu = || prop_oneof![4 => 0..4u32, 1 => 0..VCPUS];
    let vector = || prop::sample::select(&VECTORS[..]);
    let preempted =
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(in_kernel, irqs_off, spins)| {
            Preempted {
                in_kernel,
                irqs_off,
                spins,
            }
        });
    prop_oneof![
        3 => (vcpu(), vcpu(), vector()).prop_map(|(s, r, v)| Op::Send(s, r, v)),
        2 => (vcpu(), prop::collection::btree_set(0..VCPUS, 2..30), vector())
            .prop_map(|(s, r, v)| Op::SendMany(s, r, v)),
        4 => vcpu().prop_map(Op::Take),
        4 => vcpu().prop_map(Op::Eoi),
        4 => (vcpu(), preempted).prop_map(|(r, p)| Op::Preempt(r, p)),
        2 => vcpu().prop_map(Op::Run),
        1 => vcpu().prop_map(Op::Halt),
        1 => vcpu().prop_map(Op::Reset),
        1 => (0..5u32).prop_map(Op::Wait),
        6 => vcpu().prop_map(Op::Spin),
    ]
}

type Pair = (u32, u32, u8);

/// vCPUs with their records, and beside them the truth.
struct World {
    records: Vec<Record<1>>,
    asked: Vec<Asked<AtomicU32>>,
    vcpus: Vec<Vcpu>,
    now: u32,
    follow_eois: bool,
    /// Sent and not taken, and taken and not acknowledged.
    requested: BTreeSet<Pair>,
    in_service: BTreeSet<Pair>,
    /// Each sender's last IPI: receivers, vector, when.
    last: Vec<Option<(BTreeSet<u32>, u8, u32)>>,
}

impl World {
    fn new(follow_eois: bool) -> Self {
        let n = VCPUS as usize;
        Self {
            records: vec![Record::default(); n],
            asked: (0..n).map(|_| Asked::default()).collect(),
            vcpus: vec![
                Vcpu {
                    wants_to_run: true,
                    ..Vcpu::default()
                };
                n
            ],
            // The clock wraps on the way.
            now: u32::MAX - 20,
            follow_eois,
            requested: BTreeSet::new(),
            in_service: BTreeSet::new(),
            last: vec![None; n],
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Send(s, r, v) if s != r => self.send(*s, &BTreeSet::from([*r]), *v),
            Op::Send(..) => {}
            Op::SendMany(s, receivers, v) => {
                let mut receivers = receivers.clone();
                receivers.remove(s);
                self.send(*s, &receivers, *v);
            }
            Op::Take(r) => self.take(*r),
            Op::Eoi(r) => self.eoi(*r),
            Op::Preempt(r, how) => self.preempt(*r, *how),
            Op::Run(r) => self.run(*r),
            Op::Halt(r) => self.forget(*r),
            Op::Reset(r) => {
                self.forget(*r);
                self.asked[*r as usize].reset();
            }
            Op::Wait(ticks) => self.now = self.now.wrapping_add(*ticks),
            Op::Spin(s) => return self.spin(*s),
        }
        Ok(())
    }

    fn send(&mut self, s: u32, receivers: &BTreeSet<u32>, v: u8) {
        let record = &mut self.records[s as usize];
        match receivers.len() {
            0 => return,
            1 => record.sent_to(*receivers.first().unwrap(), v, self.now),
            _ => record.sent_to_many(receivers.iter().copied(), v, self.now),
        }
        for &r in receivers {
            self.vcpus[r as usize].irr[usize::from(v / 32)] |= 1 << (v % 32);
            self.requested.insert((s, r, v));
        }
        if self.follow_eois {
            let word = record.ask(s);
            receivers
                .iter()
                .for_each(|&r| self.asked[r as usize].ask(word));
        }
        self.last[s as usize] = Some((receivers.clone(), v, self.now));
    }

    fn take(&mut self, r: u32) {
        let vcpu = &mut self.vcpus[r as usize];
        let (Some(v), service) = (highest(&vcpu.irr), highest(&vcpu.isr)) else {
            return;
        };
        if vcpu.preempted || service.is_some_and(|s| s / 16 >= v / 16) {
            return;
        }
        vcpu.irr[usize::from(v / 32)] &= !(1 << (v % 32));
        vcpu.isr[usize::from(v / 32)] |= 1 << (v % 32);
        let taken: Vec<_> = self
            .requested
            .extract_if(.., |p| (p.1, p.2) == (r, v))
            .collect();
        self.in_service.extend(taken);
    }

    fn eoi(&mut self, r: u32) {
        let vcpu = &mut self.vcpus[r as usize];
        let Some(v) = highest(&vcpu.isr).filter(|_| !vcpu.preempted) else {
            return;
        };
        vcpu.isr[usize::from(v / 32)] &= !(1 << (v % 32));
        let again = vcpu.irr[usize::from(v / 32)] >> (v % 32) & 1 == 1;
        self.asked[r as usize].eoi(v, || again);
        self.in_service.retain(|p| (p.1, p.2) != (r, v));
    }

    fn preempt(&mut self, r: u32, how: Preempted) {
        let vcpu = &mut self.vcpus[r as usize];
        vcpu.ready = true;
        vcpu.preempted = true;
        vcpu.in_kernel = how.in_kernel || how.irqs_off;
        vcpu.irqs_off = how.irqs_off;
        vcpu.spins = how.spins;
        vcpu.off_since = u64::from(self.now.wrapping_add(20));
    }

    fn run(&mut self, r: u32) {
        let vcpu = &mut self.vcpus[r as usize];
        vcpu.ready = false;
        vcpu.preempted = false;
        vcpu.spins = false;
    }

    fn forget(&mut self, r: u32) {
        self.records[r as usize].clear();
        let once = self.records[r as usize].clone();
        self.records[r as usize].clear();
        assert_eq!(self.records[r as usize], once, "clearing is idempotent");
        self.last[r as usize] = None;
    }

    fn due(&self, s: u32, r: u32, v: u8) -> bool {
        self.requested.contains(&(s, r, v)) || self.in_service.contains(&(s, r, v))
    }

    fn ask(&mut self, s: u32) -> Awaited {
        for (vcpu, asked) in self.vcpus.iter_mut().zip(&self.asked) {
            vcpu.asked = asked.word();
        }
        let vcpus = &self.vcpus;
        self.records[s as usize].awaited(s, self.now, WINDOW, |idx| vcpus.get(idx as usize))
    }

    /// What the record says must follow from the truth.
    fn spin(&mut self, s: u32) -> Result<(), TestCaseError> {
        let awaited = self.ask(s);
        let Some((receivers, v, sent)) = self.last[s as usize].clone() else {
            prop_assert_eq!(awaited, Awaited::default());
            return Ok(());
        };
        for idx in [awaited.pending, awaited.answering].into_iter().flatten() {
            prop_assert!(receivers.contains(&idx), "{idx} was not sent to");
            prop_assert!(self.vcpus[idx as usize].ready, "{idx} runs");
        }
        if let Some(idx) = awaited.pending {
            let vcpu = &self.vcpus[idx as usize];
            prop_assert!(vcpu.pending(v) && !vcpu.deaf());
        }
        if self.now.wrapping_sub(sent) > WINDOW {
            prop_assert_eq!(awaited, Awaited::default());
            prop_assert_eq!(self.records[s as usize].word(), 0);
            self.last[s as usize] = None;
            return Ok(());
        }
        self.nobody_is_forgotten(s, &receivers, v)?;
        if receivers.len() == 1 {
            self.one_is_exact(s, awaited, &receivers, v)?;
        }
        Ok(())
    }

    /// Who owes the answer is still in the record.
    fn nobody_is_forgotten(
        &self,
        s: u32,
        receivers: &BTreeSet<u32>,
        v: u8,
    ) -> Result<(), TestCaseError> {
        let record = &self.records[s as usize];
        for &r in receivers.iter().filter(|&&r| self.due(s, r, v)) {
            prop_assert!(
                record.word() & word::VALID != 0,
                "{r} is due, and all forgotten"
            );
            let kept = match record.word() & word::MANY {
                0 => word::receiver(record.word()) == r,
                _ => record.remembers(r),
            };
            prop_assert!(kept, "{r} is due, and forgotten");
        }
        Ok(())
    }

    fn one_is_exact(
        &mut self,
        s: u32,
        awaited: Awaited,
        receivers: &BTreeSet<u32>,
        v: u8,
    ) -> Result<(), TestCaseError> {
        let r = *receivers.first().unwrap();
        let vcpu = self.vcpus[r as usize];
        if self.due(s, r, v) {
            let found = (vcpu.ready && !vcpu.deaf()).then_some(r);
            prop_assert_eq!(awaited.pending, found);
            prop_assert_eq!(awaited.running, !vcpu.ready && !vcpu.blocking);
        } else if !(vcpu.pending(v) || vcpu.ready && vcpu.answering()) {
            // Nobody's interrupt of that vector is there: done.
            prop_assert_eq!(awaited, Awaited::default());
            prop_assert_eq!(self.records[s as usize].word(), 0);
        }
        prop_assert_eq!(self.ask(s), awaited, "asking changes nothing");
        Ok(())
    }
}

fn highest(reg: &[u32; 8]) -> Option<u8> {
    (0..=u8::MAX)
        .rev()
        .find(|v| reg[usize::from(v / 32)] >> (v % 32) & 1 == 1)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1500)
    })]

    #[test]
    fn records_follow_the_pairs(ops in prop::collection::vec(op(), 1..120), follow_eois: bool) {
        let mut world = World::new(follow_eois);
        for op in &ops {
            world.apply(op)?;
        }
    }

    /// One spin exit asks a bounded number of receivers, and the next ones come to the rest:
    /// whoever is due and could run is found.
    #[test]
    fn every_receiver_is_found_in_turn(receivers in prop::collection::btree_set(1..VCPUS, 2..39), one in any::<prop::sample::Index>()) {
        let mut world = World::new(false);
        world.send(0, &receivers, 0xfb);
        let due = *one.get(&receivers.iter().copied().collect::<Vec<_>>());
        for &r in &receivers {
            if r != due {
                world.take(r);
            }
        }
        world.preempt(due, Preempted { in_kernel: true, irqs_off: false, spins: false });
        let mut looks = 0;
        let rounds = receivers.len() as u32 / word::PROBES + 1;
        let found = (0..rounds).any(|_| {
            looks += 1;
            world.ask(0).pending == Some(due)
        });
        prop_assert!(found, "{due} is not found in {looks} spin exits");
    }

    /// Any word packs and unpacks; parts stay in their fields.
    #[test]
    fn words_hold_their_parts(receiver in 0..word::MAX_VCPUS, vector: u8, at: u32, seq: u32) {
        let packed = word::pack(receiver, vector);
        prop_assert_eq!((word::receiver(packed), word::vector(packed)), (receiver, vector));
        let moved = word::look_at(packed | word::MANY, at);
        prop_assert_eq!(word::vector(moved), vector);
        prop_assert_eq!(word::receiver(moved), at % word::MAX_VCPUS);
        let next = word::seq_after(seq & word::SEQ);
        prop_assert!(next != 0 && next & !word::SEQ == 0 && next != seq & word::SEQ);
        prop_assert_eq!(word::acked(moved, receiver), packed & !word::VALID);
    }
}
