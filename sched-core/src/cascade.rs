//! Whom a spinning vCPU yields to, by rank.
//!
//! First those whose answer it is known to wait for: from its own record, whatever the
//! number of vCPUs. Then, by one walk over at most [`WALK`] others, whoever most likely
//! holds what it waits for. Within a rank the one that has been off its CPU for longest goes
//! first. If no rank has a candidate that the scheduler takes, stock's scan decides
//! ([`crate::scan`]).
//!
//! Source: `virt/kvm/yield_rank.c`, `arch/x86/kvm/ipi_link.c`, design section 4.3.

use crate::ipi::Awaited;
use crate::ipi::word;

/// vCPUs that one walk looks at, at most (`YIELD_WALK`).
pub const WALK: usize = 64;

/// What speaks for a target, best first (`enum kvm_yield_reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// It has to take or to acknowledge an IPI of the yielder.
    Ipi,
    /// It may be in the handler of one.
    Answer,
    /// It has an interrupt that it would take at once.
    Irq,
    /// Preempted in the kernel with interrupts off: likely a lock holder.
    IrqsOff,
    /// Preempted in the kernel.
    Kernel,
    /// It only could run.
    Relaxed,
}

impl Rank {
    /// All, best first.
    pub const ALL: [Self; 6] = [
        Self::Ipi,
        Self::Answer,
        Self::Irq,
        Self::IrqsOff,
        Self::Kernel,
        Self::Relaxed,
    ];
}

/// What KVM sees of a vCPU, from whatever CPU it looks; may be stale, which costs one wrong
/// yield.
///
/// Laid out so that a walk over many finds what it asks of each in one cache line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Vcpu {
    /// It could run but doesn't (`kvm_vcpu_dy_ready`).
    pub ready: bool,
    /// It halts (`kvm_vcpu_is_blocking`).
    pub blocking: bool,
    /// Its thread is in KVM_RUN (`wants_to_run`). One that is elsewhere takes no interrupt.
    pub wants_to_run: bool,
    /// It was scheduled out though it could go on.
    pub preempted: bool,
    /// ... in kernel mode (`preempted_in_kernel`).
    pub in_kernel: bool,
    /// ... with interrupts off (`preempted_irqs_off`).
    pub irqs_off: bool,
    /// It is in a spin exit itself (`in_spin_loop`).
    pub spins: bool,
    /// Stock's heuristic for spinning targets (`dy_eligible`).
    pub dy_eligible: bool,
    /// The vector of its own timer (APIC LVTT).
    pub timer_vector: u8,
    /// What it does now: interrupts of a class up to this wait (APIC PPR).
    pub priority: u8,
    /// An interrupt is pending by hardware (`kvm_arch_dy_has_pending_interrupt`).
    pub hardware_irq: bool,
    /// Who last asked for its EOI, [`crate::ipi::Asked::word`]; 0 if EOIs aren't followed.
    pub asked: u32,
    /// When it left its CPU, in any clock that all share (`last_host_tsc`).
    pub off_since: u64,
    /// Interrupts requested: bit v % 32 of word v / 32 for vector v (APIC IRR).
    pub irr: [u32; 8],
    /// Interrupts in service (APIC ISR).
    pub isr: [u32; 8],
}

impl Vcpu {
    /// Is `vector` requested or in service (`ipi_link_pending`)?
    pub fn pending(&self, vector: u8) -> bool {
        let (reg, bit) = (usize::from(vector / 32), vector % 32);
        (self.irr[reg] | self.isr[reg]) >> bit & 1 == 1
    }

    /// If it isn't ready, is it because it runs, and so is about to take what is pending
    /// (`ipi_link_running`)?
    pub fn running(&self) -> bool {
        self.wants_to_run && !self.blocking
    }

    /// Acknowledged, but maybe in the handler, which runs with interrupts off
    /// (`ipi_link_answering`).
    pub fn answering(&self) -> bool {
        self.preempted && self.in_kernel && self.irqs_off
    }

    /// It waits for a lock with interrupts off: a yield can't make it answer
    /// (`ipi_link_deaf`).
    pub fn deaf(&self) -> bool {
        self.preempted && self.irqs_off && self.spins
    }

    /// Has it an interrupt of a higher class (vector / 16) than what it does now
    /// (`ipi_link_deliverable`)? Its own timer's doesn't count: nobody else waits for it.
    pub fn deliverable(&self) -> bool {
        let floor = u32::from(self.priority & 0xf0) + 0x10;
        self.hardware_irq || self.highest_request().is_some_and(|v| v >= floor)
    }

    fn highest_request(&self) -> Option<u32> {
        let timer = self.timer_vector;
        (0..8).rev().find_map(|reg: u8| {
            let mut irr = self.irr[usize::from(reg)];
            if reg == timer / 32 {
                irr &= !(1 << (timer % 32));
            }
            irr.checked_ilog2().map(|bit| u32::from(reg) * 32 + bit)
        })
    }

    /// What speaks for it when it is not known who is waited for (`kvm_arch_dy_rank`).
    pub fn rank(&self) -> Rank {
        let irqs_off = self.preempted && self.irqs_off;
        if !irqs_off && self.deliverable() {
            return Rank::Irq;
        }
        match (self.preempted && self.in_kernel, irqs_off) {
            (false, _) => Rank::Relaxed,
            (true, true) => Rank::IrqsOff,
            (true, false) => Rank::Kernel,
        }
    }

    /// Who spins itself hardly holds what others wait for, nor does one that was woken up and
    /// hasn't run yet: only an interrupt speaks for them (`yield_rank_fits`).
    fn fits(&self, rank: Rank) -> bool {
        rank == Rank::Irq || (self.preempted && !self.spins)
    }
}

/// A set of ranks to use, for comparing: the bits of `yield_ranks` in debugfs. Bit r is for
/// rank r, the one after the last for sparing the walk when somebody who is waited for runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks(pub u32);

impl Default for Ranks {
    /// All (`GENMASK(KVM_YIELD_REASONS, 0)`).
    fn default() -> Self {
        Self(0x7f)
    }
}

impl Ranks {
    const SERVED: u32 = 1 << Rank::ALL.len();

    /// Without `rank`; without [`Rank::Relaxed`] is `kvm.relaxed_boost=0`.
    pub fn without(self, rank: Rank) -> Self {
        Self(self.0 & !(1 << rank as u32))
    }

    fn has(self, rank: Rank) -> bool {
        self.0 & (1 << rank as u32) != 0
    }

    fn has_served(self) -> bool {
        self.0 & Self::SERVED != 0
    }
}

/// How a cascade ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The scheduler took a yield to this vCPU.
    Yielded(u32, Rank),
    /// Who is waited for runs: nothing to do.
    Served,
    /// No rank had a candidate that the scheduler took: stock's scan.
    Scan,
}

/// A spin exit of vCPU `me` (`kvm_yield_by_rank`).
///
/// `awaited`: [`crate::ipi::Record::awaited`]. `kernel_mode`: a spinner in user mode waits
/// for user code, of which the walk knows nothing. `last_boosted`: where the VM's walks
/// begin; moved by a yield of the walk. `try_yield` asks the scheduler: did it take it?
pub fn cascade(
    me: u32,
    awaited: Awaited,
    kernel_mode: bool,
    vcpus: &[Vcpu],
    last_boosted: &mut u32,
    ranks: Ranks,
    mut try_yield: impl FnMut(u32, Rank) -> bool,
) -> Outcome {
    let mut attempt = |target: Option<u32>, rank| match target {
        Some(idx) if ranks.has(rank) && try_yield(idx, rank) => Some(idx),
        _ => None,
    };
    let known = [
        (awaited.pending, Rank::Ipi),
        (awaited.answering, Rank::Answer),
    ];
    for (target, rank) in known {
        if let Some(idx) = attempt(target, rank) {
            return Outcome::Yielded(idx, rank);
        }
    }
    if awaited.running && ranks.has_served() {
        return Outcome::Served;
    }
    if !kernel_mode {
        return Outcome::Scan;
    }
    let best = walk(me, vcpus, *last_boosted);
    for rank in &Rank::ALL[2..] {
        if let Some(idx) = attempt(best[*rank as usize], *rank) {
            *last_boosted = idx;
            return Outcome::Yielded(idx, *rank);
        }
    }
    Outcome::Scan
}

/// The best candidate of each rank, by [`Rank`] as index, among the vCPUs after the last
/// boosted one (`yield_rank_walk`).
pub fn walk(me: u32, vcpus: &[Vcpu], last_boosted: u32) -> [Option<u32>; 6] {
    let online = vcpus.len().min(word::MAX_VCPUS as usize);
    let mut best: [Option<u32>; 6] = [None; 6];
    let mut idx = last_boosted as usize;
    for _ in 0..online.min(WALK) {
        idx = if idx + 1 >= online { 0 } else { idx + 1 };
        let vcpu = &vcpus[idx];
        if idx == me as usize || !vcpu.ready {
            continue;
        }
        let rank = vcpu.rank();
        if !vcpu.fits(rank) {
            continue;
        }
        let best = &mut best[rank as usize];
        if best.is_none_or(|b| vcpu.off_since < vcpus[b as usize].off_since) {
            *best = Some(idx as u32);
        }
    }
    best
}
