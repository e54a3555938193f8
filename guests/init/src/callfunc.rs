//! Function calls to all other CPUs, with wait: one thread calls membarrier(2) as
//! fast as it can, for which Linux interrupts every CPU that runs another thread
//! of the process. Of the others half compute and half sit in the kernel.
//!
//! The barrier is checked at its work, as one side of a lock whose other side has
//! no barrier of its own: see `Gate`.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, compiler_fence};

use rustix::thread::{MembarrierCommand, membarrier};

use crate::crew::{self, Member};
use crate::protocol::{Go, Outcome};
use crate::{Error, Result, compute};

/// Bytes that the kernel fills in one call.
const READ: usize = 64 * 1024;

/// Counts the calls that the first thread makes.
pub fn run(go: &Go) -> Result<Outcome> {
    if go.clients < 2 {
        return Err(Error::Workload(
            "callfunc has nobody to call: give the guest two vCPUs or more".into(),
        ));
    }
    membarrier(MembarrierCommand::RegisterPrivateExpedited)
        .map_err(Error::os("register for membarrier"))?;
    let gate = Gate::default();
    let counted = crew::run(go, |member| match member.number {
        0 => call(member, &gate),
        1 => {
            pass(member, &gate);
            Ok(())
        }
        n if n % 2 == 0 => sit_in_kernel(member),
        _ => {
            compute::count(member, go.seed);
            Ok(())
        }
    })?;
    let calls = counted.each[0] as f64;
    Ok(counted.outcome(calls / 1e3, "k calls/s"))
}

/// What one thread passes through again and again, unless another has shut it.
/// Both say what they do and then look at what the other does. If both sides are
/// ordered, at least one sees the other; the one who passes relies on the barrier
/// that membarrier puts between its two steps.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
    inside: AtomicBool,
    /// Differ only while somebody is inside.
    entered: AtomicU64,
    left: AtomicU64,
}

/// The thread that calls.
fn call(member: &Member, gate: &Gate) -> Result<()> {
    while member.go_on() {
        gate.shut.store(true, Relaxed);
        membarrier(MembarrierCommand::PrivateExpedited).map_err(Error::os("call membarrier"))?;
        let nobody_inside = !gate.inside.load(Acquire);
        if nobody_inside && gate.entered.load(Relaxed) != gate.left.load(Relaxed) {
            return Err(Error::Workload("membarrier was none".into()));
        }
        gate.shut.store(false, Release);
        member.count(1);
    }
    Ok(())
}

/// A thread that computes and is called.
fn pass(member: &Member, gate: &Gate) {
    while member.go_on() {
        gate.inside.store(true, Relaxed);
        // Nothing but membarrier keeps the processor from turning these two round.
        compiler_fence(SeqCst);
        if !gate.shut.load(Relaxed) {
            gate.entered.fetch_add(1, Relaxed);
            gate.left.fetch_add(1, Relaxed);
        }
        gate.inside.store(false, Release);
        member.count(1);
    }
}

/// A thread that is called in system calls.
fn sit_in_kernel(member: &Member) -> Result<()> {
    let mut zeroes = File::open("/dev/zero").map_err(Error::os("open /dev/zero"))?;
    let mut buffer = vec![1; READ];
    while member.go_on() {
        zeroes
            .read_exact(&mut buffer)
            .map_err(Error::os("read /dev/zero"))?;
        member.count(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_and_need_somebody_to_call() {
        let mut go = Go {
            workload: "callfunc".into(),
            clients: 4,
            warmup_ms: 1,
            window_ms: 50,
            seed: 1,
        };
        assert!(run(&go).unwrap().value > 0.0);
        go.clients = 1;
        assert!(run(&go).is_err());
    }
}
