//! The functions that exist in both languages, and what to feed them. Also compiled into the
//! mutants' worker, which has nothing but `sched_core`.

use std::sync::atomic::AtomicU32;

use sched_core::ipi::eoi::{Asked, Sequence};
use sched_core::ipi::{answer, word};
use sched_core::{debooster, ext};

use super::inputs::Arg;

/// A function in both languages, from numbers to one number.
pub struct Case {
    /// What it is called in C.
    pub name: &'static str,
    /// Its inputs.
    pub args: &'static [Arg],
    /// The call in C, inputs being `a[0]` and so on.
    pub c: &'static str,
    /// The same in Rust.
    pub rust: fn(&[u64]) -> u64,
}

/// `kernel/sched/yield_math.h`.
pub const YIELD_MATH: &[Case] = &[
    Case {
        name: "yield_service",
        args: &[Arg::Any, Arg::U32],
        c: "yield_service(a[0], a[1])",
        rust: |a| debooster::service(a[0], a[1] as u32),
    },
    Case {
        name: "yield_lag",
        args: &[Arg::Any, Arg::U32],
        c: "yield_lag(a[0], a[1])",
        rust: |a| debooster::lag(a[0] as i64, a[1] as u32) as u64,
    },
    Case {
        name: "yield_need",
        args: &[Arg::Any, Arg::Weight, Arg::Queue],
        c: "yield_need(a[0], a[1], a[2] ? a[1] + a[2] - 1 : 0)",
        rust: |a| {
            let load = match a[2] {
                0 => 0,
                others => a[1] + others - 1,
            };
            debooster::need(a[0] as i64, a[1] as u32, load)
        },
    },
    Case {
        name: "yield_margin",
        args: &[Arg::Count, Arg::Any, Arg::Any, Arg::Flag],
        c: "yield_margin(a[0], a[1], a[2], a[3])",
        rust: |a| debooster::margin(a[0] as u32, a[1], a[2], a[3] == 1),
    },
    Case {
        name: "yield_limit",
        args: &[Arg::Any, Arg::Any],
        c: "yield_limit(a[0], a[1])",
        rust: |a| debooster::limit(a[0], a[1]),
    },
    Case {
        name: "yield_may_charge",
        args: &[Arg::Any, Arg::Any, Arg::Any],
        c: "yield_may_charge(a[0], a[1], a[2])",
        rust: |a| debooster::may_charge(a[0] as i64, a[1], a[2]).into(),
    },
    Case {
        name: "yield_may_refund",
        args: &[Arg::Any, Arg::Any, Arg::Any],
        c: "yield_may_refund(a[0], a[1], a[2])",
        rust: |a| debooster::may_refund(a[0] as i64, a[1], a[2]).into(),
    },
    Case {
        name: "yield_cap_halves",
        args: &[Arg::Count],
        c: "yield_cap_halves(a[0])",
        rust: |a| debooster::cap_halves(a[0] as u32).into(),
    },
    Case {
        name: "yield_penalty",
        args: &[Arg::Any, Arg::Any, Arg::Count, Arg::Flag],
        c: "yield_penalty(a[0], a[1], a[2], a[3])",
        rust: |a| debooster::penalty(a[0], a[1] as i64, a[2] as u32, a[3] == 1),
    },
    Case {
        name: "yield_recent",
        args: &[Arg::Any, Arg::Any, Arg::Any],
        c: "yield_recent(a[0], a[1], a[2])",
        rust: |a| debooster::recent(a[0], a[1], a[2]).into(),
    },
];

/// `arch/x86/kvm/ipi_eoi_word.h`.
pub const IPI_EOI_WORD: &[Case] = &[
    Case {
        name: "ipi_eoi_cookie",
        args: &[Arg::U32, Arg::U32, Arg::U8],
        c: "ipi_eoi_cookie(ipi_eoi_seq_after(a[0] & IPI_EOI_SEQ), a[1], a[2])",
        rust: |a| {
            let mut sequence = Sequence::of(a[0] as u32);
            sequence.cookie(a[1] as u32, a[2] as u8).into()
        },
    },
    Case {
        // Of its own vector as often as of another one; then one sender of two asks.
        name: "ipi_eoi_phases",
        args: &[Arg::U32, Arg::U8, Arg::Flag],
        c: "({ u32 w = a[0]; u8 v = a[1] & 1 ? w >> 12 : a[1]; \
            if (ipi_eoi_concerns(w, v) && !a[2]) w &= ~IPI_EOI_VALID; \
            (u64)w << 1 | ipi_eoi_acked(w, a[0] ^ (a[1] >> 1 & 1)); })",
        rust: |a| {
            let word = a[0] as u32;
            let vector = if a[1] & 1 == 1 {
                (word >> 12) as u8
            } else {
                a[1] as u8
            };
            let asked = Asked(AtomicU32::new(word));
            asked.eoi(vector, || a[2] != 0);
            let acked = asked.acked(word ^ (a[1] as u32 >> 1 & 1));
            u64::from(asked.word()) << 1 | u64::from(acked)
        },
    },
];

/// `arch/x86/kvm/ipi_record_word.h`.
pub const IPI_RECORD_WORD: &[Case] = &[
    Case {
        name: "ipi_record_pack",
        args: &[Arg::U32, Arg::U8],
        c: "ipi_record_pack(a[0], a[1])",
        rust: |a| word::pack(a[0] as u32, a[1] as u8).into(),
    },
    Case {
        name: "ipi_record_receiver",
        args: &[Arg::U32],
        c: "ipi_record_receiver(a[0])",
        rust: |a| word::receiver(a[0] as u32).into(),
    },
    Case {
        name: "ipi_record_vector",
        args: &[Arg::U32],
        c: "ipi_record_vector(a[0])",
        rust: |a| word::vector(a[0] as u32).into(),
    },
    Case {
        name: "ipi_record_look_at",
        args: &[Arg::U32, Arg::U32],
        c: "ipi_record_look_at(a[0], a[1])",
        rust: |a| word::look_at(a[0] as u32, a[1] as u32).into(),
    },
    Case {
        name: "ipi_record_expired",
        args: &[Arg::U32, Arg::U32, Arg::U32],
        c: "ipi_record_expired(a[0], a[1], a[2])",
        rust: |a| word::expired(a[0] as u32, a[1] as u32, a[2] as u32).into(),
    },
    Case {
        name: "ipi_record_same_burst",
        args: &[Arg::Burst, Arg::U8],
        c: "ipi_record_same_burst(a[0], ipi_record_pack(a[0] >> 32, a[1] & 3))",
        rust: |a| {
            let next = word::pack((a[0] >> 32) as u32, a[1] as u8 & 3);
            word::same_burst(a[0] as u32, next).into()
        },
    },
    Case {
        name: "ipi_record_leave",
        args: &[Arg::U32],
        c: "({ u32 w = a[0]; u64 l = ipi_record_leave(&w); l << 32 | w; })",
        rust: |a| {
            let mut word = a[0] as u32;
            let left = word::leave(&mut word);
            u64::from(left) << 32 | u64::from(word)
        },
    },
    Case {
        name: "ipi_record_answer",
        args: &[Arg::U8],
        c: "ipi_record_answer(a[0] & 0x3f)",
        rust: |a| answer::answer(a[0] as u32 & 0x3f) as u64,
    },
    Case {
        name: "ipi_record_constants",
        args: &[],
        c: "IPI_RECORD_PROBES ^ (u64)IPI_RECORD_MULTICAST << 8 ^ (u64)IPI_RECORD_OPEN << 16",
        rust: |_| {
            u64::from(word::PROBES) ^ u64::from(word::MULTICAST) << 8 ^ u64::from(word::OPEN) << 16
        },
    },
];

/// `scx/bpf/policy.h`: tests/ext.rs compares these, and no other test.
#[allow(dead_code)]
pub const SCX_POLICY: &[Case] = &[
    Case {
        name: "scx_before",
        args: &[Arg::Time, Arg::Near],
        c: "scx_before(a[0], a[1])",
        rust: |a| ext::before(a[0], a[1]).into(),
    },
    Case {
        name: "scx_split",
        args: &[Arg::Any, Arg::Any, Arg::Any],
        c: "scx_split(a[0], a[1], a[2])",
        rust: |a| ext::split(a[0], a[1], a[2]),
    },
    Case {
        name: "scx_charge",
        args: &[Arg::Any, Arg::Any],
        c: "scx_charge(a[0], a[1])",
        rust: |a| ext::charge(a[0], a[1]),
    },
    Case {
        name: "scx_place",
        args: &[Arg::Time, Arg::Near, Arg::Span],
        c: "scx_place(a[0], a[1], a[2])",
        rust: |a| ext::place(a[0], a[1], a[2]),
    },
    Case {
        name: "scx_preempts",
        args: &[Arg::Time, Arg::Near, Arg::Span],
        c: "scx_preempts(a[0], a[1], a[2])",
        rust: |a| ext::preempts(a[0], a[1], a[2]).into(),
    },
    Case {
        name: "scx_may_lend",
        args: &[Arg::Time, Arg::Near, Arg::Span],
        c: "scx_may_lend(a[0], a[1], a[2])",
        rust: |a| ext::may_lend(a[0], a[1], a[2]).into(),
    },
    Case {
        name: "scx_floor_gap",
        args: &[Arg::Span, Arg::Any, Arg::Any],
        c: "scx_floor_gap(a[0], a[1], a[2])",
        rust: |a| ext::floor_gap(a[0], a[1], a[2]),
    },
    Case {
        name: "scx_floor_hurry",
        args: &[Arg::Any, Arg::Any, Arg::U32, Arg::U32],
        c: "scx_floor_hurry(a[0], a[1], a[2], a[3])",
        rust: |a| ext::floor_hurry(a[0], a[1], a[2], a[3]),
    },
    Case {
        name: "scx_burst_refill",
        args: &[Arg::Any, Arg::Any, Arg::Any],
        c: "scx_burst_refill(a[0], a[1], a[2])",
        rust: |a| ext::burst_refill(a[0], a[1], a[2]),
    },
    Case {
        name: "scx_burst_spend",
        args: &[Arg::Any, Arg::Any],
        c: "scx_burst_spend(a[0], a[1])",
        rust: |a| ext::burst_spend(a[0], a[1]),
    },
    Case {
        name: "scx_bucket",
        args: &[Arg::Any, Arg::Any],
        c: "scx_bucket(a[0], a[1])",
        rust: |a| ext::bucket(a[0], a[1]),
    },
];
