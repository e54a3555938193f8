//! Who waits for whose interrupt.
//!
//! A vCPU that has sent an IPI to others often spins until they have answered. It remembers
//! its last one: a [`word`] for one receiver, a bitmap beside it for several ([`Record`]).
//! Only the sender writes and reads the record. Whether an answer is still due it asks the
//! receiver's own interrupt registers when it spins ([`Record::awaited`]), so sending writes
//! nothing that is shared:
//!
//! | at the receiver, for the vector | means |
//! |---|---|
//! | IRR or ISR set | not taken, or taken and not acknowledged: *pending* |
//! | neither, preempted in the kernel with interrupts off | Linux acknowledges before it handles: may be *answering* |
//! | neither, else | has answered: forget it |
//!
//! With EOIs followed (`kvm.ipi_eoi`, off by default) there is one shared word a vCPU,
//! [`Asked`]: a sender leaves its index, vector and sequence there, the receiver marks it at
//! its EOI of that vector (phase one), the sender compares (phase two). Nobody ever writes
//! another's record as a sender.
//!
//! Source: `arch/x86/kvm/ipi_link.c`, design section 4.3.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::cascade::Vcpu;

pub mod word;

/// The record of a vCPU's last IPI; `WORDS` * 64 vCPUs at most, up to 4,096.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<const WORDS: usize> {
    word: u32,
    sent: u32,
    seq: u32,
    map: [u64; WORDS],
}

/// For whose answer a vCPU spins (`struct kvm_dy_awaited`): indices of vCPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Awaited {
    /// Has not taken or not acknowledged the interrupt and could run: of several the one
    /// that has been off its CPU for longest.
    pub pending: Option<u32>,
    /// May still be in the handler and could run; of several the longest off.
    pub answering: Option<u32>,
    /// Somebody runs who has the interrupt pending: he is about to take it
    /// ([`Vcpu::running`]).
    pub running: bool,
}

impl<const WORDS: usize> Default for Record<WORDS> {
    fn default() -> Self {
        Self {
            word: 0,
            sent: 0,
            seq: 0,
            map: [0; WORDS],
        }
    }
}

impl<const WORDS: usize> Record<WORDS> {
    /// An IPI goes to one other vCPU (`kvm_ipi_send_end`). `now` in ticks. Self-IPIs, those
    /// of devices and all but fixed, edge-triggered ones are no IPI here: leave the record.
    pub fn sent_to(&mut self, receiver: u32, vector: u8, now: u32) {
        self.word = word::pack(receiver, vector);
        self.sent = now;
    }

    /// An IPI goes to several, none of them the sender (`kvm_ipi_link_add`,
    /// `kvm_ipi_link_many`). Receivers beyond the bitmap are left out.
    pub fn sent_to_many(&mut self, receivers: impl Iterator<Item = u32>, vector: u8, now: u32) {
        self.map = [0; WORDS];
        for idx in receivers {
            if let Some(bits) = self.map.get_mut(idx as usize / 64) {
                *bits |= 1 << (idx % 64);
            }
        }
        self.word = word::pack(0, vector) | word::MANY;
        self.sent = now;
    }

    /// Nobody owes it an answer any more: it halts, or is reset (`kvm_ipi_link_clear`).
    pub fn clear(&mut self) {
        self.word = 0;
    }

    /// The word; 0 if nothing is remembered.
    pub fn word(&self) -> u32 {
        self.word
    }

    /// Is `idx` in the bitmap of an IPI to many?
    pub fn remembers(&self, idx: u32) -> bool {
        let bits = self.map.get(idx as usize / 64).copied().unwrap_or(0);
        bits >> (idx % 64) & 1 == 1
    }

    /// The IPI just sent gets the next sequence; what [`Asked::ask`] is to be given for each
    /// of its receivers (`kvm_ipi_link_ask`). `me`: the sender's index.
    pub fn ask(&mut self, me: u32) -> u32 {
        self.seq = word::seq_after(self.seq);
        self.word = (self.word & !word::SEQ) | self.seq;
        word::acked(self.word, me) | word::VALID
    }

    /// For whose answer `me` spins (`kvm_arch_dy_awaited`). Who has answered is forgotten,
    /// the record too when nobody is left, and after `window` ticks.
    ///
    /// `look`: what vCPU idx looks like now, `None` if there is none. At most
    /// [`word::PROBES`] are asked, whatever the number of vCPUs; the next call goes on.
    pub fn awaited<'a>(
        &mut self,
        me: u32,
        now: u32,
        window: u32,
        mut look: impl FnMut(u32) -> Option<&'a Vcpu>,
    ) -> Awaited {
        let mut awaited = Longest::default();
        if self.word & word::VALID == 0 {
            return awaited.indices();
        }
        let due = if word::expired(now, self.sent, window) {
            false
        } else if self.word & word::MANY != 0 {
            self.many_due(me, &mut look, &mut awaited)
        } else {
            let receiver = word::receiver(self.word);
            is_due(self.word, me, receiver, look(receiver), &mut awaited)
        };
        if !due {
            self.clear();
        }
        awaited.indices()
    }

    /// As above for each receiver in the bitmap (`ipi_link_many_due`).
    fn many_due<'a>(
        &mut self,
        me: u32,
        look: &mut impl FnMut(u32) -> Option<&'a Vcpu>,
        awaited: &mut Longest<'a>,
    ) -> bool {
        let start = word::receiver(self.word);
        let mut due = false;
        let mut next = self.next_set(start, false);
        for probes in 1.. {
            let Some((idx, wrapped)) = next else {
                break;
            };
            if probes > word::PROBES {
                self.word = word::look_at(self.word, idx);
                return true;
            }
            if is_due(self.word, me, idx, look(idx), awaited) {
                due = true;
            } else {
                self.map[idx as usize / 64] &= !(1 << (idx % 64));
            }
            next = self.next_set(idx + 1, wrapped);
        }
        due
    }

    /// The next bit from `from` on, once round to the start (`for_each_set_bit_wrap`); and
    /// whether it is past the end.
    fn next_set(&self, from: u32, wrapped: bool) -> Option<(u32, bool)> {
        let start = word::receiver(self.word);
        if wrapped {
            return self.find(from, start).map(|idx| (idx, true));
        }
        match self.find(from, WORDS as u32 * 64) {
            Some(idx) => Some((idx, false)),
            None => self.find(0, start).map(|idx| (idx, true)),
        }
    }

    fn find(&self, from: u32, end: u32) -> Option<u32> {
        let end = end.min(WORDS as u32 * 64);
        let mut at = from;
        while at < end {
            let bits = self.map[at as usize / 64] >> (at % 64);
            if bits != 0 {
                return Some(at + bits.trailing_zeros()).filter(|&idx| idx < end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

/// The best candidates so far.
#[derive(Debug, Default)]
struct Longest<'a> {
    pending: Option<(u32, &'a Vcpu)>,
    answering: Option<(u32, &'a Vcpu)>,
    running: bool,
}

impl Longest<'_> {
    fn indices(&self) -> Awaited {
        Awaited {
            pending: self.pending.map(|(idx, _)| idx),
            answering: self.answering.map(|(idx, _)| idx),
            running: self.running,
        }
    }
}

/// Keeps who has been off its CPU for longest (`ipi_link_longest`); the first one of equals.
fn keep_longest<'a>(best: &mut Option<(u32, &'a Vcpu)>, idx: u32, vcpu: &'a Vcpu) {
    if best.is_none_or(|(_, b)| vcpu.off_since < b.off_since) {
        *best = Some((idx, vcpu));
    }
}

/// Does the receiver still owe the answer (`ipi_link_due`)? If so and if it could run but
/// doesn't, it is a candidate.
fn is_due<'a>(
    word: u32,
    me: u32,
    idx: u32,
    receiver: Option<&'a Vcpu>,
    awaited: &mut Longest<'a>,
) -> bool {
    let Some(vcpu) = receiver else {
        return false;
    };
    let acked = vcpu.asked == word::acked(word, me);
    if !acked && vcpu.pending(word::vector(word)) {
        if !vcpu.ready {
            awaited.running |= vcpu.running();
        } else if !vcpu.deaf() {
            keep_longest(&mut awaited.pending, idx, vcpu);
        }
        return true;
    }
    if !vcpu.ready || !vcpu.answering() {
        return false;
    }
    keep_longest(&mut awaited.answering, idx, vcpu);
    true
}

/// A word that several vCPUs write. Implemented here for [`AtomicU32`]; a model checker
/// brings its own.
pub trait SharedWord {
    /// Reads; what the writer did before its [`SharedWord::store`] is seen (`READ_ONCE`, x86).
    fn load(&self) -> u32;
    /// Writes, after everything before it (`WRITE_ONCE`, x86).
    fn store(&self, word: u32);
    /// Writes `new` if the word is `old` (`cmpxchg`).
    fn replace(&self, old: u32, new: u32);
}

impl SharedWord for AtomicU32 {
    fn load(&self) -> u32 {
        Self::load(self, Ordering::Acquire)
    }

    fn store(&self, word: u32) {
        Self::store(self, word, Ordering::Release);
    }

    fn replace(&self, old: u32, new: u32) {
        // Who comes too late to a newer word has nothing to note.
        let _ = self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// As a receiver: by whom a vCPU was last asked for its EOI (`ipi_link.asked`). Lock-free.
#[derive(Debug, Default)]
pub struct Asked<W>(pub W);

impl<W: SharedWord> Asked<W> {
    /// A sender leaves its word, from [`Record::ask`], *after* the interrupt was delivered
    /// (`ipi_link_ask_one`). A later sender takes the place of an earlier one, who then
    /// learns nothing from the EOI and asks the registers.
    pub fn ask(&self, word: u32) {
        self.0.store(word);
    }

    /// Phase one, by the receiver at its EOI of `vector` (`kvm_ipi_link_ack`). `again`: is
    /// the vector pending once more? It may be on behalf of whom the word names; asked after
    /// the word is read, or a send between the two would be taken for answered.
    pub fn eoi(&self, vector: u8, again: impl FnOnce() -> bool) {
        let word = self.0.load();
        if word & word::VALID == 0 || word::vector(word) != vector || again() {
            return;
        }
        self.0.replace(word, word & !word::VALID);
    }

    /// Phase two, by the sender: was the EOI for `record`'s IPI? Also true for a record that
    /// never asked only if index, vector and sequence are all 0.
    pub fn acked<const WORDS: usize>(&self, record: &Record<WORDS>, me: u32) -> bool {
        self.0.load() == word::acked(record.word, me)
    }

    /// The receiver is reset: it owes nobody anything (`kvm_ipi_link_reset`).
    pub fn reset(&self) {
        self.0.store(0);
    }

    /// The word as it is, for [`Vcpu::asked`].
    pub fn word(&self) -> u32 {
        self.0.load()
    }
}
