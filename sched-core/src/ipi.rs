//! Which vCPUs have to answer a vCPU's last IPI.
//!
//! A vCPU that has sent an IPI to others often spins until they have answered. It remembers
//! its last one: a [`word`] for one receiver, a bitmap beside it for several ([`Record`]).
//! Guests send most multicasts as a burst of IPIs to one vCPU each, so an IPI of the same
//! vector adds its receiver, until the sender spins or halts. Only the sender writes and reads
//! the record. Whether an answer is still owed it asks the receiver's own interrupt registers
//! when it spins ([`Record::receivers`], [`answer`]), so sending writes nothing that is shared.
//!
//! Source: `arch/x86/kvm/ipi_record.c`, `ipi_record.h`; tests/differential.rs compares with them.

use crate::cascade::Vcpu;
use answer::Answer;

pub mod answer;
pub mod eoi;
pub mod word;

/// A record that is older than this tells nothing, in ns.
pub const WINDOW_NS: u64 = 50_000_000;

/// The record of a vCPU's last IPI; `WORDS` * 64 vCPUs at most, up to 4,096.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<const WORDS: usize> {
    word: u32,
    sent: u32,
    map: [u64; WORDS],
}

/// How many answers a vCPU that spins may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// None is known of.
    Nobody,
    /// One receiver's.
    One,
    /// Several receivers'.
    Several,
}

/// The vCPUs that owe the answer for which a vCPU may spin (`struct kvm_dy_receivers`):
/// indices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receivers {
    /// Could take the interrupt on a CPU: of several the one that has been off its CPU for
    /// longest.
    pub pending: Option<u32>,
    /// May be handling it, but has no CPU: of several the longest off.
    pub in_handler: Option<u32>,
    /// Some receiver takes it about now, and nobody else is a candidate.
    pub running: bool,
}

impl<const WORDS: usize> Default for Record<WORDS> {
    fn default() -> Self {
        Self {
            word: 0,
            sent: 0,
            map: [0; WORDS],
        }
    }
}

impl<const WORDS: usize> Record<WORDS> {
    /// Another vCPU has accepted an IPI (`kvm_ipi_record`). `now` and `window` in ticks.
    /// Self-IPIs, those of devices and all but fixed, edge-triggered ones are no IPI here:
    /// they leave the record alone. A receiver beyond the bitmap is left out of it.
    pub fn sent(&mut self, receiver: u32, vector: u8, now: u32, window: u32) {
        let next = word::pack(receiver, vector);
        if word::same_burst(self.word, next) && self.word != next {
            self.add(next, now, window);
        } else {
            self.word = next;
        }
        self.sent = now;
    }

    /// `next` is one more of a burst (`kvm_ipi_record_add`).
    fn add(&mut self, next: u32, now: u32, window: u32) {
        if word::expired(now, self.sent, window) {
            self.word = next;
            return;
        }
        if self.word & word::MULTICAST == 0 {
            self.map = [0; WORDS];
            self.set(word::receiver(self.word));
            self.word |= word::MULTICAST;
        }
        self.set(word::receiver(next));
    }

    fn set(&mut self, idx: u32) {
        if let Some(bits) = self.map.get_mut(idx as usize / 64) {
            *bits |= 1 << (idx % 64);
        }
    }

    /// Nobody owes it an answer any more: it halts, or is reset (`kvm_ipi_record_clear`).
    pub fn clear(&mut self) {
        self.word = 0;
    }

    /// The word; 0 if nothing is remembered.
    pub fn word(&self) -> u32 {
        self.word
    }

    /// Is `idx` a receiver that has not answered, as far as the record knows?
    pub fn remembers(&self, idx: u32) -> bool {
        if self.word & word::VALID == 0 {
            return false;
        }
        if self.word & word::MULTICAST == 0 {
            return word::receiver(self.word) == idx;
        }
        let bits = self.map.get(idx as usize / 64).copied().unwrap_or(0);
        bits >> (idx % 64) & 1 == 1
    }

    /// How many answers the sender, which spins, may wait for (`kvm_arch_dy_awaited`). Code in
    /// user mode waits for none.
    pub fn awaited(&mut self, kernel_mode: bool) -> Awaited {
        self.word &= !word::OPEN;
        match (
            kernel_mode,
            self.word & word::VALID,
            self.word & word::MULTICAST,
        ) {
            (false, ..) | (_, 0, _) => Awaited::Nobody,
            (true, _, 0) => Awaited::One,
            (true, ..) => Awaited::Several,
        }
    }

    /// The vCPUs whose answer the sender may wait for (`kvm_arch_dy_receivers`). Those that
    /// have answered are forgotten, the record too when none is left, and after `window` ticks.
    ///
    /// `look`: what vCPU idx looks like now, `None` if there is none. At most [`word::PROBES`] are asked, whatever the number
    /// of vCPUs; the next call goes on.
    pub fn receivers<'a>(
        &mut self,
        now: u32,
        window: u32,
        mut look: impl FnMut(u32) -> Option<&'a Vcpu>,
    ) -> Receivers {
        let mut found = Found::default();
        if !self.owed(now, window, &mut look, &mut found) {
            self.clear();
        } else if found.pending.is_some() || found.in_handler.is_some() {
            found.running = false;
        } else if found.running {
            found.running = word::leave(&mut self.word);
        }
        found.indices()
    }

    /// Is any answer still owed (`ipi_record_owed`)?
    fn owed<'a>(
        &mut self,
        now: u32,
        window: u32,
        look: &mut impl FnMut(u32) -> Option<&'a Vcpu>,
        found: &mut Found<'a>,
    ) -> bool {
        if self.word & word::VALID == 0 || word::expired(now, self.sent, window) {
            return false;
        }
        if self.word & word::MULTICAST != 0 {
            return self.ask_all(look, found);
        }
        let receiver = word::receiver(self.word);
        ask(self.word, receiver, look(receiver), found)
    }

    /// As above for each receiver in the bitmap (`ipi_record_ask_all`).
    fn ask_all<'a>(
        &mut self,
        look: &mut impl FnMut(u32) -> Option<&'a Vcpu>,
        found: &mut Found<'a>,
    ) -> bool {
        let mut owed = false;
        let mut next = self.next_set(word::receiver(self.word), false);
        for probes in 1.. {
            let Some((idx, wrapped)) = next else {
                break;
            };
            if probes > word::PROBES {
                self.word = word::look_at(self.word, idx);
                return true;
            }
            if ask(self.word, idx, look(idx), found) {
                owed = true;
            } else {
                self.map[idx as usize / 64] &= !(1 << (idx % 64));
            }
            next = self.next_set(idx + 1, wrapped);
        }
        owed
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
struct Found<'a> {
    pending: Option<(u32, &'a Vcpu)>,
    in_handler: Option<(u32, &'a Vcpu)>,
    running: bool,
}

impl Found<'_> {
    fn indices(&self) -> Receivers {
        Receivers {
            pending: self.pending.map(|(idx, _)| idx),
            in_handler: self.in_handler.map(|(idx, _)| idx),
            running: self.running,
        }
    }
}

/// Keeps the vCPU that has been off its CPU for longest (`ipi_record_longest`); the first one
/// of equals.
fn keep_longest<'a>(best: &mut Option<(u32, &'a Vcpu)>, idx: u32, vcpu: &'a Vcpu) {
    if best.is_none_or(|(_, b)| vcpu.off_since < b.off_since) {
        *best = Some((idx, vcpu));
    }
}

/// Does the receiver still owe the answer (`ipi_record_ask`)? If so it is in `found`.
fn ask<'a>(word: u32, idx: u32, receiver: Option<&'a Vcpu>, found: &mut Found<'a>) -> bool {
    let Some(vcpu) = receiver else {
        return false;
    };
    match answer::answer(vcpu.seen(word::vector(word))) {
        Answer::Given => return false,
        Answer::Owed => {}
        Answer::Running => found.running = true,
        Answer::Handler => keep_longest(&mut found.in_handler, idx, vcpu),
        Answer::Pending => keep_longest(&mut found.pending, idx, vcpu),
    }
    true
}
