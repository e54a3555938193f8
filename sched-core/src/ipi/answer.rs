//! What a look at a receiver tells (`ipi_record_answer` in
//! `arch/x86/kvm/ipi_record_word.h`).

/// What the sender sees of a receiver at a spin exit: a set of the constants below.
pub type Seen = u32;

/// The vector is in its PIR, IRR or ISR.
pub const PENDING: Seen = 0x01;
/// It isn't, but hardware may know better.
pub const BLIND: Seen = 0x02;
/// It could run, but has no CPU.
pub const READY: Seen = 0x04;
/// It is in KVM_RUN, and on a CPU.
pub const RUNNING: Seen = 0x08;
/// It was preempted with interrupts off.
pub const IRQS_OFF: Seen = 0x10;
/// It spins itself.
pub const SPINS: Seen = 0x20;

/// Whether the answer is still owed (`enum ipi_answer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is owed any more.
    Given,
    /// Owed, but a yield is no help.
    Owed,
    /// Owed by a vCPU that takes it about now.
    Running,
    /// Perhaps owed: it may be in the handler.
    Handler,
    /// Owed by a vCPU that lacks a CPU for it.
    Pending,
}

/// Linux acknowledges an IPI before it runs the handler, so when the vector is gone the answer
/// may still be owed; but the handler runs with interrupts off, so only by a vCPU that was
/// preempted like that. One that spins with interrupts off can't take the IPI.
pub fn answer(seen: Seen) -> Answer {
    let has = |what: Seen| seen & what != 0;
    if has(PENDING) {
        return match (has(READY), has(RUNNING)) {
            (true, _) if has(IRQS_OFF) && has(SPINS) => Answer::Owed,
            (true, _) => Answer::Pending,
            (false, true) => Answer::Running,
            (false, false) => Answer::Owed,
        };
    }
    if has(READY) && has(IRQS_OFF) {
        return Answer::Handler;
    }
    match has(BLIND) {
        true => Answer::Owed,
        false => Answer::Given,
    }
}
