//! Stock's scan for a vCPU to yield to, the net below the [`crate::cascade`].
//!
//! Source: `kvm_vcpu_on_spin` of Linux 6.12.117, with the series' patch 4: a yield that
//! failed does not end the walk before the vCPUs up to the last boosted one were seen.

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
pub fn scan(
    me: u32,
    kernel_mode: bool,
    vcpus: &mut [Vcpu],
    last_boosted: &mut u32,
    mut try_yield: impl FnMut(u32) -> YieldTo,
) -> Option<u32> {
    let online = vcpus.len() as u32;
    let first = last_boosted.saturating_add(1).min(online);
    let mut tries = 3;
    for idx in (first..online).chain(0..first) {
        let vcpu = &mut vcpus[idx as usize];
        let out_of_kernel = vcpu.preempted && !vcpu.hardware_irq && !vcpu.in_kernel;
        if idx == me || !vcpu.ready || (kernel_mode && out_of_kernel) || !every_other_time(vcpu) {
            continue;
        }
        match try_yield(idx) {
            YieldTo::Taken => {
                *last_boosted = idx;
                return Some(idx);
            }
            YieldTo::NotTaken => {}
            YieldTo::Failed => tries -= 1,
        }
        if tries == 0 {
            break;
        }
    }
    None
}

fn every_other_time(vcpu: &mut Vcpu) -> bool {
    let eligible = !vcpu.spins || vcpu.dy_eligible;
    if vcpu.spins {
        vcpu.dy_eligible = !vcpu.dy_eligible;
    }
    eligible
}
