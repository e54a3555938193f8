//! What a host counts.

/// Counters; times in ns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events of the simulation.
    pub events: u64,
    /// Times a vCPU halted.
    pub halts: u64,
    /// IPIs sent.
    pub ipis: u64,
    /// Yields tried.
    pub yield_attempts: u64,
    /// Yields to who owes the spinner an answer.
    pub hits_ipi: u64,
    /// Yields to who has another interrupt to take.
    pub hits_irq: u64,
    /// Yields to who was preempted in the kernel.
    pub hits_kernel: u64,
    /// Other yields.
    pub hits_relaxed: u64,
    /// Yields to a target on the yielder's CPU.
    pub same_cpu: u64,
    /// Yields to a target on another one.
    pub other_cpu: u64,
    /// Targets that ran after a yield, and how long that took in all.
    pub yield_to_run: (u64, u64),
    /// Settlements made.
    pub settled: u64,
    /// Settlements refused.
    pub refused: u64,
    /// Targets let run ahead.
    pub advances: u64,
    /// Turns lent to who was next.
    pub lent: u64,
    /// Switches to another thread.
    pub switches: u64,
    /// Times a vCPU got a CPU.
    pub vcpu_runs: u64,
    /// Moves of threads between CPUs.
    pub migrations: u64,
}
