//! Records of IPIs against a set of triples: sender, receiver and vector of all that is owed.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sched_core::cascade::Vcpu;
use sched_core::ipi::{Awaited, Receivers, Record, word};

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
    /// Its thread sleeps in the host, for a page say.
    Sleep(u32),
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
        1 => vcpu().prop_map(Op::Sleep),
        2 => vcpu().prop_map(Op::Run),
        1 => vcpu().prop_map(Op::Halt),
        1 => vcpu().prop_map(Op::Reset),
        1 => (0..5u32).prop_map(Op::Wait),
        6 => vcpu().prop_map(Op::Spin),
    ]
}

/// Sender, receiver, vector.
type Owed = (u32, u32, u8);

/// What a sender's record has to tell of.
#[derive(Debug, Clone)]
struct Last {
    receivers: BTreeSet<u32>,
    vector: u8,
    sent: u32,
    /// No spin exit has come since.
    open: bool,
}

/// vCPUs with their records, and beside them the truth.
struct World {
    records: Vec<Record<1>>,
    vcpus: Vec<Vcpu>,
    now: u32,
    /// Sent and not taken, and taken and not acknowledged.
    requested: BTreeSet<Owed>,
    in_service: BTreeSet<Owed>,
    last: Vec<Option<Last>>,
}

impl World {
    fn new() -> Self {
        let n = VCPUS as usize;
        let running = Vcpu {
            wants_to_run: true,
            ..Vcpu::default()
        };
        Self {
            records: vec![Record::default(); n],
            vcpus: vec![running; n],
            // The clock wraps on the way.
            now: u32::MAX - 20,
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
            Op::Sleep(r) => self.sleep(*r),
            Op::Halt(r) | Op::Reset(r) => self.forget(*r),
            Op::Wait(ticks) => self.now = self.now.wrapping_add(*ticks),
            Op::Spin(s) => return self.spin(*s),
        }
        Ok(())
    }

    fn send(&mut self, s: u32, receivers: &BTreeSet<u32>, v: u8) {
        for &r in receivers {
            self.records[s as usize].sent(r, v, self.now, WINDOW);
            self.vcpus[r as usize].irr[usize::from(v / 32)] |= 1 << (v % 32);
            self.requested.insert((s, r, v));
        }
        if receivers.is_empty() {
            return;
        }
        // One more of a burst, or a new one.
        let same_burst = |last: &Last| {
            last.open && last.vector == v && self.now.wrapping_sub(last.sent) <= WINDOW
        };
        let last = self.last[s as usize].take().filter(same_burst);
        let mut all = last.map_or_else(BTreeSet::new, |last| last.receivers);
        all.extend(receivers);
        self.last[s as usize] = Some(Last {
            receivers: all,
            vector: v,
            sent: self.now,
            open: true,
        });
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
        self.in_service.retain(|p| (p.1, p.2) != (r, v));
    }

    fn preempt(&mut self, r: u32, how: Preempted) {
        let vcpu = &mut self.vcpus[r as usize];
        vcpu.scheduled_out = true;
        vcpu.ready = true;
        vcpu.preempted = true;
        vcpu.in_kernel = how.in_kernel || how.irqs_off;
        vcpu.irqs_off = how.irqs_off;
        vcpu.spins = how.spins;
        vcpu.off_since = u64::from(self.now.wrapping_add(20));
    }

    fn run(&mut self, r: u32) {
        let vcpu = &mut self.vcpus[r as usize];
        vcpu.scheduled_out = false;
        vcpu.ready = false;
        vcpu.preempted = false;
        vcpu.spins = false;
    }

    fn sleep(&mut self, r: u32) {
        self.run(r);
        self.vcpus[r as usize].scheduled_out = true;
    }

    fn forget(&mut self, r: u32) {
        self.records[r as usize].clear();
        let once = self.records[r as usize].clone();
        self.records[r as usize].clear();
        assert_eq!(self.records[r as usize], once, "clearing is idempotent");
        self.last[r as usize] = None;
    }

    fn owed(&self, s: u32, r: u32, v: u8) -> bool {
        self.requested.contains(&(s, r, v)) || self.in_service.contains(&(s, r, v))
    }

    fn ask(&mut self, s: u32) -> Receivers {
        if let Some(last) = &mut self.last[s as usize] {
            last.open = false;
        }
        let vcpus = &self.vcpus;
        let look = |idx: u32| vcpus.get(idx as usize);
        let record = &mut self.records[s as usize];
        match record.awaited(true) {
            Awaited::Nobody => Receivers::default(),
            _ => record.receivers(self.now, WINDOW, look),
        }
    }

    /// What the record says must follow from the truth.
    fn spin(&mut self, s: u32) -> Result<(), TestCaseError> {
        let found = self.ask(s);
        let Some(last) = self.last[s as usize].clone() else {
            prop_assert_eq!(found, Receivers::default());
            return Ok(());
        };
        for idx in [found.pending, found.in_handler].into_iter().flatten() {
            prop_assert!(last.receivers.contains(&idx), "{idx} was not sent to");
            prop_assert!(self.vcpus[idx as usize].ready, "{idx} could not run");
            prop_assert!(!found.running, "{idx} is better than nothing");
        }
        if found.running {
            let about_to = |r: &u32| {
                let vcpu = &self.vcpus[*r as usize];
                vcpu.pending(last.vector) && !vcpu.scheduled_out
            };
            prop_assert!(last.receivers.iter().any(about_to));
        }
        if self.now.wrapping_sub(last.sent) > WINDOW {
            prop_assert_eq!(found, Receivers::default());
            prop_assert_eq!(self.records[s as usize].word(), 0);
            self.last[s as usize] = None;
            return Ok(());
        }
        for &r in &last.receivers {
            let kept = self.records[s as usize].remembers(r);
            prop_assert!(kept || !self.owed(s, r, last.vector), "{r} is forgotten");
        }
        if last.receivers.len() == 1 {
            self.one_is_exact(s, found, &last)?;
        }
        Ok(())
    }

    fn one_is_exact(&mut self, s: u32, found: Receivers, last: &Last) -> Result<(), TestCaseError> {
        let (r, v) = (*last.receivers.first().unwrap(), last.vector);
        let vcpu = self.vcpus[r as usize];
        let irqs_off = vcpu.preempted && vcpu.irqs_off;
        if self.owed(s, r, v) {
            let candidate = (vcpu.ready && !(irqs_off && vcpu.spins)).then_some(r);
            prop_assert_eq!(found.pending, candidate);
        } else if !(vcpu.pending(v) || vcpu.ready && irqs_off) {
            // Nobody's interrupt of that vector is there: done.
            prop_assert_eq!(found, Receivers::default());
            prop_assert_eq!(self.records[s as usize].word(), 0);
        }
        // A receiver that runs is waited for at two exits in a row.
        let again = self.ask(s);
        prop_assert_eq!(
            (again.pending, again.in_handler),
            (found.pending, found.in_handler)
        );
        prop_assert!(!self.ask(s).running, "a third time");
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
    fn records_follow_the_pairs(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op)?;
        }
    }

    /// One spin exit asks a bounded number of receivers, and the next ones come to the rest:
    /// whoever is due and could run is found.
    #[test]
    fn every_receiver_is_found_in_turn(receivers in prop::collection::btree_set(1..VCPUS, 2..39), one in any::<prop::sample::Index>()) {
        let mut world = World::new();
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
    fn words_hold_their_parts(receiver in 0..word::MAX_VCPUS, vector: u8, at: u32) {
        let packed = word::pack(receiver, vector);
        prop_assert_eq!((word::receiver(packed), word::vector(packed)), (receiver, vector));
        let moved = word::look_at(packed | word::MULTICAST, at);
        prop_assert_eq!(word::vector(moved), vector);
        prop_assert_eq!(word::receiver(moved), at % word::MAX_VCPUS);
        let mut left = moved;
        prop_assert!(word::leave(&mut left) && word::leave(&mut left) && !word::leave(&mut left));
        prop_assert_eq!((word::receiver(left), word::vector(left)), (at % word::MAX_VCPUS, vector));
    }
}
