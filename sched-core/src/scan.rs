//! Stock's scan for a vCPU to yield to, the net below the [`crate::cascade`].
//!
//! Source: `kvm_vcpu_on_spin` of Linux 6.12.117. With the series' patch 4
//! (`kvm.spin_rescan`) a yield that failed does not end the walk before the vCPUs up to the
//! last boosted one were seen; in stock it does if it was the last of the others.

use crate::cascade::Vcpu;

/// What the scheduler made of a yield (the result of `yield_to`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YieldTo {
    /// Taken.
    Taken,
    /// Not taken: the target runs, or is of another class.
    NotTaken,
    /// Nothing to gain: both CPUs have one task (ESRCH). Three of these end the scan.
    Failed,
}

/// Walks all vCPUs once, from the one after `last_boosted` on, and yields to the first that
/// looks plausible and that the scheduler takes. Returns it, and remembers it as the last
/// boosted one.
///
/// Plausible: not `me`, ready, and if it was preempted and `kernel_mode` is set, preempted in
/// the kernel or with an interrupt pending. A vCPU that spins itself is taken every other
/// time (`kvm_vcpu_eligible_for_directed_yield`), which is why `vcpus` changes.
///
/// `rescan`: see above.
pub fn scan(
    me: u32,
    kernel_mode: bool,
    rescan: bool,
    vcpus: &mut [Vcpu],
    last_boosted: &mut u32,
    mut try_yield: impl FnMut(u32) -> YieldTo,
) -> Option<u32> {
    let online = vcpus.len() as u32;
    let first = last_boosted.saturating_add(1).min(online);
    let (mut tries, mut failed) = (3, false);
    for idx in (first..online).chain(0..first) {
        if idx == 0 && failed && !rescan {
            break;
        }
        let vcpu = &mut vcpus[idx as usize];
        let out_of_kernel = vcpu.preempted && !vcpu.hardware_irq && !vcpu.in_kernel;
        if idx == me || !vcpu.ready || (kernel_mode && out_of_kernel) || !vcpu.every_other_time() {
            continue;
        }
        match try_yield(idx) {
            YieldTo::Taken => {
                *last_boosted = idx;
                return Some(idx);
            }
            YieldTo::NotTaken => failed = false,
            YieldTo::Failed => (tries, failed) = (tries - 1, true),
        }
        if tries == 0 {
            break;
        }
    }
    None
}

impl Vcpu {
    /// May it be yielded to (`kvm_vcpu_eligible_for_directed_yield`)? If it spins, every
    /// other time.
    pub fn every_other_time(&mut self) -> bool {
        let eligible = !self.spins || self.dy_eligible;
        if self.spins {
            self.dy_eligible = !self.dy_eligible;
        }
        eligible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of five vCPUs, 0 spins; the yields' results by index.
    fn run(results: [YieldTo; 5], last: u32, rescan: bool) -> (Option<u32>, [u32; 5]) {
        let ready = Vcpu {
            ready: true,
            ..Vcpu::default()
        };
        let (mut last, mut asked) = (last, [0; 5]);
        let taken = scan(0, true, rescan, &mut [ready; 5], &mut last, |idx| {
            asked[idx as usize] += 1;
            results[idx as usize]
        });
        (taken, asked)
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
}
