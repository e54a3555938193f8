//! Which vCPU a spinning vCPU yields to.
//!
//! First the vCPUs that owe the answer to its last IPI, from its own record: one at once, whatever
//! the number of vCPUs; several, if a vCPU could run but doesn't. If none of them is known, stock's
//! [`scan`].
//!
//! Source: `kvm_vcpu_on_spin` and `kvm_vcpu_yield_to_receiver` in `virt/kvm/kvm_main.c`;
//! tests/differential.rs compares with them.

use crate::ipi::answer::{self, Seen};
use crate::ipi::{Awaited, Receivers};
use crate::scan::{YieldTo, scan};

/// What KVM sees of a vCPU, from whatever CPU it looks; may be stale, which costs one wrong
/// yield.
///
/// Laid out so that a walk over many finds what it asks of each in one cache line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Vcpu {
    /// It could run but doesn't (`ready`).
    pub ready: bool,
    /// It halts, and nothing has come to wake it (`kvm_vcpu_is_blocking`, `vcpu_dy_runnable`).
    pub blocking: bool,
    /// Its thread is in KVM_RUN (`wants_to_run`). One that is elsewhere takes no interrupt.
    pub wants_to_run: bool,
    /// Its thread is off its CPU, whether it could run or sleeps (`scheduled_out`).
    pub scheduled_out: bool,
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
    /// Hardware delivers its interrupts (`apicv_active`).
    pub apicv: bool,
    /// An interrupt is pending by hardware (`kvm_arch_dy_has_pending_interrupt`).
    pub hardware_irq: bool,
    /// When it left its CPU, in any clock that all share (`last_host_tsc`).
    pub off_since: u64,
    /// Interrupts posted: bit v % 32 of word v / 32 for vector v (PIR).
    pub pir: [u32; 8],
    /// Interrupts requested (APIC IRR).
    pub irr: [u32; 8],
    /// Interrupts in service (APIC ISR).
    pub isr: [u32; 8],
}

impl Vcpu {
    /// Is `vector` posted, requested or in service (`ipi_record_pending`)?
    pub fn pending(&self, vector: u8) -> bool {
        let (reg, bit) = (usize::from(vector / 32), vector % 32);
        let posted = if self.apicv { self.pir[reg] } else { 0 };
        (posted | self.irr[reg] | self.isr[reg]) >> bit & 1 == 1
    }

    /// What a sender of `vector` sees of it (`ipi_record_see`).
    pub fn seen(&self, vector: u8) -> Seen {
        let when = |condition, bit: Seen| if condition { bit } else { 0 };
        let vector = match self.pending(vector) {
            true => answer::PENDING,
            false => when(self.apicv && !self.scheduled_out, answer::BLIND),
        };
        let place = match self.ready {
            true => {
                answer::READY
                    | when(self.preempted && self.irqs_off, answer::IRQS_OFF)
                    | when(self.spins, answer::SPINS)
            }
            false => when(self.wants_to_run && !self.scheduled_out, answer::RUNNING),
        };
        vector | place
    }
}

/// What speaks for a target (`enum kvm_yield_reason`), best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It owes the answer to an IPI of the yielder.
    Ipi,
    /// It may be answering that IPI.
    Answer,
    /// It has an interrupt pending, as far as hardware tells.
    Irq,
    /// It was preempted in the kernel.
    Kernel,
    /// It only could run.
    Relaxed,
}

/// How a spin exit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The scheduler took a yield to this vCPU.
    Yielded(u32, Reason),
    /// Nothing was done: a vCPU that owes an answer runs.
    Served,
    /// Nobody was yielded to.
    Nobody,
}

/// A spin exit of vCPU `me` (`kvm_vcpu_on_spin`).
///
/// `awaited` and `receivers`: those of [`crate::ipi::Record`]. `kernel_mode`, `vcpus` and
/// `last_boosted`: see [`scan`]. `try_yield` asks the scheduler.
pub fn cascade(
    me: u32,
    awaited: Awaited,
    receivers: impl FnOnce(&[Vcpu]) -> Receivers,
    kernel_mode: bool,
    vcpus: &mut [Vcpu],
    last_boosted: &mut u32,
    mut try_yield: impl FnMut(u32, Reason) -> YieldTo,
) -> Outcome {
    if worth_asking(me, awaited, vcpus)
        && let Some(outcome) = to_receiver(receivers(vcpus), &mut try_yield)
    {
        return outcome;
    }
    match scan(me, kernel_mode, vcpus, last_boosted, try_yield) {
        Some((idx, reason)) => Outcome::Yielded(idx, reason),
        None => Outcome::Nobody,
    }
}

/// Is it worth asking who owes `me` an answer? To ask one costs less than to look for somebody
/// who could run.
pub fn worth_asking(me: u32, awaited: Awaited, vcpus: &[Vcpu]) -> bool {
    match awaited {
        Awaited::Nobody => false,
        Awaited::One => true,
        Awaited::Several => (0..).zip(vcpus).any(|(idx, vcpu)| idx != me && vcpu.ready),
    }
}

/// The first part (`kvm_vcpu_yield_to_receiver`): how the spin exit ends, unless the scan is
/// to follow. One whom the scheduler doesn't let run yet is still all that is waited for.
pub fn to_receiver(
    receivers: Receivers,
    try_yield: &mut impl FnMut(u32, Reason) -> YieldTo,
) -> Option<Outcome> {
    let known = [
        (receivers.pending, Reason::Ipi),
        (receivers.in_handler, Reason::Answer),
    ];
    for (target, reason) in known {
        let Some(idx) = target else { continue };
        if try_yield(idx, reason) == YieldTo::Taken {
            return Some(Outcome::Yielded(idx, reason));
        }
    }
    let anybody = known.iter().any(|(target, _)| target.is_some());
    match receivers.running {
        true => Some(Outcome::Served),
        false => anybody.then_some(Outcome::Nobody),
    }
}
