//! What a guest does not see of its CPU unless it was asked for: `--cpu`.
//!
//! Nested virtualisation is the largest part of KVM that a guest can reach; performance
//! counters tell a guest of what its neighbours do, and cost at each switch between them.
//! Leaves and bits: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::config::CpuArg;

/// A leaf, and the bits of it that go: EAX, EBX, ECX, EDX.
type Hidden = (u32, [u32; 4]);

const ALL: [u32; 4] = [u32::MAX; 4];

/// VMX; SVM, and what it has.
const NESTED: [Hidden; 3] = [
    (0x1, [0, 0, 1 << 5, 0]),
    (0x8000_0001, [0, 0, 1 << 2, 0]),
    (0x8000_000a, ALL),
];

/// Intel: debug store (DTES64, DS-CPL, DS) and PDCM; architectural counters, branch records,
/// and their extensions. AMD: instruction-based sampling, the counters of cores, northbridge
/// and caches, and their extensions.
const PMU: [Hidden; 8] = [
    (0x1, [0, 0, 1 << 2 | 1 << 4 | 1 << 15, 1 << 21]),
    (0x7, [0, 0, 0, 1 << 19]),
    (0xa, ALL),
    (0x1c, ALL),
    (0x23, ALL),
    (
        0x8000_0001,
        [0, 0, 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28, 0],
    ),
    (0x8000_001b, ALL),
    (0x8000_0022, ALL),
];

/// Hides what is not wanted.
pub fn limit(cpuid: &mut CpuId, wanted: CpuArg) {
    for entry in cpuid.as_mut_slice() {
        if !wanted.nested.0 {
            hide(entry, &NESTED);
        }
        if !wanted.pmu.0 {
            hide(entry, &PMU);
        }
    }
}

fn hide(entry: &mut kvm_cpuid_entry2, hidden: &[Hidden]) {
    for (_, [eax, ebx, ecx, edx]) in hidden.iter().filter(|(leaf, _)| *leaf == entry.function) {
        entry.eax &= !eax;
        entry.ebx &= !ebx;
        entry.ecx &= !ecx;
        entry.edx &= !edx;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::Switch;

    /// Leaves full of ones, less what is hidden.
    fn limited(nested: bool, pmu: bool) -> Vec<kvm_cpuid_entry2> {
        let entry = |function| kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let leaves = [0x1, 0xa, 0x8000_0001, 0x8000_000a].map(entry);
        let mut cpuid = CpuId::from_entries(&leaves).unwrap();
        let (nested, pmu) = (Switch(nested), Switch(pmu));
        limit(&mut cpuid, CpuArg { nested, pmu });
        cpuid.as_slice().to_vec()
    }

    #[test]
    fn a_guest_has_no_machines_of_its_own_unless_it_may() {
        for pmu in [false, true] {
            let [one, _, extended, svm] = limited(false, pmu)[..] else {
                panic!("leaves are lost");
            };
            assert_eq!(
                (one.ecx >> 5 & 1, extended.ecx >> 2 & 1, svm.eax),
                (0, 0, 0)
            );
            let [one, _, extended, svm] = limited(true, pmu)[..] else {
                panic!("leaves are lost");
            };
            assert_eq!((one.ecx >> 5 & 1, extended.ecx >> 2 & 1), (1, 1));
            assert_eq!(svm.eax, u32::MAX);
        }
    }

    #[test]
    fn a_guest_has_no_counters_unless_it_may() {
        for (pmu, bit, all) in [(false, 0, 0), (true, 1, u32::MAX)] {
            let leaves = limited(false, pmu);
            assert_eq!(
                (leaves[0].ecx >> 15 & 1, leaves[2].ecx >> 23 & 1),
                (bit, bit)
            );
            assert_eq!((leaves[1].eax, leaves[1].edx), (all, all));
        }
    }

    #[test]
    fn everything_else_stays() {
        let leaves = limited(false, false);
        // SSE3 and the x2APIC; long mode.
        assert_eq!((leaves[0].ecx & 1, leaves[0].ecx >> 21 & 1), (1, 1));
        assert_eq!(leaves[2].edx >> 29 & 1, 1);
    }
}
