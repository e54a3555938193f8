//! The ACPI tables: which CPUs, interrupts and devices there are, and how to power off.

use acpi_tables::aml::{self, Path};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::write as write_bytes;
use crate::Result;
use crate::devices::power;
use crate::layout::{
    ACPI, ACPI_PM, COM1, COM1_IRQ, IO_APIC, LOCAL_APIC, PVPANIC, SCI_IRQ, VIRTIO_MMIO,
    VIRTIO_MMIO_IRQ, VIRTIO_MMIO_SIZE,
};
use crate::memory::GuestMemory;

const OEM: [u8; 6] = *b"VMFRST";
const TABLE: [u8; 8] = *b"VMM     ";
const REVISION: u32 = 1;
/// IA-PC boot flags (ACPI 6.5, 5.2.9.3): no VGA. Bit 1 unset: no i8042.
const NO_VGA: u16 = 1 << 2;
/// MPS INTI flags (ACPI 6.5, table 5.27).
const EDGE_ACTIVE_HIGH: u16 = 0b0101;
/// Tables begin at multiples of this, as the FACS must.
const ALIGN: u64 = 64;

/// Writes all tables for `cpus` vCPUs and `virtio` devices; returns the RSDP's address.
pub fn write(memory: &GuestMemory, cpus: u8, virtio: usize) -> Result<u64> {
    let rsdp_at = ACPI;
    let mut next = rsdp_at + align(Rsdp::len() as u64);
    let mut place = |table: &[u8]| -> Result<u64> {
        let at = next;
        write_bytes(memory, at, table)?;
        next += align(table.len() as u64);
        Ok(at)
    };
    let dsdt = place(dsdt(virtio).as_slice())?;
    let facs = place(&bytes(&FACS::new()))?;
    let fadt = place(&bytes(&fadt(dsdt, facs)))?;
    let madt = place(&bytes(&madt(cpus)))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt))?;
    write_bytes(memory, rsdp_at, &bytes(&Rsdp::new(OEM, xsdt)))?;
    Ok(rsdp_at)
}

fn align(length: u64) -> u64 {
    length.next_multiple_of(ALIGN)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

fn fadt(dsdt: u64, facs: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_64(facs)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = SCI_IRQ.into();
    fadt.pm1a_evt_blk = u32::from(ACPI_PM).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(ACPI_PM + power::CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(ACPI_PM + power::RESET),
    );
    fadt.reset_value = power::RESET_VALUE;
    fadt.finalize()
}

/// Interrupt source override (ACPI 6.5, 5.2.12.5): a legacy interrupt on another pin.
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct SourceOverride {
    kind: u8,
    length: u8,
    bus: u8,
    source: u8,
    pin: U32,
    flags: U16,
}

impl Aml for SourceOverride {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

fn madt(cpus: u8) -> MADT {
    let mut madt = MADT::new(
        OEM,
        TABLE,
        REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    // An id that no local APIC has: 255 vCPUs have 0 to 254.
    madt.add_structure(IoApic::new(u8::MAX, IO_APIC, 0));
    // KVM wires the timer's interrupt 0 to pin 2.
    madt.add_structure(SourceOverride {
        kind: 2,
        length: 10,
        bus: 0,
        source: 0,
        pin: 2.into(),
        flags: 0.into(),
    });
    // Edge triggered, active high, unlike a real machine's: power.rs says why.
    madt.add_structure(SourceOverride {
        kind: 2,
        length: 10,
        bus: 0,
        source: SCI_IRQ as u8,
        pin: u32::from(SCI_IRQ).into(),
        flags: EDGE_ACTIVE_HIGH.into(),
    });
    madt
}

fn dsdt(virtio: usize) -> Sdt {
    let s5 = aml::Name::new(
        Path::new("\\_S5_"),
        &aml::Package::new(vec![&power::S5_TYPE, &0u8, &0u8, &0u8]),
    );
    let mut body = bytes(&s5);
    let com1 = aml::EISAName::new("PNP0501");
    let com1_port = aml::IO::new(COM1, COM1, 1, 8);
    let com1_irq = aml::Interrupt::new(true, true, false, false, COM1_IRQ);
    body.extend(device("COM1", &com1, 0, vec![&com1_port, &com1_irq]));

    let port = aml::IO::new(PVPANIC, PVPANIC, 1, 1);
    body.extend(device("PEVT", &"QEMU0001", 0, vec![&port]));
    for index in 0..virtio {
        body.extend(virtio_device(index));
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    dsdt.append_slice(&body);
    dsdt
}

fn virtio_device(index: usize) -> Vec<u8> {
    // At most VIRTIO_MMIO_MAX of them: all of this fits its types.
    let address = VIRTIO_MMIO + index as u64 * VIRTIO_MMIO_SIZE;
    let memory = aml::Memory32Fixed::new(true, address as u32, VIRTIO_MMIO_SIZE as u32);
    let irq = VIRTIO_MMIO_IRQ + index as u32;
    let interrupt = aml::Interrupt::new(true, true, false, false, irq);
    let name = format!("VR{index:02}");
    device(&name, &"LNRO0005", index as u8, vec![&memory, &interrupt])
}

/// A device under the system bus.
fn device(name: &str, hid: &dyn Aml, uid: u8, resources: Vec<&dyn Aml>) -> Vec<u8> {
    let path = format!("_SB_.{name}");
    bytes(&aml::Device::new(
        Path::new(&path),
        vec![
            &aml::Name::new(Path::new("_HID"), hid),
            &aml::Name::new(Path::new("_UID"), &uid),
            &aml::Name::new(Path::new("_CRS"), &aml::ResourceTemplate::new(resources)),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory;

    fn sum(table: &[u8]) -> u8 {
        table.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_has_its_checksum() {
        assert_eq!(sum(dsdt(8).as_slice()), 0);
        assert_eq!(sum(&bytes(&fadt(0x1234, 0x40))), 0);
        assert_eq!(sum(&bytes(&madt(255))), 0);
    }

    #[test]
    fn all_tables_fit_below_the_kernel() {
        let memory = memory::allocate(32 << 20).unwrap();
        let rsdp = write(&memory, 255, 8).unwrap();
        let mut signature = [0; 8];
        memory
            .read_slice(&mut signature, GuestAddress(rsdp))
            .unwrap();
        assert_eq!(&signature, b"RSD PTR ");
        // The XSDT is the last table; its address stands at offset 24.
        let xsdt: u64 = memory.read_obj(GuestAddress(rsdp + 24)).unwrap();
        assert!(xsdt + 36 + 16 <= crate::layout::HIGH_RAM);
    }
}
