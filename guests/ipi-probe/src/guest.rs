//! The guest: a few hundred bytes of 32-bit code without an operating system.
//!
//! `ebp` is the vCPU's index all the time. Every vCPU starts at [`CODE`] in
//! protected mode, without paging; after INIT and SIPI it comes there by way of
//! [`START_UP`].

use std::arch::global_asm;

/// Where things are in the guest's memory.
pub const GDT: u64 = 0x1000;
/// Limit and base of the IDT, as `lidt` wants them.
pub const IDTR: u64 = 0x1f00;
/// Limit and base of the GDT.
pub const GDTR: u64 = 0x1f10;
/// 256 interrupt gates.
pub const IDT: u64 = 0x2000;
/// How IPIs are sent and ends of interrupts written: 0 MMIO, 1 MSR, 2 hypercall.
pub const VIA: u64 = 0x6000;
/// Not 0: every vCPU that runs is to come to its end.
pub const STOP: u64 = 0x6004;
/// What the vCPUs do, see [`Program`].
pub const PROGRAM: u64 = 0x6008;
/// Number of vCPUs.
pub const VCPUS: u64 = 0x600c;
/// Low half of the ICR for `Ping` and `Gap`.
pub const ICR: u64 = 0x6010;
/// For hypercalls: bitmap of the receivers.
pub const BITMAP: u64 = 0x6014;
/// `Ping` waits for the vCPUs from 1 up to before this one.
pub const WAITED: u64 = 0x6018;
/// `Ping` sends to the vCPUs from 1 up to before this one, in as many IPIs.
pub const SENT: u64 = 0x601c;
/// What came out: rounds of `Ping`; least cycles of a send; least cycles of an EOI.
pub const ROUNDS: u64 = 0x6100;
/// Least cycles of a send.
pub const SEND_CYCLES: u64 = 0x6104;
/// Least cycles of an end of interrupt.
pub const EOI_CYCLES: u64 = 0x6108;
/// How many gaps there are at [`GAPS`].
pub const GAP_COUNT: u64 = 0x610c;
/// 16 low halves of the ICR that `Storm` picks from.
pub const ACTIONS: u64 = 0x6200;
/// Interrupts that each vCPU took; in `Gap`, 1 once it takes none any more.
pub const TAKEN: u64 = 0x7000;
/// Hypercalls of each vCPU that asked for a directed yield.
pub const YIELDS: u64 = 0x7400;
/// The code.
pub const CODE: u64 = 0x8000;
/// What a SIPI starts, in real mode.
pub const START_UP: u64 = 0x9000;
/// Stacks of 1 KiB.
pub const STACKS: u64 = 0x20000;
/// Cycles from one PAUSE to the next, if there was an exit in between.
pub const GAPS: u64 = 0x70000;
/// At most that many of them.
pub const GAPS_MAX: u64 = 1024;
/// The page that `Stuck` misses.
pub const MISSING: u64 = 0xf_0000;
/// All of the guest's memory.
pub const MEMORY: u64 = 0x10_0000;

/// A vCPU writes there when it has come to its end.
pub const PORT_DONE: u16 = 0xf4;
/// It writes there when it got an exception.
pub const PORT_FAULT: u16 = 0xf5;

/// What the vCPUs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Program {
    /// All send all kinds of IPIs to each other, and INIT and SIPI at times.
    Storm = 0,
    /// The first one sends, and spins until all others have taken the IPI.
    Ping = 1,
    /// The first one sends to another one that runs but never answers, and spins; at each
    /// spin exit it sends again.
    Gap = 2,
    /// The first two yield to each other by hypercall, as fast as they can.
    Race = 3,
    /// The first two hand a turn over and yield to each other until it is back.
    Turns = 4,
    /// All spin with PAUSE.
    Spin = 5,
    /// All spin without PAUSE, which to the host is work like any other.
    Compute = 6,
    /// The first one sends to the second one, which touches a page that isn't there, and
    /// spins; the others compute.
    Stuck = 7,
}

global_asm!(
    ".pushsection .rodata",
    ".code32",
    ".globl ipi_probe_code, ipi_probe_fault, ipi_probe_nmi, ipi_probe_take",
    ".globl ipi_probe_start_up, ipi_probe_end",
    "ipi_probe_code:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "cmp dword ptr ds:[0x6000], 0",
    "jne 1f",
    "mov dword ptr ds:[0xfee000f0], 0x1ff",
    "mov eax, dword ptr ds:[0xfee00020]",
    "shr eax, 24",
    "jmp 2f",
    // x2APIC on, software enable, own number.
    "1: mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x802",
    "rdmsr",
    "2: mov ebp, eax",
    "mov esp, eax",
    "shl esp, 10",
    "add esp, 0x20400",
    "lidt ds:[0x1f00]",
    "imul edi, ebp, 40503",
    "add edi, 12345",
    "sti",
    "mov eax, dword ptr ds:[0x6008]",
    "cmp eax, 3",
    "je 60f",
    "cmp eax, 4",
    "je 70f",
    "cmp eax, 5",
    "je 80f",
    "cmp eax, 6",
    "je 90f",
    "cmp eax, 7",
    "je 95f",
    "cmp eax, 1",
    "je 20f",
    "ja 30f",
    // Storm: edi is the state of a linear congruential generator.
    "10: imul edi, edi, 1103515245",
    "add edi, 12345",
    "mov edx, edi",
    "shr edx, 8",
    "mov ebx, edx",
    "mov eax, edx",
    "and edx, 0xf",
    "shr ebx, 4",
    "and ebx, 0xf",
    "shr eax, 8",
    "and eax, 0xf",
    "add eax, 0x40",
    "or eax, dword ptr ds:[0x6200 + ebx * 4]",
    // NMIs go to the first one: who starts up after INIT couldn't take them.
    "cmp ebx, 14",
    "jb 12f",
    "ja 11f",
    "xor edx, edx",
    "jmp 12f",
    // INIT, then SIPI; neither to oneself nor to the first one, and seldom.
    "11: test edi, 0x7f0000",
    "jnz 13f",
    "and edx, 7",
    "jz 13f",
    "cmp edx, ebp",
    "je 13f",
    "mov eax, 0x4500",
    "push edx",
    "call ipi_probe_send",
    "pop edx",
    "mov eax, 0x4609",
    "12: call ipi_probe_send",
    "13: mov ecx, 300",
    "14: pause",
    "dec ecx",
    "jnz 14b",
    "cmp dword ptr ds:[0x6004], 0",
    "je 10b",
    "jmp ipi_probe_done",
    // Ping.
    "20: test ebp, ebp",
    "jnz 25f",
    "xor ebx, ebx",
    "21: inc ebx",
    "rdtsc",
    "mov edi, eax",
    "mov edx, 1",
    "26: mov eax, dword ptr ds:[0x6010]",
    "push edx",
    "call ipi_probe_send",
    "pop edx",
    "inc edx",
    "cmp edx, dword ptr ds:[0x601c]",
    "jb 26b",
    "rdtsc",
    "sub eax, edi",
    "cmp eax, dword ptr ds:[0x6104]",
    "jae 22f",
    "mov dword ptr ds:[0x6104], eax",
    "22: mov esi, 1",
    "23: cmp dword ptr ds:[0x6004], 0",
    "jne ipi_probe_done",
    "cmp ebx, dword ptr ds:[0x7000 + esi * 4]",
    "jbe 24f",
    "pause",
    "jmp 23b",
    "24: inc esi",
    "cmp esi, dword ptr ds:[0x6018]",
    "jb 23b",
    "mov dword ptr ds:[0x6100], ebx",
    "jmp 21b",
    "25: cmp dword ptr ds:[0x6004], 0",
    "je 25b",
    "jmp ipi_probe_done",
    // Gap: the others never take an interrupt, and say when that is so.
    "30: test ebp, ebp",
    "jz 33f",
    "cli",
    "mov dword ptr ds:[0x7000 + ebp * 4], 1",
    "32: cmp dword ptr ds:[0x6004], 0",
    "je 32b",
    "jmp ipi_probe_done",
    "33: cmp dword ptr ds:[0x7004], 0",
    "je 33b",
    "xor ebx, ebx",
    "34: mov eax, dword ptr ds:[0x6010]",
    "mov edx, 1",
    "call ipi_probe_send",
    "31: rdtsc",
    "mov edi, eax",
    "pause",
    "rdtsc",
    "sub eax, edi",
    "cmp eax, 500",
    "jb 31b",
    "mov dword ptr ds:[0x70000 + ebx * 4], eax",
    "inc ebx",
    "mov dword ptr ds:[0x610c], ebx",
    "cmp ebx, 1024",
    "jb 34b",
    "jmp ipi_probe_done",
    // Race.
    "60: call ipi_probe_yield",
    "cmp dword ptr ds:[0x6004], 0",
    "je 60b",
    "jmp ipi_probe_done",
    // Turns: at 0x6110 is whose turn it is.
    "70: cmp dword ptr ds:[0x6110], ebp",
    "jne 71f",
    "inc dword ptr ds:[0x6100]",
    "mov eax, ebp",
    "xor eax, 1",
    "mov dword ptr ds:[0x6110], eax",
    "71: call ipi_probe_yield",
    "cmp dword ptr ds:[0x6004], 0",
    "je 70b",
    "jmp ipi_probe_done",
    // Spin.
    "80: pause",
    "cmp dword ptr ds:[0x6004], 0",
    "je 80b",
    "jmp ipi_probe_done",
    // Compute.
    "90: cmp dword ptr ds:[0x6004], 0",
    "je 90b",
    "jmp ipi_probe_done",
    // Stuck.
    "95: cmp ebp, 1",
    "ja 90b",
    "je 97f",
    "96: cmp dword ptr ds:[0x7004], 0",
    "je 96b",
    "mov eax, dword ptr ds:[0x6010]",
    "mov edx, 1",
    "call ipi_probe_send",
    "jmp 80b",
    "97: inc dword ptr ds:[0x7004]",
    "inc dword ptr ds:[0xf0000]",
    "jmp 90b",
    "ipi_probe_done:",
    "cli",
    "mov dx, 0xf4",
    "out dx, al",
    "jmp ipi_probe_done",
    // eax: low half of the ICR; edx: to whom. Changes eax, ecx, edx.
    "ipi_probe_send:",
    "cmp dword ptr ds:[0x6000], 1",
    "je 41f",
    "ja 42f",
    "mov ecx, edx",
    "shl ecx, 24",
    "mov dword ptr ds:[0xfee00310], ecx",
    "mov dword ptr ds:[0xfee00300], eax",
    "ret",
    "41: mov ecx, 0x830",
    "wrmsr",
    "ret",
    // KVM_HC_SEND_IPI: bitmap in ebx and ecx, first number in edx, ICR in esi.
    "42: push ebx",
    "push esi",
    "movzx esi, al",
    "mov eax, 10",
    "mov ebx, dword ptr ds:[0x6014]",
    "xor ecx, ecx",
    "xor edx, edx",
    "vmmcall",
    "pop esi",
    "pop ebx",
    "ret",
    // KVM_HC_SCHED_YIELD to the other one of the first two. Changes eax, ebx.
    "ipi_probe_yield:",
    "inc dword ptr ds:[0x7400 + ebp * 4]",
    "mov eax, 11",
    "mov ebx, ebp",
    "xor ebx, 1",
    "vmmcall",
    "ret",
    "ipi_probe_take:",
    "push eax",
    "push ecx",
    "push edx",
    "push edi",
    "rdtsc",
    "mov edi, eax",
    "cmp dword ptr ds:[0x6000], 0",
    "jne 51f",
    "mov dword ptr ds:[0xfee000b0], 0",
    "jmp 52f",
    "51: mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "52: rdtsc",
    "sub eax, edi",
    "cmp eax, dword ptr ds:[0x6108]",
    "jae 53f",
    "mov dword ptr ds:[0x6108], eax",
    "53: inc dword ptr ds:[0x7000 + ebp * 4]",
    "pop edi",
    "pop edx",
    "pop ecx",
    "pop eax",
    "iretd",
    "ipi_probe_nmi:",
    "iretd",
    "ipi_probe_fault:",
    "mov dx, 0xf5",
    "out dx, al",
    "jmp ipi_probe_fault",
    ".code16",
    "ipi_probe_start_up:",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    // lgdt [0x1f10] with a base of 32 bits
    ".byte 0x66, 0x0f, 0x01, 0x16, 0x10, 0x1f",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    // jmp far 8:0x8000
    ".byte 0x66, 0xea",
    ".long 0x8000",
    ".word 8",
    "ipi_probe_end:",
    ".code64",
    ".popsection",
);

unsafe extern "C" {
    static ipi_probe_code: u8;
    static ipi_probe_take: u8;
    static ipi_probe_nmi: u8;
    static ipi_probe_fault: u8;
    static ipi_probe_start_up: u8;
    static ipi_probe_end: u8;
}

/// The code, by place.
#[derive(Debug)]
pub struct Image {
    /// What belongs at [`CODE`].
    pub code: &'static [u8],
    /// What belongs at [`START_UP`].
    pub start_up: &'static [u8],
    /// Addresses of the handlers: interrupts, NMI, exceptions.
    pub handlers: [u32; 3],
}

/// The guest's code as linked into this program.
pub fn image() -> Image {
    let at = |symbol: &'static u8| std::ptr::from_ref(symbol);
    // SAFETY: the symbols are defined above, in this order, in one section.
    let (code, take, nmi, fault, start_up, end) = unsafe {
        (
            at(&ipi_probe_code),
            at(&ipi_probe_take),
            at(&ipi_probe_nmi),
            at(&ipi_probe_fault),
            at(&ipi_probe_start_up),
            at(&ipi_probe_end),
        )
    };
    let offset = |of: *const u8| of.addr() - code.addr();
    // SAFETY: all bytes between the first and the last symbol are the code.
    let all = unsafe { std::slice::from_raw_parts(code, offset(end)) };
    let (code_part, start_up_part) = all.split_at(offset(start_up));
    let address = |of| u32::try_from(CODE).unwrap_or(0) + u32::try_from(offset(of)).unwrap_or(0);
    Image {
        code: code_part,
        start_up: start_up_part,
        handlers: [address(take), address(nmi), address(fault)],
    }
}
