//! Where things are: guest-physical addresses, I/O ports and interrupts.

/// Global descriptor table.
pub const GDT: u64 = 0x500;
/// The kernel's boot_params ("zero page").
pub const ZERO_PAGE: u64 = 0x7000;
/// Top-level page table, then one page-directory-pointer table and four page directories.
pub const PML4: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x20000;
/// Longest command line with its final 0, in bytes: Linux's COMMAND_LINE_SIZE.
pub const CMDLINE_MAX: usize = 2048;
/// End of the conventional memory that the guest may use.
pub const LOW_RAM_END: u64 = 0x9fc00;
/// The ACPI tables, in the area where an operating system looks for them.
pub const ACPI: u64 = 0xe0000;
/// Where memory above the legacy area begins, and with it the kernel.
pub const HIGH_RAM: u64 = 0x10_0000;
/// Memory-mapped devices are from here to 4 GiB; memory goes on above.
pub const MMIO_GAP: u64 = 0xc000_0000;
/// End of the gap.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// First virtio-mmio device; the others follow.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes of address space for each of them.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Interrupt of the first virtio-mmio device.
pub const VIRTIO_MMIO_IRQ: u32 = 16;
/// Pins 16 to 23 of the I/O APIC.
pub const VIRTIO_MMIO_MAX: usize = 8;

/// The I/O APIC that KVM emulates.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel, and one more.
pub const KVM_TSS: usize = 0xfffb_d000;
/// The identity map that KVM needs on Intel.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// First serial port.
pub const COM1: u16 = 0x3f8;
/// Its interrupt.
pub const COM1_IRQ: u32 = 4;
/// Index and data port of the real-time clock.
pub const RTC: u16 = 0x70;
/// ACPI power management: events, control, reset.
pub const ACPI_PM: u16 = 0x600;
/// ACPI's system control interrupt.
pub const SCI_IRQ: u16 = 9;
/// The port of pvpanic, as in QEMU.
pub const PVPANIC: u16 = 0x505;
