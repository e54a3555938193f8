//! What a guest's CPUs say of themselves: what KVM has, less what the guest must not see,
//! and each vCPU's place among the others.

mod features;
mod pv;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::config::{CpuArg, Pv};
use crate::{Error, Result};

/// The features that KVM can give to a guest on this machine.
pub fn supported(kvm: &Kvm, pv: Pv, cpu: CpuArg) -> Result<CpuId> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Error::kvm("list CPU features"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in cpuid.as_mut_slice().iter_mut().filter(|e| e.function == 1) {
        entry.ecx |= u32::from(deadline) << 24;
    }
    pv::limit(&mut cpuid, pv);
    features::limit(&mut cpuid, cpu);
    Ok(cpuid)
}

/// Whether these vCPUs have KVM's paravirtual steal time.
pub fn has_steal_time(vcpus: &[VcpuFd]) -> bool {
    let first = vcpus.first();
    let features = first.and_then(|vcpu| vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).ok());
    features.is_some_and(|features| pv::has_steal_time(&features))
}

/// Puts vCPU `id` of `count` into the features: its APIC id, and a topology
/// in which each vCPU is a core of one package.
pub fn personalize(cpuid: &mut CpuId, id: u8, count: u8) -> Result<()> {
    let bits = u8::BITS - (count - 1).leading_zeros();
    add_topology(cpuid, id, count, bits)?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | u32::from(id) << 24;
                // HTT: the count above is valid.
                entry.edx = entry.edx & !(1 << 28) | u32::from(count > 1) << 28;
            }
            4 => {
                set_cache_sharing(entry, count);
                // Cores of the package less one; six bits wide.
                entry.eax = entry.eax & !(0x3f << 26) | u32::from(count - 1).min(0x3f) << 26;
            }
            0x8000_001d => set_cache_sharing(entry, count),
            // AMD: number of cores less one, and bits of the core's id.
            0x8000_0008 => entry.ecx = bits << 12 | u32::from(count - 1),
            0x8000_001e => {
                entry.eax = id.into();
                entry.ebx = id.into();
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Fills the leaves of extended topology (Intel SDM volume 2, CPUID leaf 0BH):
/// one thread a core, then all cores. KVM lists each of them without its levels,
/// from which Linux would conclude that each vCPU is a package.
fn add_topology(cpuid: &mut CpuId, id: u8, count: u8, bits: u32) -> Result<()> {
    for function in [0xb, 0x1f] {
        if !cpuid.as_slice().iter().any(|e| e.function == function) {
            continue;
        }
        cpuid.retain(|entry| entry.function != function);
        for (index, shift, logical) in [(0, 0, 1), (1, bits, u32::from(count))] {
            let entry = kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: logical,
                // The kind of the level: 1 threads, 2 cores.
                ecx: (index + 1) << 8 | index,
                edx: id.into(),
                ..Default::default()
            };
            cpuid.push(entry).map_err(|_| too_many_features())?;
        }
    }
    Ok(())
}

/// A cache of level 3 is the package's, all others are a core's own.
fn set_cache_sharing(entry: &mut kvm_cpuid_entry2, count: u8) {
    let sharing = if entry.eax >> 5 & 7 >= 3 {
        count - 1
    } else {
        0
    };
    entry.eax = entry.eax & !(0xfff << 14) | u32::from(sharing) << 14;
}

fn too_many_features() -> Error {
    Error::kvm("set a vCPU's features")(kvm_ioctls::Error::new(libc::E2BIG))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What vCPU `id` of `count` finds, when KVM lists the leaf with this `eax`.
    fn leaf_from(function: u32, eax: u32, id: u8, count: u8) -> Vec<kvm_cpuid_entry2> {
        let entry = kvm_cpuid_entry2 {
            function,
            eax,
            ..Default::default()
        };
        let mut cpuid = CpuId::new(0).unwrap();
        cpuid.push(entry).unwrap();
        personalize(&mut cpuid, id, count).unwrap();
        cpuid.as_slice().to_vec()
    }

    fn leaf(function: u32, index: usize, id: u8, count: u8) -> kvm_cpuid_entry2 {
        leaf_from(function, 0, id, count)[index]
    }

    #[test]
    fn each_vcpu_is_a_core_with_its_own_apic_id() {
        let one = leaf(1, 0, 3, 4);
        assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (3, 4));
        let cores = leaf(0xb, 1, 3, 4);
        assert_eq!(
            (cores.eax, cores.ebx, cores.ecx, cores.edx),
            (2, 4, 0x201, 3)
        );
        assert_eq!(leaf(0x8000_0008, 0, 3, 4).ecx, 0x2003);
    }

    #[test]
    fn topology_has_a_level_of_threads_and_one_of_cores() {
        let levels = leaf_from(0xb, 0, 3, 4);
        assert_eq!(levels.len(), 2);
        assert_eq!(
            (levels[0].index, levels[0].eax, levels[0].ecx),
            (0, 0, 0x100)
        );
        // A leaf that KVM does not list stays away.
        assert!(levels.iter().all(|entry| entry.function == 0xb));
    }

    #[test]
    fn only_the_last_cache_is_shared() {
        // Level 2 and level 3, as a host of 16 threads shows them.
        let cache = |level: u32| leaf_from(0x8000_001d, 15 << 14 | level << 5, 0, 4)[0].eax;
        assert_eq!(cache(2) >> 14, 0);
        assert_eq!(cache(3) >> 14, 3);
        assert_eq!(leaf(4, 0, 0, 255).eax >> 26, 0x3f);
    }

    #[test]
    fn one_vcpu_and_255_are_possible() {
        assert_eq!(leaf(0xb, 1, 0, 1).eax, 0);
        assert_eq!(leaf(1, 0, 0, 1).edx >> 28 & 1, 0);
        assert_eq!(leaf(0xb, 1, 254, 255).eax, 8);
    }
}
