//! The arithmetic of `scx_vmfirst`, the same policies as a sched_ext scheduler.
//!
//! `scx/bpf/policy.h` has the same functions in C, for BPF: no loop, no 128 bits, no division
//! by zero. Times are ns. A share is a weight of sched_ext (100 is nice 0) times 1024, so
//! that it can be split among many. A vtime is ns of service at [`SHARE_ONE`]; vtimes wrap and
//! are compared by signed difference.

/// The share of a task of nice 0 that has no siblings to split with.
pub const SHARE_ONE: u64 = 100 << 10;

/// Nobody is charged more at once, ns: it would not fit into 64 bits. About 4.8 hours.
pub const CHARGE_MOST: u64 = 1 << 44;

/// Whether vtime or time `a` comes before `b`.
pub fn before(a: u64, b: u64) -> bool {
    (a.wrapping_sub(b) as i64) < 0
}

/// What one of `whole` has of a share when its own part is `part`: share * part / whole, never
/// nothing. Exact while share * part fits into 64 bits.
pub fn split(share: u64, part: u64, whole: u64) -> u64 {
    (share.wrapping_mul(part) / whole.max(1)).max(1)
}

/// What `service` costs in vtime: service * [`SHARE_ONE`] / share.
pub fn charge(service: u64, share: u64) -> u64 {
    service.min(CHARGE_MOST) * SHARE_ONE / share.max(1)
}

/// Where who becomes runnable is placed: max(own, clock - credit). Whoever slept so keeps
/// `credit` at most.
pub fn place(vtime: u64, clock: u64, credit: u64) -> u64 {
    let least = clock.wrapping_sub(credit);
    match before(vtime, least) {
        true => least,
        false => vtime,
    }
}

/// Whether who wakes up takes the CPU of one of its own lane: it is more than `margin` behind.
pub fn preempts(vtime: u64, running: u64, margin: u64) -> bool {
    before(vtime.wrapping_add(margin), running)
}

/// Whether a vCPU may run out of turn: it is at most `debt` ahead of its queue's clock.
///
/// The clock moves with who runs in turn only. So however often a vCPU is lent a turn, it is
/// never more than `debt` and that one turn ahead.
pub fn may_lend(vtime: u64, clock: u64, debt: u64) -> bool {
    !before(clock.wrapping_add(debt), vtime)
}

/// How long a lane that has run for `ran` leaves the CPU to those above it before its floor
/// lets it run again: ran * (1000 - per_mille) / per_mille, `most` at most. So it has its per
/// mille of the time whatever its turns' length, which ticks round up.
pub fn floor_gap(ran: u64, per_mille: u64, most: u64) -> u64 {
    let mille = per_mille.clamp(1, 1000);
    (ran.min(CHARGE_MOST) * (1000 - mille) / mille).min(most)
}

/// The same gap, no longer than lets each of `queued` tasks on `cpus` CPUs run once in
/// `budget`: the kernel's watchdog ends a scheduler that lets one wait for too long.
pub fn floor_hurry(gap: u64, budget: u64, cpus: u64, queued: u64) -> u64 {
    gap.min(budget.wrapping_mul(cpus) / queued.max(1))
}

/// What is left of a burst after `idle` ns without running: a quarter of these comes back,
/// up to `most`.
pub fn burst_refill(left: u64, idle: u64, most: u64) -> u64 {
    left.checked_add(idle >> 2).unwrap_or(most).min(most)
}

/// What is left of a burst after running for `ran`.
pub fn burst_spend(left: u64, ran: u64) -> u64 {
    left.saturating_sub(ran)
}

/// The bucket of a histogram: 0 below 1.024 us, then one for each power of two; what is longer
/// goes to the last.
pub fn bucket(ns: u64, buckets: u64) -> u64 {
    let bucket = 64 - u64::from((ns >> 10).leading_zeros());
    match bucket < buckets {
        true => bucket,
        false => buckets.wrapping_sub(1),
    }
}
