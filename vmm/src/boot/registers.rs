//! The state in which a vCPU begins: 64-bit mode at the kernel's entry.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::tables::{SEGMENTS, Segment};
use crate::layout::{GDT, PML4, ZERO_PAGE};
use crate::{Error, Result, cpuid};

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

/// Gives a vCPU its features; the first one also its state at `entry`, the
/// others wait for the guest to start them.
pub fn prepare(fd: &VcpuFd, features: &CpuId, id: u8, count: u8, entry: u64) -> Result<()> {
    let mut features = features.clone();
    cpuid::personalize(&mut features, id, count)?;
    fd.set_cpuid2(&features)
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
