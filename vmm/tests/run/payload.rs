//! Guests of a few instructions, put together by the tests.

use std::io::Write;

use tempfile::NamedTempFile;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const PM1_STATUS: u16 = 0x600;
const PM1_CONTROL: u16 = 0x604;
/// The reset register: 1 reboots.
pub const RESET: u16 = 0x608;
/// The panic device: 1 is a panic.
pub const PVPANIC: u16 = 0x505;
/// Sleep type 5 with "sleep enable".
const S5: u16 = 1 << 13 | 5 << 10;

/// Where the code is put and starts.
const ENTRY: u64 = 0x20_0000;
const HEADERS: usize = 64 + 56;

/// Where virtio device `index` has its registers.
pub fn virtio(index: u32) -> u32 {
    0xd000_0000 + index * 0x1000
}

/// A queue of 4 descriptors at an address of its own: descriptors, available and used
/// ring, a page each.
#[derive(Clone, Copy)]
pub struct Ring(pub u32);

/// Flags of a descriptor.
pub const NEXT: u32 = 1;
pub const WRITE: u32 = 2;

/// Machine code under construction, for 64-bit ring 0.
#[derive(Default)]
pub struct Payload(Vec<u8>);

impl Payload {
    fn code(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn port(self, port: u16) -> Self {
        let [low, high] = port.to_le_bytes();
        self.code(&[0x66, 0xba, low, high]) // mov dx, port
    }

    /// Writes a byte to a port.
    pub fn out8(self, port: u16, value: u8) -> Self {
        self.port(port).code(&[0xb0, value, 0xee]) // mov al, value; out dx, al
    }

    /// Writes 16 bits to a port.
    pub fn out16(self, port: u16, value: u16) -> Self {
        let [low, high] = value.to_le_bytes();
        self.port(port).code(&[0x66, 0xb8, low, high, 0x66, 0xef]) // mov ax, value; out dx, ax
    }

    /// Prints on the serial port.
    pub fn print(self, text: &str) -> Self {
        text.bytes()
            .fold(self, |payload, byte| payload.out8(COM1, byte))
    }

    /// Writes 32 bits to memory below 2 GiB, or to a device's register there.
    pub fn poke32(self, address: u32, value: u32) -> Self {
        self.code(&[0xb8])
            .code(&value.to_le_bytes()) // mov eax, value
            .code(&[0xbb])
            .code(&address.to_le_bytes()) // mov ebx, address
            .code(&[0x89, 0x03]) // mov [rbx], eax
    }

    /// Sets up a virtio device with these queues, as a driver of version 1 with these
    /// features.
    pub fn set_up(self, device: u32, features: u32, rings: &[Ring]) -> Self {
        self.set_up_with(device, features, rings, 4)
    }

    /// The same with queues of `size` descriptors.
    pub fn set_up_with(self, device: u32, features: u32, rings: &[Ring], size: u32) -> Self {
        // Acknowledge, driver; features, and VERSION_1; FEATURES_OK.
        let mut writes = vec![(0x70, 3), (0x24, 0), (0x20, features)];
        writes.extend([(0x24, 1), (0x20, 1), (0x70, 11)]);
        for (index, ring) in (0..).zip(rings) {
            let addresses = [
                (0x80, ring.0),
                (0x90, ring.0 + 0x1000),
                (0xa0, ring.0 + 0x2000),
            ];
            writes.extend([(0x30, index), (0x38, size)]);
            writes.extend(addresses);
            writes.push((0x44, 1));
        }
        // DRIVER_OK.
        writes.push((0x70, 15));
        writes.into_iter().fold(self, |payload, (register, value)| {
            payload.poke32(device + register, value)
        })
    }

    /// Writes descriptor `index`: address, length, flags with the next one above.
    pub fn describe(self, ring: Ring, index: u32, address: u32, length: u32, flags: u32) -> Self {
        let at = ring.0 + 16 * index;
        self.poke32(at, address)
            .poke32(at + 8, length)
            .poke32(at + 12, flags)
    }

    /// Offers the chains with these heads, the first ones or as many more; rings queue
    /// `number`'s doorbell.
    pub fn offer(self, device: u32, number: u32, ring: Ring, heads: &[u16]) -> Self {
        let mut words = vec![0, heads.len() as u16];
        words.extend(heads);
        words.resize(words.len().next_multiple_of(2), 0);
        let at = (ring.0 + 0x1000..).step_by(4);
        at.zip(words.chunks(2))
            .fold(self, |payload, (at, pair)| {
                payload.poke32(at, u32::from(pair[0]) | u32::from(pair[1]) << 16)
            })
            .poke32(device + 0x50, number)
    }

    /// Offers the chain that begins at descriptor 0 `count` times, and rings the doorbell.
    pub fn offer_first(self, device: u32, ring: Ring, count: u16) -> Self {
        self.poke32(ring.0 + 0x1000, u32::from(count) << 16)
            .poke32(device + 0x50, 0)
    }

    /// Writes to each page of `bytes` from `address` on, both below 2 GiB.
    pub fn touch(self, address: u32, bytes: u32) -> Self {
        self.code(&[0xbb])
            .code(&address.to_le_bytes()) // mov ebx, address
            .code(&[0xb9])
            .code(&(bytes / 4096).to_le_bytes()) // mov ecx, pages
            .code(&[0xc6, 0x03, 0x01]) // again: mov byte [rbx], 1
            .code(&[0x48, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00]) // add rbx, 4096
            .code(&[0xff, 0xc9, 0x75, 0xf2]) // dec ecx; jnz again
    }

    /// Waits until the byte at `address` is another one than `value`.
    pub fn wait_for_change(self, address: u32, value: u8) -> Self {
        self.code(&[0xbb])
            .code(&address.to_le_bytes()) // mov ebx, address
            .code(&[0x80, 0x3b, value]) // again: cmp byte [rbx], value
            .code(&[0x74, 0xfb]) // je again
    }

    /// Prints the lowest byte of CPUID's EBX for this leaf.
    pub fn print_cpuid_bl(self, leaf: u32) -> Self {
        self.code(&[0xb8])
            .code(&leaf.to_le_bytes()) // mov eax, leaf
            .code(&[0x31, 0xc9, 0x0f, 0xa2]) // xor ecx, ecx; cpuid
            .port(COM1)
            .code(&[0x88, 0xd8, 0xee]) // mov al, bl; out dx, al
    }

    /// Prints a bit of CPUID's ECX for this leaf, 0 or 1.
    pub fn print_cpuid_ecx_bit(self, leaf: u32, bit: u8) -> Self {
        self.code(&[0xb8])
            .code(&leaf.to_le_bytes()) // mov eax, leaf
            .code(&[0x31, 0xc9, 0x0f, 0xa2]) // xor ecx, ecx; cpuid
            .code(&[0xc1, 0xe9, bit, 0x83, 0xe1, 0x01]) // shr ecx, bit; and ecx, 1
            .port(COM1)
            .code(&[0x89, 0xc8, 0x04, b'0', 0xee]) // mov eax, ecx; add al, '0'; out dx, al
    }

    /// Prints the byte at `address`.
    pub fn print_from(self, address: u32) -> Self {
        self.port(COM1)
            .code(&[0xbb])
            .code(&address.to_le_bytes()) // mov ebx, address
            .code(&[0x8a, 0x03, 0xee]) // mov al, [rbx]; out dx, al
    }

    /// Prints all input up to the end of the line.
    pub fn echo_line(self) -> Self {
        self.port(LINE_STATUS) // again:
            .code(&[0xec, 0xa8, 0x01]) // in al, dx; test al, 1
            .code(&[0x74, 0xf7]) // je again
            .port(COM1)
            .code(&[0xec, 0xee]) // in al, dx; out dx, al
            .code(&[0x3c, b'\n']) // cmp al, '\n'
            .code(&[0x75, 0xed]) // jne again
    }

    /// Waits until the power button's status bit is set.
    pub fn wait_for_power_button(self) -> Self {
        self.port(PM1_STATUS)
            .code(&[0x66, 0xed, 0xf6, 0xc4, 0x01]) // again: in ax, dx; test ah, 1
            .code(&[0x74, 0xf9]) // je again
    }

    /// Prints so many lines of an x.
    pub fn print_lines(self, count: u32) -> Self {
        self.port(COM1)
            .code(&[0xb9])
            .code(&count.to_le_bytes()) // mov ecx, count
            .code(&[0xb0, b'x', 0xee]) // again: mov al, 'x'; out dx, al
            .code(&[0xb0, b'\n', 0xee]) // mov al, '\n'; out dx, al
            .code(&[0xff, 0xc9, 0x75, 0xf6]) // dec ecx; jnz again
    }

    /// Prints for ever.
    pub fn print_without_end(self) -> Self {
        self.port(COM1).code(&[0xb0, b'x', 0xee, 0xeb, 0xfd]) // mov al; again: out; jmp again
    }

    /// Powers off.
    pub fn power_off(self) -> Self {
        self.out16(PM1_CONTROL, S5).halt()
    }

    /// An exception without any handler.
    pub fn triple_fault(self) -> Self {
        self.code(&[0x0f, 0x0b]) // ud2
    }

    /// Stops for good.
    pub fn halt(self) -> Self {
        self.code(&[0xf4, 0xeb, 0xfd]) // again: hlt; jmp again
    }

    /// The code as an ELF executable with one segment.
    pub fn elf(&self) -> NamedTempFile {
        let size = (HEADERS + self.0.len()) as u64;
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        for half in [2u16, 62] {
            elf.extend(half.to_le_bytes()); // executable, x86-64
        }
        elf.extend(1u32.to_le_bytes());
        for word in [ENTRY + HEADERS as u64, 64, 0] {
            elf.extend(word.to_le_bytes()); // entry, program headers, sections
        }
        elf.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 0, 0, 0] {
            elf.extend(half.to_le_bytes()); // sizes and numbers of headers
        }
        elf.extend([1u32, 7].map(u32::to_le_bytes).concat()); // load, rwx
        for word in [0, ENTRY, ENTRY, size, size, 4096] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(&self.0);
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&elf).unwrap();
        file
    }
}
