//! KVM's paravirtual features: CPUID leaves 4000_0000H (signature) and 4000_0001H
//! (features), as in Linux's Documentation/virt/kvm/x86/cpuid.rst.
//!
//! Guests look there only where leaf 1 says that they are guests. Not every KVM sets that
//! bit by itself (Linux 6.12's doesn't).

use std::ops::RangeInclusive;

use kvm_bindings::CpuId;

use crate::config::Pv;

const LEAVES: RangeInclusive<u32> = 0x4000_0000..=0x4000_00ff;
const FEATURES: u32 = 0x4000_0001;
/// In ECX of leaf 1.
const HYPERVISOR: u32 = 1 << 31;

/// Bits that QEMU sets for every CPU model unless told otherwise: clock (old and new),
/// no delay at I/O ports, asynchronous page faults, steal time, EOI without an exit,
/// and that the clock is stable. From docs/system/i386/kvm-pv.rst.
const QEMU: u32 = 1 << 0 | 1 << 3 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 24;

/// In EAX of the features.
const STEAL_TIME: u32 = 1 << 5;

/// Whether the guest can have steal time.
pub fn has_steal_time(cpuid: &CpuId) -> bool {
    let mut entries = cpuid.as_slice().iter();
    entries.any(|entry| entry.function == FEATURES && entry.eax & STEAL_TIME != 0)
}

/// Takes out of the features that KVM has what the guest must not see, and tells the guest
/// that it is one, or not.
pub fn limit(cpuid: &mut CpuId, pv: Pv) {
    for entry in cpuid.as_mut_slice().iter_mut().filter(|e| e.function == 1) {
        match pv {
            Pv::None => entry.ecx &= !HYPERVISOR,
            Pv::Qemu | Pv::All => entry.ecx |= HYPERVISOR,
        }
    }
    match pv {
        Pv::All => {}
        Pv::None => cpuid.retain(|entry| !LEAVES.contains(&entry.function)),
        Pv::Qemu => {
            let entries = cpuid.as_mut_slice().iter_mut();
            for entry in entries.filter(|entry| entry.function == FEATURES) {
                entry.eax &= QEMU;
                // Hints, as that vCPUs have CPUs of their own.
                entry.edx = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    fn limited(pv: Pv) -> Vec<(u32, u32)> {
        let entry = |function| kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ..Default::default()
        };
        let entries = [1, 0x4000_0000, FEATURES, 0x4000_0010, 0x8000_0000].map(entry);
        let mut cpuid = CpuId::from_entries(&entries).unwrap();
        limit(&mut cpuid, pv);
        let entries = cpuid.as_slice().iter();
        entries.map(|e| (e.function, e.eax)).collect()
    }

    #[test]
    fn none_leaves_no_sign_of_kvm() {
        assert_eq!(limited(Pv::None), [(1, u32::MAX), (0x8000_0000, u32::MAX)]);
    }

    #[test]
    fn a_guest_knows_that_it_is_one_unless_there_is_no_sign_of_it() {
        for before in [0, u32::MAX] {
            let knows = |pv| {
                let entry = kvm_cpuid_entry2 {
                    function: 1,
                    ecx: before,
                    ..Default::default()
                };
                let mut cpuid = CpuId::from_entries(&[entry]).unwrap();
                limit(&mut cpuid, pv);
                let ecx = cpuid.as_slice()[0].ecx;
                assert_eq!(ecx & !HYPERVISOR, before & !HYPERVISOR);
                ecx & HYPERVISOR != 0
            };
            let sets = [Pv::None, Pv::Qemu, Pv::All].map(knows);
            assert_eq!(sets, [false, true, true]);
        }
    }

    #[test]
    fn qemu_has_steal_time_and_neither_flush_nor_ipi_hypercalls() {
        let features = limited(Pv::Qemu)[2].1;
        assert_eq!(features >> 5 & 1, 1);
        assert_eq!((features >> 9 & 1, features >> 11 & 1), (0, 0));
        assert_eq!(limited(Pv::All)[2].1, u32::MAX);
    }
}
