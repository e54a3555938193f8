//! The one word of the IPI tracker that several vCPUs write, under every interleaving and
//! every order of memory accesses that loom knows. Its search leaves some out (a store that
//! comes between the halves of a compare-and-exchange, a third switch between two threads):
//! where just those matter they are spelled out.
//!
//! The record itself is its sender's alone, and not here. Shared are the receiver's interrupt registers
//! and [`Asked`]. Each property comes with variants that are wrong on purpose: the model
//! has to find them, or it would prove nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use loom::thread;
use sched_core::ipi::eoi::{Asked, Sequence, SharedWord, VALID};

const VECTOR: u8 = 0xfb;

/// As the crate's own for `core`'s atomics.
#[derive(Default)]
struct Whole(AtomicU32);

impl SharedWord for Whole {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
    fn store(&self, word: u32) {
        self.0.store(word, Ordering::Release);
    }
    fn replace(&self, old: u32, new: u32) {
        let _ = (self.0).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Wrong: two halves, written one after the other.
#[derive(Default)]
struct Torn(AtomicU16, AtomicU16);

impl SharedWord for Torn {
    fn load(&self) -> u32 {
        let low = self.0.load(Ordering::Acquire);
        u32::from(self.1.load(Ordering::Acquire)) << 16 | u32::from(low)
    }
    fn store(&self, word: u32) {
        self.0.store(word as u16, Ordering::Release);
        self.1.store((word >> 16) as u16, Ordering::Release);
    }
    fn replace(&self, old: u32, new: u32) {
        if self.load() == old {
            self.store(new);
        }
    }
}

/// All interleavings with at most so many preemptions; `None`: all.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// Does the model find what is wrong?
fn fails(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) -> bool {
    catch_unwind(AssertUnwindSafe(|| explore(preemptions, model))).is_err()
}

/// With four threads, what keeps it within seconds.
const FOUR_THREADS: Option<usize> = Some(3);

/// The cookie of `sender`'s first IPI.
fn sent(sender: u32) -> u32 {
    Sequence::default().cookie(sender, VECTOR)
}

/// Two senders and a receiver at its EOI write; what a fourth reads is one of the words that
/// somebody wrote: no pair that never was.
fn words_are_whole<W: SharedWord + Default + Send + Sync + 'static>() {
    let asked = Arc::new(Asked(W::default()));
    let words = [sent(0x0ff), sent(0xf00)];
    let senders = words.map(|word| {
        let asked = asked.clone();
        thread::spawn(move || asked.ask(word))
    });
    let receiver = {
        let asked = asked.clone();
        thread::spawn(move || asked.eoi(VECTOR, || false))
    };
    let seen = asked.word();
    let acked = words.map(|word| word & !VALID);
    let known = seen == 0 || words.contains(&seen) || acked.contains(&seen);
    assert!(known, "{seen:#x} was never written");
    for sender in senders {
        sender.join().unwrap();
    }
    receiver.join().unwrap();
}

#[test]
fn a_word_never_tears() {
    explore(FOUR_THREADS, words_are_whole::<Whole>);
}

#[test]
fn control_halves_tear() {
    assert!(fails(FOUR_THREADS, words_are_whole::<Torn>));
}

/// Wrong: the receiver's mark is written without a look at what is there now.
#[derive(Default)]
struct Blind(core::sync::atomic::AtomicU32);

impl SharedWord for Blind {
    fn load(&self) -> u32 {
        SharedWord::load(&self.0)
    }
    fn store(&self, word: u32) {
        SharedWord::store(&self.0, word);
    }
    fn replace(&self, _old: u32, new: u32) {
        SharedWord::store(&self.0, new);
    }
}

/// The next IPI comes just between the receiver's look at the word and its mark. (loom lets
/// a store come between the two halves of a compare-and-exchange, so it is of no use here;
/// there is one interleaving that matters.)
fn last_word_after_a_late_mark<W: SharedWord + Default>() -> (u32, u32) {
    let asked = Asked(W::default());
    let mut sequence = Sequence::default();
    let (first, second) = (sequence.cookie(0, VECTOR), sequence.cookie(0, VECTOR));
    asked.ask(first);
    asked.eoi(VECTOR, || {
        asked.ask(second);
        false
    });
    (asked.word(), second)
}

#[test]
fn a_newer_word_is_never_overwritten_by_an_older_ones_mark() {
    let (last, newer) = last_word_after_a_late_mark::<core::sync::atomic::AtomicU32>();
    assert_eq!(last, newer);
}

#[test]
fn control_a_blind_mark_overwrites_it() {
    let (last, newer) = last_word_after_a_late_mark::<Blind>();
    assert_ne!(last, newer);
}

/// Registers of one receiver and one vector: a bit for each sender whose interrupt is
/// requested, and those that were answered. Hardware has one bit for both; which is whose
/// only the test wants to know.
#[derive(Default)]
struct Registers {
    requested: AtomicU32,
    answered: AtomicU32,
    asked: Asked<Whole>,
}

impl Registers {
    fn deliver(&self, sender: u32) {
        self.requested.fetch_or(1 << sender, Ordering::AcqRel);
    }

    fn ask(&self, sender: u32) {
        self.asked.ask(sent(sender));
    }

    /// A sender that is told that its IPI was answered finds that it was.
    fn is_not_told_too_early(&self, sender: u32) -> bool {
        !self.asked.acked(sent(sender)) || self.answered.load(Ordering::Acquire) >> sender & 1 == 1
    }

    fn take(&self) {
        let taken = self.requested.swap(0, Ordering::AcqRel);
        self.answered.fetch_or(taken, Ordering::AcqRel);
    }

    fn pending(&self) -> bool {
        self.requested.load(Ordering::Acquire) != 0
    }
}

/// One has sent already, so that the receiver is about to acknowledge that vector when the
/// other sends: first the interrupt, then the word, or the wrong way round.
fn answers_are_true(asks_first: bool) {
    let registers = Arc::new(Registers::default());
    registers.deliver(0);
    registers.ask(0);
    let sender = {
        let registers = registers.clone();
        thread::spawn(move || {
            if asks_first {
                registers.ask(1);
                registers.deliver(1);
            } else {
                registers.deliver(1);
                registers.ask(1);
            }
            assert!(registers.is_not_told_too_early(1));
        })
    };
    for _ in 0..2 {
        registers.take();
        registers.asked.eoi(VECTOR, || registers.pending());
    }
    sender.join().unwrap();
}

#[test]
fn nobody_is_told_of_an_answer_too_early() {
    explore(None, || answers_are_true(false));
}

#[test]
fn control_asking_before_delivery_is_too_early() {
    assert!(fails(None, || answers_are_true(true)));
}

/// The other's IPI comes while the receiver acknowledges: before it reads the word, before
/// it looks whether the vector is pending again, after that. `looks_first`, wrong: it looks
/// before it reads the word.
fn told_in_time(when: usize, looks_first: bool) -> bool {
    let registers = Registers::default();
    registers.deliver(0);
    registers.ask(0);
    registers.take();
    let send = |at| {
        if at == when {
            registers.deliver(1);
            registers.ask(1);
        }
    };
    let pending = looks_first && registers.pending();
    send(0);
    registers.asked.eoi(VECTOR, || {
        send(1);
        let again = registers.pending();
        send(2);
        if looks_first { pending } else { again }
    });
    registers.is_not_told_too_early(1)
}

#[test]
fn an_ipi_during_an_eoi_is_not_taken_for_answered() {
    explore(None, || {
        assert!((0..3).all(|when| told_in_time(when, false)));
    });
}

#[test]
fn control_looking_before_reading_the_word_is_too_early() {
    explore(None, || assert!(!told_in_time(0, true)));
}
