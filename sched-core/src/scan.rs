//! KVM's scan for a vCPU to yield to, the net below the [`crate::cascade`].
//!
//! Source: `kvm_vcpu_on_spin` of Linux 6.12.117 with the series: there a yield that failed
//! doesn't end the scan before the vCPUs up to the last boosted one were seen, and every yield
//! that the scheduler didn't take costs a try. [`stock`] has neither.

use crate::cascade::{Reason, Vcpu};

/// Yields that the scheduler doesn't take until a scan gives up.
pub const TRIES: u32 = 3;

/// What the scheduler made of a yield (the result of `yield_to`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YieldTo {
    /// Taken.
    Taken,
    /// Not taken: nothing would come of it.
    NotTaken,
    /// Nothing to gain: both CPUs have one task (ESRCH).
    Failed,
}

/// Walks all vCPUs once, from the one after `last_boosted` on, and yields to the first that
/// looks plausible and that the scheduler takes. Returns it, and remembers it as the last
/// boosted one.
///
/// Plausible: not `me`, ready, not halting, and if it was preempted and `kernel_mode` is set,
/// preempted in the kernel or with an interrupt pending. A vCPU that spins itself is taken
/// every other time (`kvm_vcpu_eligible_for_directed_yield`), which is why `vcpus` changes.
pub fn scan(
    me: u32,
    kernel_mode: bool,
    vcpus: &mut [Vcpu],
    last_boosted: &mut u32,
    mut try_yield: impl FnMut(u32, Reason) -> YieldTo,
) -> Option<(u32, Reason)> {
    let mut tries = TRIES;
    for idx in order(*last_boosted, vcpus.len()) {
        if tries == 0 {
            break;
        }
        let vcpu = &mut vcpus[idx as usize];
        if idx == me || !vcpu.plausible(kernel_mode) {
            continue;
        }
        let reason = vcpu.reason();
        if try_yield(idx, reason) == YieldTo::Taken {
            *last_boosted = idx;
            return Some((idx, reason));
        }
        tries -= 1;
    }
    None
}

/// The same by the stock kernel: only [`YieldTo::Failed`] costs a try, and as the
/// result of the last yield before vCPU 0 it ends the scan.
pub fn stock(
    me: u32,
    kernel_mode: bool,
    vcpus: &mut [Vcpu],
    last_boosted: &mut u32,
    mut try_yield: impl FnMut(u32, Reason) -> YieldTo,
) -> Option<(u32, Reason)> {
    let (mut tries, mut failed) = (TRIES, false);
    for idx in order(*last_boosted, vcpus.len()) {
        if tries == 0 || (idx == 0 && failed) {
            break;
        }
        let vcpu = &mut vcpus[idx as usize];
        if idx == me || !vcpu.plausible(kernel_mode) {
            continue;
        }
        let reason = vcpu.reason();
        match try_yield(idx, reason) {
            YieldTo::Taken => {
                *last_boosted = idx;
                return Some((idx, reason));
            }
            YieldTo::NotTaken => failed = false,
            YieldTo::Failed => (tries, failed) = (tries - 1, true),
        }
    }
    None
}

/// All vCPUs, from the one after `last_boosted` on.
fn order(last_boosted: u32, online: usize) -> impl Iterator<Item = u32> {
    let online = online as u32;
    let first = last_boosted.saturating_add(1).min(online);
    (first..online).chain(0..first)
}

impl Vcpu {
    fn plausible(&mut self, kernel_mode: bool) -> bool {
        let out_of_kernel = self.preempted && !self.hardware_irq && !self.in_kernel;
        self.ready && !self.blocking && !(kernel_mode && out_of_kernel) && self.every_other_time()
    }

    /// May it be yielded to (`kvm_vcpu_eligible_for_directed_yield`)? If it spins, every
    /// other time.
    pub fn every_other_time(&mut self) -> bool {
        let eligible = !self.spins || self.dy_eligible;
        if self.spins {
            self.dy_eligible = !self.dy_eligible;
        }
        eligible
    }

    /// What speaks for it (`kvm_vcpu_yield_reason`).
    pub fn reason(&self) -> Reason {
        match (self.hardware_irq, self.preempted && self.in_kernel) {
            (true, _) => Reason::Irq,
            (false, true) => Reason::Kernel,
            (false, false) => Reason::Relaxed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Vcpu = Vcpu {
        ready: true,
        blocking: false,
        wants_to_run: true,
        scheduled_out: true,
        preempted: false,
        in_kernel: false,
        irqs_off: false,
        spins: false,
        dy_eligible: false,
        apicv: false,
        hardware_irq: false,
        off_since: 0,
        pir: [0; 8],
        irr: [0; 8],
        isr: [0; 8],
    };

    /// Of five vCPUs, 0 spins; the yields' results by index.
    fn run(results: [YieldTo; 5], last: u32, series: bool) -> (Option<u32>, [u32; 5]) {
        let (mut last, mut asked) = (last, [0; 5]);
        let attempt = |idx: u32, _| {
            asked[idx as usize] += 1;
            results[idx as usize]
        };
        let mut vcpus = [READY; 5];
        let taken = match series {
            true => scan(0, true, &mut vcpus, &mut last, attempt),
            false => stock(0, true, &mut vcpus, &mut last, attempt),
        };
        (taken.map(|(idx, _)| idx), asked)
    }

    #[test]
    fn a_failed_yield_ends_stocks_walk_at_the_last_vcpu() {
        use YieldTo::{Failed, NotTaken, Taken};
        let at_the_end = [Taken, Taken, NotTaken, NotTaken, Failed];
        assert_eq!(run(at_the_end, 2, false), (None, [0, 0, 0, 1, 1]));
        assert_eq!(run(at_the_end, 2, true), (Some(1), [0, 1, 0, 1, 1]));
        let before = [Taken, Taken, NotTaken, Failed, NotTaken];
        assert_eq!(run(before, 2, false), (Some(1), [0, 1, 0, 1, 1]));
        assert_eq!(run([Failed; 5], 0, true), (None, [0, 1, 1, 1, 0]));
    }

    #[test]
    fn what_was_not_taken_costs_a_try_but_in_stock() {
        use YieldTo::NotTaken;
        assert_eq!(run([NotTaken; 5], 0, false), (None, [0, 1, 1, 1, 1]));
        assert_eq!(run([NotTaken; 5], 0, true), (None, [0, 1, 1, 1, 0]));
    }
}
