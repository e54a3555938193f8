//! Guests of a few instructions on this machine's KVM: how they end, the serial
//! port, a disk, and signals.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::payload::{NEXT, PVPANIC, Payload, RESET, Ring, WRITE, virtio};
use crate::{no_kvm, vmm};

fn run(payload: &Payload, options: &[&str]) -> Output {
    let kernel = payload.elf();
    vmm(kernel.path()).args(options).output().unwrap()
}

#[track_caller]
fn assert_end(output: &Output, code: i32, text: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), text, "{errors}");
    assert_eq!(output.status.code(), Some(code), "{errors}");
}

#[test]
fn power_off_is_0() {
    if no_kvm() {
        return;
    }
    let payload = Payload::default().print("OK").power_off();
    assert_end(&run(&payload, &[]), 0, "OK");
}

#[test]
fn several_vcpus_end_with_the_first() {
    if no_kvm() {
        return;
    }
    let payload = Payload::default().print("OK").power_off();
    assert_end(&run(&payload, &["--cpus", "4"]), 0, "OK");
}

#[test]
fn reboot_is_3() {
    if no_kvm() {
        return;
    }
    let payload = Payload::default().print("OK").out8(RESET, 1).halt();
    assert_end(&run(&payload, &[]), 3, "OK");
}

#[test]
fn a_triple_fault_is_4() {
    if no_kvm() {
        return;
    }
    let output = run(&Payload::default().print("OK").triple_fault(), &[]);
    assert_end(&output, 4, "OK");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_panic_is_5() {
    if no_kvm() {
        return;
    }
    let payload = Payload::default().print("OK").out8(PVPANIC, 1).halt();
    assert_end(&run(&payload, &[]), 5, "OK");
}

/// Far more than the port's buffer holds, written at once.
#[test]
fn no_input_is_lost() {
    if no_kvm() {
        return;
    }
    let line = format!("{}\n", "VMFIRST GO ".repeat(100));
    let kernel = Payload::default().echo_line().power_off().elf();
    let mut child = vmm(kernel.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(line.as_bytes()).unwrap();
    assert_end(&child.wait_with_output().unwrap(), 0, &line);
}

#[test]
fn input_may_be_a_file() {
    if no_kvm() {
        return;
    }
    let line = format!("{}\n", "x".repeat(1000));
    let mut input = NamedTempFile::new().unwrap();
    input.write_all(line.as_bytes()).unwrap();
    let kernel = Payload::default().echo_line().power_off().elf();
    let output = vmm(kernel.path())
        .stdin(File::open(input.path()).unwrap())
        .output()
        .unwrap();
    assert_end(&output, 0, &line);
}

/// A driver for virtio-mmio in a dozen writes: reads sector 1 of the disk, and prints its
/// first and its last byte.
pub fn read_sector_1() -> Payload {
    request(0, 1).print_from(DATA).print_from(DATA + 511)
}

/// The same, but it writes a sector and prints the status.
fn write_sector(sector: u32) -> Payload {
    request(1, sector).print_from(STATUS)
}

const HEADER: u32 = 0x30_3000;
const DATA: u32 = 0x30_4000;
const STATUS: u32 = 0x30_5000;

/// Has the disk read (type 0) or write (type 1) a sector, and waits for it.
fn request(kind: u32, sector: u32) -> Payload {
    let ring = Ring(0x30_0000);
    let direction = if kind == 0 { WRITE } else { 0 };
    Payload::default()
        .set_up(virtio(0), 0, &[ring])
        .poke32(HEADER, kind)
        .poke32(HEADER + 8, sector)
        .poke32(STATUS, 0xff)
        .describe(ring, 0, HEADER, 16, NEXT | 1 << 16)
        .describe(ring, 1, DATA, 512, NEXT | direction | 2 << 16)
        .describe(ring, 2, STATUS, 1, WRITE)
        .offer(virtio(0), 0, ring, &[0])
        .wait_for_change(STATUS, 0xff)
}

/// A disk with a sector of zeros (digits), and one of ones.
pub fn two_sectors() -> NamedTempFile {
    let mut disk = NamedTempFile::new().unwrap();
    disk.write_all(&[b'0'; 512]).unwrap();
    disk.write_all(&[b'1'; 512]).unwrap();
    disk
}

#[test]
fn a_guest_reads_its_disk() {
    if no_kvm() {
        return;
    }
    let payload = read_sector_1().power_off();
    let disk = two_sectors();
    let path = disk.path().to_str().unwrap();
    assert_end(&run(&payload, &["--disk", path]), 0, "11");
    let read_only = format!("{path},ro");
    assert_end(&run(&payload, &["--disk", &read_only]), 0, "11");
}

/// The device's type stands in the register at 8: 2 is a disk, 4 a source of random bytes.
#[test]
fn a_guest_finds_its_devices_in_order() {
    if no_kvm() {
        return;
    }
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(512).unwrap();
    let payload = Payload::default()
        .print_from(0xd000_0008)
        .print_from(0xd000_1008)
        .power_off();
    let options = ["--rng", "--disk", disk.path().to_str().unwrap()];
    assert_end(&run(&payload, &options), 0, "\x02\x04");
}

/// That it is a guest stands in leaf 1; KVM's signature, "KVMKVMKVM", begins in EBX.
#[test]
fn a_guest_sees_kvm_unless_it_is_hidden() {
    if no_kvm() {
        return;
    }
    let guest = || {
        let payload = Payload::default().print_cpuid_ecx_bit(1, 31);
        payload.print_cpuid_bl(0x4000_0000).power_off()
    };
    for set in [&[][..], &["--pv", "qemu"], &["--pv", "all"]] {
        assert_end(&run(&guest(), set), 0, "1K");
    }
    let hidden = run(&guest(), &["--pv", "none"]);
    assert_eq!(hidden.status.code(), Some(0));
    assert_eq!(hidden.stdout[0], b'0');
    assert_ne!(hidden.stdout[1..], *b"K");
}

/// Leaf 1: VMX in bit 5 of ECX; leaf AH: the counters' version in EAX; leaf 80000001H: SVM in
/// bit 2 of ECX. What KVM doesn't have the guest never sees.
#[test]
fn a_guest_has_no_nested_machines_and_no_counters_unless_it_may() {
    if no_kvm() {
        return;
    }
    let features = kvm_ioctls::Kvm::new()
        .unwrap()
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .unwrap();
    let of = |leaf: u32| {
        features
            .as_slice()
            .iter()
            .find(|e| e.function == leaf)
            .copied()
    };
    let bit = |leaf, bit: u32| of(leaf).map_or(0, |e| e.ecx >> bit & 1);
    let guest = || {
        let payload = Payload::default().print_cpuid_ecx_bit(1, 5);
        payload.print_cpuid_ecx_bit(0x8000_0001, 2).power_off()
    };
    assert_end(&run(&guest(), &[]), 0, "00");
    let there = format!("{}{}", bit(1, 5), bit(0x8000_0001, 2));
    assert_end(&run(&guest(), &["--cpu", "nested,pmu"]), 0, &there);
}

/// A machine that runs; it is killed when the test fails.
pub struct Running {
    pub vmm: Child,
    _kernel: NamedTempFile,
}

impl Running {
    /// Waits for the guest's first byte.
    pub fn of(vmm: Child, kernel: NamedTempFile) -> Self {
        let mut running = Self {
            vmm,
            _kernel: kernel,
        };
        let output = running.vmm.stdout.as_mut().unwrap();
        output.read_exact(&mut [0]).unwrap();
        running
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.vmm
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.vmm
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended.
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

/// Starts a guest and waits for its first byte.
pub fn start(payload: Payload, options: &[&str]) -> Running {
    let kernel = payload.elf();
    let child = vmm(kernel.path())
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Running::of(child, kernel)
}

#[track_caller]
pub fn assert_ended_by(mut running: Running, signal: Signal) {
    let pid = Pid::from_child(&running.vmm);
    kill_process(pid, signal).unwrap();
    let status = running.vmm.wait().unwrap();
    // Ended by its own decision, not by the signal's default.
    assert_eq!(status.signal(), None);
    assert_eq!(status.code(), Some(128 + signal.as_raw()));
}

#[test]
fn signals_end_a_machine() {
    if no_kvm() {
        return;
    }
    // The guest doesn't know of a power button.
    let options = ["--stop-timeout", "0"];
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let running = start(Payload::default().print("x").halt(), &options);
        assert_ended_by(running, signal);
    }
}

/// A halting guest, started by a program that has first called `prepare` on each signal.
fn start_after(prepare: fn(i32)) -> Running {
    let kernel = Payload::default().print("x").halt().elf();
    let mut command = vmm(kernel.path());
    command.args(["--stop-timeout", "0"]).stdout(Stdio::piped());
    let all = move || {
        (1..=40).for_each(prepare);
        Ok(())
    };
    // SAFETY: what runs in the child before it becomes another program is a system call.
    unsafe { command.pre_exec(all) };
    Running::of(command.spawn().unwrap(), kernel)
}

fn block(signal: i32) {
    // SAFETY: the set is a local one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

fn ignore(signal: i32) {
    if signal != libc::SIGTERM {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[test]
fn signals_that_the_starter_blocked_arrive() {
    if no_kvm() {
        return;
    }
    for signal in [Signal::TERM, Signal::QUIT] {
        assert_ended_by(start_after(block), signal);
    }
}

#[test]
fn signals_that_the_starter_ignores_stay_ignored() {
    if no_kvm() {
        return;
    }
    let running = start_after(ignore);
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
        kill_process(Pid::from_child(&running), signal).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_ended_by(running, Signal::TERM);
}

/// Sector 4096 lies beyond what the process may write.
#[test]
fn a_file_that_may_not_grow_is_an_error_of_the_guests_disk() {
    if no_kvm() {
        return;
    }
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(4 << 20).unwrap();
    let kernel = write_sector(4096).power_off().elf();
    let mut command = vmm(kernel.path());
    command.arg("--disk").arg(disk.path());
    let limit = || {
        let bytes = libc::rlimit {
            rlim_cur: 1 << 20,
            rlim_max: 1 << 20,
        };
        // SAFETY: the kernel reads one rlimit.
        unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &bytes) };
        Ok(())
    };
    // SAFETY: what runs in the child before it becomes another program is a system call.
    unsafe { command.pre_exec(limit) };
    // VIRTIO_BLK_S_IOERR
    assert_end(&command.output().unwrap(), 0, "\x01");
}

#[test]
fn a_second_interrupt_ends_a_machine_at_once() {
    if no_kvm() {
        return;
    }
    let options = ["--stop-timeout", "100000"];
    let running = start(Payload::default().print("x").halt(), &options);
    kill_process(Pid::from_child(&running.vmm), Signal::INT).unwrap();
    // Two signals that are pending at the same time would be one.
    std::thread::sleep(Duration::from_millis(200));
    assert_ended_by(running, Signal::INT);
}

/// The guest polls the status of the power button, and powers off when it is pressed.
#[test]
fn a_signal_presses_the_power_button() {
    if no_kvm() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let payload = Payload::default().print("x").wait_for_power_button();
        let options = ["--stop-timeout", "100000"];
        let mut running = start(payload.print("y").power_off(), &options);
        kill_process(Pid::from_child(&running.vmm), signal).unwrap();
        assert_eq!(running.vmm.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_signal_ends_a_machine_whose_output_nobody_reads() {
    if no_kvm() {
        return;
    }
    let running = start(
        Payload::default().print_without_end(),
        &["--stop-timeout", "0"],
    );
    let pipe = running.vmm.stdout.as_ref().unwrap();
    let mut before = 0;
    // Until the pipe is full.
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = rustix::io::ioctl_fionread(pipe).unwrap();
        if now == before {
            break;
        }
        before = now;
    }
    assert_ended_by(running, Signal::TERM);
}
