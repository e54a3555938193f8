//! What a vCPU does in a round.

use serde::Deserialize;

use super::{Bounded, Ns};

/// One step of a vCPU's round. A time is drawn evenly between half and one and a half
/// times `ns`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What.
    #[serde(rename = "do")]
    pub action: Action,
    /// For how long, on average; the handler's time for `call` and `shootdown`.
    #[serde(default)]
    pub ns: Ns,
    /// Of how many locks of the VM one is drawn.
    #[serde(default = "one_lock")]
    pub locks: Bounded<1, 4096>,
    /// Whether interrupts are off while a spinlock is waited for and held.
    #[serde(default)]
    pub irqs_off: bool,
    /// Who holds the lock shoots TLBs down before it lets it go: the handler's time. 0: it
    /// doesn't.
    #[serde(default)]
    pub shootdown_ns: Ns,
    /// For how long an rwsem is held as a reader, after `ns` as a writer and before the
    /// shootdown: as mmap_lock is by munmap. 0: for writing to the end.
    #[serde(default)]
    pub read_ns: Ns,
    /// In how many of 1,000 rounds.
    #[serde(default = "always")]
    pub per_mille: Bounded<0, 1_000>,
}

/// What a vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Computes in user mode.
    Compute,
    /// Works in the kernel.
    Kernel,
    /// Takes one of the VM's spinlocks, in order of arrival, and holds it.
    Spinlock,
    /// Takes one of the VM's mutexes, sleeping while it is taken, and holds it.
    Mutex,
    /// Takes one of the VM's rwsems for writing, spinning while a writer has it, sleeping
    /// while a reader has it for long, and holds it.
    Rwsem,
    /// Interrupts one other vCPU and spins until it has answered.
    Call,
    /// Interrupts all other vCPUs that aren't halted and spins until all have answered.
    Shootdown,
    /// Spins until all vCPUs of the VM are here.
    Barrier,
    /// Halts.
    Sleep,
}

fn one_lock() -> Bounded<1, 4096> {
    Bounded::new(1)
}
fn always() -> Bounded<0, 1_000> {
    Bounded::new(1_000)
}
