//! The word in which a vCPU remembers its last IPI (`arch/x86/kvm/ipi_link_word.h`).
//!
//! ```text
//! 31     30    28,29  27..20  19..12  11..0
//! valid  many  0      seq     vector  receiver, or where to look first if many
//! ```
//!
//! One aligned u32 is read and written whole, so nothing tears, also on a 32-bit host. The
//! receiver's word has the sender's index in place of its own and is valid until the EOI.

/// vCPUs that an index can name.
pub const MAX_VCPUS: u32 = 4096;
/// The sender's sequence, if EOIs are followed.
pub const SEQ: u32 = 0x0ff0_0000;
/// To many: the receivers are in the bitmap beside the word.
pub const MANY: u32 = 0x4000_0000;
/// The word says something.
pub const VALID: u32 = 0x8000_0000;
/// Receivers of an IPI to many that one spin exit asks, at most.
pub const PROBES: u32 = 16;

const IDX_BITS: u32 = 12;
const IDX: u32 = MAX_VCPUS - 1;
const SEQ_ONE: u32 = 0x0010_0000;

/// A valid word for `receiver`, cut to 12 bits, and `vector` (`ipi_link_pack`).
pub fn pack(receiver: u32, vector: u8) -> u32 {
    VALID | (u32::from(vector) << IDX_BITS) | (receiver & IDX)
}

/// The receiver's index (`ipi_link_receiver`).
pub fn receiver(word: u32) -> u32 {
    word & IDX
}

/// The vector (`ipi_link_vector`).
pub fn vector(word: u32) -> u8 {
    (word >> IDX_BITS) as u8
}

/// The same IPI to many, to be looked at from `idx` on (`ipi_link_look_at`).
pub fn look_at(word: u32, idx: u32) -> u32 {
    (word & !IDX) | (idx & IDX)
}

/// The sequence after `seq`, both in place in the word (`ipi_link_seq_after`): 1 to 255 and
/// round again. 0 is for a word whose EOI nobody notes.
pub fn seq_after(seq: u32) -> u32 {
    match seq.wrapping_add(SEQ_ONE) & SEQ {
        0 => SEQ_ONE,
        next => next,
    }
}

/// What is left of `word`, sent by `sender`, at its receiver after the EOI
/// (`ipi_link_acked`).
pub fn acked(word: u32, sender: u32) -> u32 {
    look_at(word, sender) & !(VALID | MANY)
}

/// Were more than `window` ticks between `sent` and `now` (`ipi_link_expired`)? Both are
/// ticks that wrap at 2^32.
pub fn expired(now: u32, sent: u32, window: u32) -> bool {
    now.wrapping_sub(sent) > window
}

/// A window in ticks of `tick` ns, rounded up to the next one or two, as the first tick
/// comes at any time (`nsecs_to_jiffies(ipi_window_ns) + 1`).
pub fn window_ticks(window_ns: u64, tick: u64) -> u32 {
    let ticks = window_ns.checked_div(tick).unwrap_or(0);
    u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)
}
