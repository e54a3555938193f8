//! Two-phase clean-up at EOI, off by default (`kvm.ipi_eoi`, topic debooster).
//!
//! There is one shared word a vCPU, [`Asked`]: a sender leaves a cookie there, its index, the
//! vector and its sequence; the receiver marks it at its EOI of that vector (phase one), the
//! sender compares (phase two). Nobody ever writes another vCPU's record as a sender.
//!
//! ```text
//! 31     27..20    19..12  11..0
//! valid  sequence  vector  sender
//! ```

use core::sync::atomic::{AtomicU32, Ordering};

/// No EOI of the vector has come since.
pub const VALID: u32 = 0x8000_0000;

const SEQUENCE: u32 = 0x0ff0_0000;
const ONE: u32 = 0x0010_0000;

/// A sender's sequence: 1 to 255 and round again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequence(u32);

impl Sequence {
    /// That of a cookie.
    pub const fn of(cookie: u32) -> Self {
        Self(cookie & SEQUENCE)
    }

    /// The cookie of the next IPI of the vCPU `sender`, or of the first one of a burst.
    pub fn cookie(&mut self, sender: u32, vector: u8) -> u32 {
        self.0 = match self.0.wrapping_add(ONE) & SEQUENCE {
            0 => ONE,
            next => next,
        };
        self.same(sender, vector)
    }

    /// The cookie of one more IPI of a burst.
    pub const fn same(self, sender: u32, vector: u8) -> u32 {
        VALID | self.0 | (vector as u32) << 12 | sender & 0xfff
    }
}

fn vector_of(cookie: u32) -> u8 {
    (cookie >> 12) as u8
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

/// As a receiver: by whom a vCPU was last asked for its EOI. Lock-free.
#[derive(Debug, Default)]
pub struct Asked<W>(pub W);

impl<W: SharedWord> Asked<W> {
    /// A sender leaves its cookie, from [`Sequence::cookie`], *after* the interrupt was delivered
    ///. A later sender takes the place of an earlier one, who then
    /// learns nothing from the EOI and asks the registers.
    pub fn ask(&self, cookie: u32) {
        self.0.store(cookie);
    }

    /// Phase one, by the receiver at its EOI of `vector`. `again`: is
    /// the vector pending once more? It may be on behalf of whom the word names; asked after
    /// the word is read, or a send between the two would be taken for answered.
    pub fn eoi(&self, vector: u8, again: impl FnOnce() -> bool) {
        let word = self.0.load();
        if word & VALID == 0 || vector_of(word) != vector || again() {
            return;
        }
        self.0.replace(word, word & !VALID);
    }

    /// Phase two, by the sender: was the EOI for the IPI with this cookie, from
    /// [`Sequence::cookie`]?
    pub fn acked(&self, cookie: u32) -> bool {
        self.0.load() == cookie & !VALID
    }

    /// The receiver is reset: it owes nobody anything.
    pub fn reset(&self) {
        self.0.store(0);
    }

    /// The word as it is.
    pub fn word(&self) -> u32 {
        self.0.load()
    }
}
