//! The virtual CPUs: their first state, and the thread of each.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2,
    kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};

use crate::boot::{SEGMENTS, Segment};
use crate::bus::Bus;
use crate::config::Pv;
use crate::control::Control;
use crate::exit::End;
use crate::layout::{GDT, PML4, ZERO_PAGE};
use crate::run::Ender;
use crate::{Error, Result, pv};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 2;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, write-back by default.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// The buses that vCPUs reach devices by.
#[derive(Default)]
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
}

/// The features that KVM can give to a guest on this machine.
pub fn supported_cpuid(kvm: &Kvm, pv: Pv) -> Result<CpuId> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Error::kvm("list CPU features"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in cpuid.as_mut_slice().iter_mut().filter(|e| e.function == 1) {
        entry.ecx |= u32::from(deadline) << 24;
    }
    pv::limit(&mut cpuid, pv);
    Ok(cpuid)
}

/// Puts vCPU `id` of `count` into the features: its APIC id, and a topology
/// in which each vCPU is a core of one package.
fn personalize(cpuid: &mut CpuId, id: u8, count: u8) -> Result<()> {
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

/// Gives a vCPU its features; the first one also its state at `entry`, the
/// others wait for the guest to start them.
pub fn prepare(fd: &VcpuFd, cpuid: &CpuId, id: u8, count: u8, entry: u64) -> Result<()> {
    let mut cpuid = cpuid.clone();
    personalize(&mut cpuid, id, count)?;
    fd.set_cpuid2(&cpuid)
        .map_err(Error::kvm("set a vCPU's features"))?;
    set_msrs(fd)?;
    if id == 0 {
        set_registers(fd, entry)?;
    }
    Ok(())
}

fn set_msrs(fd: &VcpuFd) -> Result<()> {
    let entries = [
        (MSR_MISC_ENABLE, FAST_STRINGS),
        (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let fail = |errno| Error::kvm("set a vCPU's MSRs")(kvm_ioctls::Error::new(errno));
    let msrs = Msrs::from_entries(&entries).map_err(|_| fail(libc::ENOMEM))?;
    // KVM tells how many it took.
    match fd.set_msrs(&msrs) {
        Ok(n) if n == entries.len() => Ok(()),
        Ok(_) => Err(fail(libc::EINVAL)),
        Err(e) => Err(Error::kvm("set a vCPU's MSRs")(e)),
    }
}

fn set_registers(fd: &VcpuFd, entry: u64) -> Result<()> {
    let regs = kvm_regs {
        rip: entry,
        rsi: ZERO_PAGE,
        rflags: RFLAGS,
        ..Default::default()
    };
    fd.set_regs(&regs)
        .map_err(Error::kvm("set a vCPU's registers"))?;
    let mut sregs = fd
        .get_sregs()
        .map_err(Error::kvm("read a vCPU's registers"))?;
    let [code, data] = SEGMENTS.map(segment);
    sregs.cs = code;
    for register in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *register = data;
    }
    sregs.gdt.base = GDT;
    // Up to the end of the last descriptor.
    sregs.gdt.limit = SEGMENTS[1].selector + 7;
    sregs.cr3 = PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    fd.set_sregs(&sregs)
        .map_err(Error::kvm("set a vCPU's registers"))
}

fn segment(segment: Segment) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: segment.selector,
        type_: segment.kind,
        present: 1,
        dpl: 0,
        db: segment.big.into(),
        s: 1,
        l: segment.long.into(),
        g: 1,
        ..Default::default()
    }
}

/// Runs a vCPU until the machine ends. What a guest does can end the machine, no more.
pub fn run(mut fd: VcpuFd, id: u8, buses: &Arc<Buses>, control: &Control, ender: &Ender) {
    loop {
        control.attend(id, &fd);
        if ender.ended().is_some() {
            return;
        }
        match fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => buses.ports.read(port.into(), data),
            Ok(VcpuExit::IoOut(port, data)) => buses.ports.write(port.into(), data),
            Ok(VcpuExit::MmioRead(address, data)) => buses.mmio.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => buses.mmio.write(address, data),
            Ok(VcpuExit::Intr | VcpuExit::Hlt) => {}
            Ok(VcpuExit::Shutdown) => {
                crash(id, "triple fault", ender);
            }
            Ok(exit) => crash(id, &format!("{exit:?}"), ender),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(e) => crash(id, &format!("KVM_RUN: {e}"), ender),
        }
    }
}

fn crash(id: u8, why: &str, ender: &Ender) {
    log::error!("vCPU {id} cannot go on: {why}");
    ender.end(End::Crash);
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
