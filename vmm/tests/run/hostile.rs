//! What a hostile guest tries, and does not get.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::guests::{Running, start};
use crate::payload::{NEXT, Payload, Ring, WRITE, virtio};
use crate::{no_kvm, wait_until};

const RING: Ring = Ring(0x30_0000);
const HEADER: u32 = 0x30_4000;
const STATUS: u32 = 0x30_5000;
const DATA: u32 = 0x40_0000;

/// Offers its first disk 256 reads, each of `segments` times the same MiB of memory.
fn reads(segments: u32, mib: u32) -> Payload {
    let last = segments + 1;
    let payload = Payload::default()
        .set_up_with(virtio(0), 0, &[RING], 256)
        .poke32(HEADER, 0)
        .poke32(HEADER + 8, 0)
        .describe(RING, 0, HEADER, 16, NEXT | 1 << 16);
    let payload = (1..last).fold(payload, |payload, index| {
        let next = (index + 1) << 16;
        payload.describe(RING, index, DATA, mib << 20, NEXT | WRITE | next)
    });
    payload
        .describe(RING, last, STATUS, 1, WRITE)
        .offer_first(virtio(0), RING, 256)
        .print("x")
        .halt()
}

fn disk(bytes: u64) -> NamedTempFile {
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(bytes).unwrap();
    disk
}

fn start_with(payload: Payload, disk: &NamedTempFile) -> Running {
    let options = ["--stop-timeout", "100000", "--disk"];
    start(
        payload,
        &[&options[..], &[disk.path().to_str().unwrap()]].concat(),
    )
}

/// 1 TiB of reads of 4 GiB, of which each is too long, and 8 GiB of such as are allowed.
#[test]
fn a_second_interrupt_ends_a_machine_whatever_is_queued() {
    if no_kvm() {
        return;
    }
    let disk = disk(8 << 30);
    for (segments, mib) in [(128, 32), (1, 31)] {
        let mut machine = start_with(reads(segments, mib), &disk);
        for _ in 0..2 {
            kill_process(Pid::from_child(&machine), Signal::INT).unwrap();
            // Two signals that are pending at the same time would be one.
            sleep(Duration::from_millis(200));
        }
        let ended = || machine.try_wait().unwrap().is_some();
        wait_until("the machine has ended", ended);
    }
}

/// The folder in /proc of a machine's thread.
fn task(machine: &Running, name: &str) -> PathBuf {
    let tasks = Path::new("/proc")
        .join(machine.id().to_string())
        .join("task");
    let tasks = tasks.read_dir().unwrap().map(|task| task.unwrap().path());
    let named = |task: &PathBuf| read_to_string(task.join("comm")).unwrap().trim() == name;
    tasks.into_iter().find(named).unwrap()
}

#[test]
fn a_paused_machine_leaves_its_disks_alone() {
    if no_kvm() {
        return;
    }
    let (disk, run_dir) = (disk(8 << 30), tempfile::tempdir().unwrap());
    let dir = run_dir.path().to_str().unwrap();
    let path = disk.path().to_str().unwrap();
    let options = ["--name", "web", "--run-dir", dir, "--disk", path];
    let machine = start(reads(1, 31), &options);
    let io = task(&machine, "vmm-io");
    let read = || -> u64 {
        let text = read_to_string(io.join("io")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
        line.unwrap().parse().unwrap()
    };
    let command = |word| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vmm"));
        let status = command.args([word, "web", "--run-dir", dir]).status();
        assert!(status.unwrap().success(), "{word}");
    };
    command("pause");
    let paused = read();
    sleep(Duration::from_millis(300));
    assert_eq!(read(), paused);
    assert!(paused < 256 * (31 << 20), "there is nothing left to do");
    command("resume");
    wait_until("it goes on", || read() > paused);
}

/// Sizes that no queue has, and addresses that are none, as often as it can.
#[test]
fn a_guest_does_not_write_the_hosts_log() {
    if no_kvm() {
        return;
    }
    let disk = disk(512);
    let payload = (0..2000).fold(Payload::default(), |payload, _| {
        payload
            .poke32(virtio(0) + 0x38, 3)
            .poke32(virtio(0) + 0x80, 1)
    });
    // A ring outside memory, again and again: the device says so, once.
    let broken = [Ring(0xc000_0000)];
    let payload = (0..20).fold(payload, |payload, _| {
        payload
            .poke32(virtio(0) + 0x70, 0)
            .set_up(virtio(0), 0, &broken)
            .poke32(virtio(0) + 0x50, 0)
    });
    let kernel = payload.print("OK").power_off().elf();
    let output = crate::vmm(kernel.path())
        .args(["--disk", disk.path().to_str().unwrap()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.lines().count() <= 1, "{errors}");
}
