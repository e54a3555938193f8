//! A VM of bare vCPUs, each in a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, register_signal_handler};

use crate::Error;
use crate::guest::{self, Program};
use crate::missing::MissingPage;

/// How the guest sends IPIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// xAPIC: the ICR in memory.
    Mmio,
    /// x2APIC: the ICR as an MSR.
    Msr,
    /// KVM_HC_SEND_IPI.
    Hypercall,
}

/// Where vCPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All on the first CPU.
    Shared,
    /// Each on the CPU of its number.
    Apart,
    /// All but the last on the first CPU, that one on the second.
    Crowd,
    /// Wherever the host puts them.
    Free,
}

/// What a VM is made of.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How it sends.
    pub via: Via,
    /// What it does.
    pub program: Program,
    /// Number of vCPUs, up to 255.
    pub vcpus: u8,
    /// Low half of the ICR for `Ping` and `Gap`.
    pub icr: u32,
    /// Where they run.
    pub place: Place,
    /// Only that many of the vCPUs ever run.
    pub running: u8,
    /// To how many vCPUs `Ping` sends, in as many IPIs; 0: one IPI to whomever `icr` says.
    pub burst: u8,
}

/// A VM whose vCPUs run.
pub struct Vm {
    memory: GuestMemoryMmap,
    threads: Vec<JoinHandle<Result<(), Error>>>,
    thread_ids: Vec<i32>,
    leave: Arc<AtomicBool>,
    missing: Option<MissingPage>,
    // Kept until the threads have ended.
    _vm: VmFd,
}

/// Its only task is to end KVM_RUN.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Vm {
    /// Starts the vCPUs.
    pub fn start(kvm: &Kvm, config: Config) -> Result<Self, Error> {
        register_signal_handler(libc::SIGUSR1, on_signal).map_err(|e| Error::setup("signal", e))?;
        let vm = kvm
            .create_vm()
            .map_err(|e| Error::setup("create a VM", e))?;
        vm.set_tss_address(0xfffb_d000)
            .map_err(|e| Error::setup("set the TSS", e))?;
        vm.create_irq_chip()
            .map_err(|e| Error::setup("create the irqchip", e))?;
        let size = usize::try_from(guest::MEMORY).unwrap_or(0);
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), size)])
            .map_err(|e| Error::setup("map memory", e))?;
        let address = memory
            .get_host_address(GuestAddress(0))
            .map_err(|e| Error::setup("map memory", e))?;
        let region = kvm_userspace_memory_region {
            memory_size: guest::MEMORY,
            userspace_addr: address as u64,
            ..Default::default()
        };
        // SAFETY: the memory lives in `Self` beside the VM, and goes after it.
        unsafe { vm.set_user_memory_region(region) }.map_err(|e| Error::setup("give memory", e))?;
        load(&memory, config).map_err(|e| Error::setup("load the guest", e))?;

        let missing = match config.program {
            Program::Stuck => Some(MissingPage::hold(address as u64 + guest::MISSING)?),
            _ => None,
        };
        let mut vcpus = Vec::new();
        for index in 0..config.vcpus {
            vcpus.push(vcpu(kvm, &vm, index)?);
        }
        let leave = Arc::new(AtomicBool::new(false));
        let (send, receive) = std::sync::mpsc::channel();
        let threads = vcpus
            .into_iter()
            .enumerate()
            .map(|(index, vcpu)| {
                let send = send.clone();
                let runs = index < usize::from(config.running);
                let leave = leave.clone();
                let cpu = match config.place {
                    Place::Shared => Some(0),
                    Place::Apart => runs.then_some(index),
                    Place::Crowd => Some(usize::from(index + 1 == usize::from(config.vcpus))),
                    Place::Free => None,
                };
                thread::spawn(move || {
                    let _ = send.send((index, thread_id()));
                    drop(send);
                    run(vcpu, cpu, runs, &leave)
                })
            })
            .collect();
        drop(send);
        let mut thread_ids: Vec<(usize, i32)> = receive.iter().collect();
        thread_ids.sort_unstable();
        Ok(Self {
            memory,
            threads,
            thread_ids: thread_ids.into_iter().map(|(_, tid)| tid).collect(),
            leave,
            missing,
            _vm: vm,
        })
    }

    /// A word of the guest's memory.
    pub fn word(&self, at: u64) -> u32 {
        self.memory.read_obj(GuestAddress(at)).unwrap_or(0)
    }

    /// The vCPUs' threads, in their order.
    pub fn thread_ids(&self) -> Vec<i32> {
        self.thread_ids.clone()
    }

    /// Tells the guest to come to its end.
    pub fn stop(&self) -> Result<(), Error> {
        self.memory
            .write_obj(1_u32, GuestAddress(guest::STOP))
            .map_err(|e| Error::setup("stop the guest", e))
    }

    /// Ends all vCPUs, also those that wait for a SIPI that will never come.
    pub fn end(self) -> Result<(), Error> {
        self.leave.store(true, Ordering::SeqCst);
        let mut result = self.missing.as_ref().map_or(Ok(()), MissingPage::bring);
        for thread in self.threads {
            while !thread.is_finished() {
                // It fails only if the thread has ended meanwhile.
                let _ = thread.kill(libc::SIGUSR1);
                thread::sleep(std::time::Duration::from_millis(1));
            }
            let ended = thread.join().unwrap_or(Err(Error::Panic));
            result = result.and(ended);
        }
        result
    }
}

fn load(memory: &GuestMemoryMmap, config: Config) -> Result<(), vm_memory::GuestMemoryError> {
    let image = guest::image();
    let write = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at));
    let word = |at: u64, value: u32| memory.write_obj(value, GuestAddress(at));
    write(guest::CODE, image.code)?;
    write(guest::START_UP, image.start_up)?;
    for (slot, descriptor) in [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]
        .into_iter()
        .enumerate()
    {
        memory.write_obj(descriptor, GuestAddress(guest::GDT + slot as u64 * 8))?;
    }
    let table = |base: u64, limit: u16| {
        let mut bytes = limit.to_le_bytes().to_vec();
        bytes.extend((base as u32).to_le_bytes());
        bytes
    };
    write(guest::IDTR, &table(guest::IDT, 256 * 8 - 1))?;
    write(guest::GDTR, &table(guest::GDT, 3 * 8 - 1))?;
    let [take, nmi, fault] = image.handlers;
    for vector in 0..256_u64 {
        let handler = match vector {
            2 => nmi,
            0..32 => fault,
            _ => take,
        };
        let gate =
            u64::from(handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | u64::from(handler >> 16) << 48;
        memory.write_obj(gate, GuestAddress(guest::IDT + vector * 8))?;
    }
    word(
        guest::VIA,
        match config.via {
            Via::Mmio => 0,
            Via::Msr => 1,
            Via::Hypercall => 2,
        },
    )?;
    word(guest::PROGRAM, config.program as u32)?;
    word(guest::VCPUS, config.vcpus.into())?;
    word(guest::ICR, config.icr)?;
    let all = config.vcpus.into();
    let (sent, waited) = match config.burst {
        0 => (2, all),
        receivers => (u32::from(receivers) + 1, u32::from(receivers) + 1),
    };
    word(guest::SENT, sent)?;
    word(guest::WAITED, waited)?;
    let receivers = if config.icr & ALL_BUT_SELF == ALL_BUT_SELF {
        (1_u32 << config.vcpus.min(31)) - 2
    } else {
        2
    };
    word(guest::BITMAP, receivers)?;
    word(guest::SEND_CYCLES, u32::MAX)?;
    word(guest::EOI_CYCLES, u32::MAX)?;
    for (slot, action) in ACTIONS.iter().enumerate() {
        word(guest::ACTIONS + slot as u64 * 4, *action)?;
    }
    Ok(())
}

/// The ICR's shorthand.
pub const ALL_BUT_SELF: u32 = 0xc0000;

/// What the storm picks from, less the vector: to one (often), logical, lowest
/// priority, self, all but self, all, NMI; the last is INIT and SIPI.
const ACTIONS: [u32; 16] = [
    0x4000, 0x4000, 0x4000, 0x4000, 0x4000, 0x4000, 0x4000, 0x4800, 0x4800, 0x4900, 0x44000,
    0xc4000, 0xc4000, 0x84000, 0x4400, 0x4500,
];

fn vcpu(kvm: &Kvm, vm: &VmFd, index: u8) -> Result<VcpuFd, Error> {
    let failed = |e| Error::setup("set a vCPU up", e);
    let vcpu = vm.create_vcpu(index.into()).map_err(failed)?;
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed)?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0x00ff_ffff | u32::from(index) << 24,
            0xb | 0x1f => entry.edx = index.into(),
            _ => {}
        }
    }
    vcpu.set_cpuid2(&cpuid).map_err(failed)?;
    let mut sregs = vcpu.get_sregs().map_err(failed)?;
    let flat = |selector, type_| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat(8, 0xb);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        *data = flat(16, 3);
    }
    sregs.gdt.base = guest::GDT;
    sregs.gdt.limit = 3 * 8 - 1;
    sregs.idt.base = guest::IDT;
    sregs.idt.limit = 256 * 8 - 1;
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs).map_err(failed)?;
    let regs = kvm_regs {
        rip: guest::CODE,
        rsp: guest::STACKS + (u64::from(index) + 1) * 1024,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(failed)?;
    enable_apic(&vcpu).map_err(failed)?;
    vcpu.set_mp_state(kvm_bindings::kvm_mp_state {
        mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE,
    })
    .map_err(failed)?;
    Ok(vcpu)
}

/// Software enable, so that IPIs are accepted before the vCPU's first instruction.
fn enable_apic(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut lapic = vcpu.get_lapic()?;
    for (register, byte) in lapic.regs[0xf0..0xf4]
        .iter_mut()
        .zip(0x1ff_u32.to_le_bytes())
    {
        *register = byte.cast_signed() as _;
    }
    vcpu.set_lapic(&lapic)
}

fn run(mut vcpu: VcpuFd, cpu: Option<usize>, runs: bool, leave: &AtomicBool) -> Result<(), Error> {
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    while !leave.load(Ordering::SeqCst) {
        if !runs {
            thread::sleep(std::time::Duration::from_millis(1));
            continue;
        }
        match vcpu.run() {
            Ok(VcpuExit::IoOut(guest::PORT_DONE, _)) => return Ok(()),
            Ok(VcpuExit::IoOut(guest::PORT_FAULT, _)) => {
                let rip = vcpu.get_regs().map_or(0, |r| r.rip);
                return Err(Error::Guest(format!("an exception, rip {rip:#x}")));
            }
            Ok(exit) => return Err(Error::Guest(format!("{exit:?}"))),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(e) => return Err(Error::setup("run a vCPU", e)),
        }
    }
    Ok(())
}

/// The kernel's number of this thread.
pub fn thread_id() -> i32 {
    // SAFETY: takes nothing, and can't fail.
    unsafe { libc::gettid() }
}

/// Keeps this thread on one CPU.
pub fn pin(cpu: usize) -> Result<(), Error> {
    // SAFETY: the set is a plain array of bits; all zero is an empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET checks the index against the set's size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is as large as is told.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(Error::setup("pin a vCPU", std::io::Error::last_os_error())),
    }
}
