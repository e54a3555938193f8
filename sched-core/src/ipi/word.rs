//! The word in which a vCPU remembers its last IPI (`arch/x86/kvm/ipi_record_word.h`).
//!
//! ```text
//! 31     30         29    28..22  21,20  19..12  11..0
//! valid  multicast  open  0       left   vector  receiver, or where to look first if multicast
//! ```
//!
//! `open`: no spin exit has come since. `left`: spin exits in a row that were left to a
//! receiver that runs.

/// vCPUs that an index can name.
pub const MAX_VCPUS: u32 = 4096;
/// No spin exit has come since the IPI was sent: the next one may be of the same burst.
pub const OPEN: u32 = 0x2000_0000;
/// To several: the receivers are in the bitmap beside the word.
pub const MULTICAST: u32 = 0x4000_0000;
/// The word says something.
pub const VALID: u32 = 0x8000_0000;
/// Receivers of a multicast that one spin exit asks, at most.
pub const PROBES: u32 = 16;

const VECTOR_SHIFT: u32 = 12;
const IDX: u32 = MAX_VCPUS - 1;
const VECTOR: u32 = 0x000f_f000;
const LEFT: u32 = 0x0030_0000;
const LEFT_ONE: u32 = 0x0010_0000;
const LEFT_MAX: u32 = 0x0020_0000;

/// The word of an IPI that has just been sent to `receiver`, cut to 12 bits
/// (`ipi_record_pack`).
pub fn pack(receiver: u32, vector: u8) -> u32 {
    VALID | OPEN | (u32::from(vector) << VECTOR_SHIFT) | (receiver & IDX)
}

/// The receiver's index (`ipi_record_receiver`).
pub fn receiver(word: u32) -> u32 {
    word & IDX
}

/// The vector (`ipi_record_vector`).
pub fn vector(word: u32) -> u8 {
    (word >> VECTOR_SHIFT) as u8
}

/// The same IPI, to be looked at from `idx` on (`ipi_record_look_at`).
pub fn look_at(word: u32, idx: u32) -> u32 {
    (word & !IDX) | (idx & IDX)
}

/// Were more than `window` ticks between `sent` and `now` (`ipi_record_expired`)? Both are
/// ticks that wrap at 2^32.
pub fn expired(now: u32, sent: u32, window: u32) -> bool {
    now.wrapping_sub(sent) > window
}

/// Does the IPI `next` belong to the one in `word` (`ipi_record_same_burst`)? A guest sends a
/// multicast as a burst of single IPIs of one vector, unless its APIC mode can name the set.
pub fn same_burst(word: u32, next: u32) -> bool {
    (word ^ next) & (VALID | OPEN | VECTOR) == 0
}

/// Is a spin exit left to a receiver that runs (`ipi_record_leave`)? Two in a row are.
pub fn leave(word: &mut u32) -> bool {
    if *word & LEFT == LEFT_MAX {
        return false;
    }
    *word = word.wrapping_add(LEFT_ONE);
    true
}

/// A window in ticks of `tick` ns, rounded up (`IPI_RECORD_WINDOW`).
pub fn window_ticks(window_ns: u64, tick: u64) -> u32 {
    let ticks = window_ns.checked_div(tick).unwrap_or(0);
    let more = window_ns.checked_rem(tick).is_some_and(|rest| rest > 0);
    u32::try_from(ticks)
        .unwrap_or(u32::MAX)
        .saturating_add(more.into())
}
