//! What a guest gives back of its memory, and how the host has the rest.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use crate::guests::start;
use crate::payload::{NEXT, Payload, Ring, WRITE, virtio};
use crate::{no_kvm, run_command, vmm};

const MIB: u64 = 1 << 20;
/// Where the guest's memory is that is used for a while, and how much of it.
const FREED: u32 = 256 << 20;
const BYTES: u32 = 256 << 20;

/// Uses 256 MiB and prints T; at a line of input reports them as free, and prints R; powers
/// off when told.
fn reporter() -> Payload {
    let ring = Ring(0x30_0000);
    let quarter = BYTES / 4;
    let queues = [Ring(0x31_0000), Ring(0x32_0000), ring];
    let mut payload = Payload::default()
        .touch(FREED, BYTES)
        // The device's one feature: reporting.
        .set_up(virtio(0), 1 << 5, &queues)
        .print("T")
        .echo_line();
    for n in 0..4 {
        let next = if n < 3 { NEXT | (n + 1) << 16 } else { 0 };
        payload = payload.describe(ring, n, FREED + n * quarter, quarter, WRITE | next);
    }
    payload
        .offer(virtio(0), 2, ring, &[0])
        // The used ring's index.
        .wait_for_change(ring.0 + 0x2002, 0)
        .print("R")
        .wait_for_power_button()
        .power_off()
}

/// Bytes of anonymous memory that a process has in the host.
fn anonymous(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

fn read_until(child: &mut Child, wanted: u8) {
    let output = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while byte[0] != wanted {
        output.read_exact(&mut byte).unwrap();
    }
}

/// The bytes in the host when the guest has used 256 MiB, and when it has given them back.
fn run(options: &[&str]) -> (u64, u64) {
    let kernel = reporter().elf();
    let mut child = run_command()
        .args(["--kernel", kernel.path().to_str().unwrap()])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    read_until(&mut child, b'T');
    let used = anonymous(&child);
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    read_until(&mut child, b'R');
    let left = anonymous(&child);
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    (used, left)
}

#[test]
fn what_a_guest_reports_as_free_is_the_host_s_again() {
    if no_kvm() {
        return;
    }
    for memory in [
        "512M,reporting=on",
        "512M,reporting=on,thp=on",
        "512M,reporting=on,thp=off",
    ] {
        let (used, left) = run(&["--memory", memory]);
        assert!(used > 256 * MIB, "{memory}: {used}");
        assert!(left < 16 * MIB, "{memory}: {left}");
    }
}

/// Huge pages as the option says: `thp=off` is seen in the kernel's flags of the mapping.
#[test]
fn the_host_is_told_how_to_have_the_memory() {
    if no_kvm() {
        return;
    }
    for (memory, flag) in [
        ("64M,thp=on", " hg "),
        ("64M,thp=off", " nh "),
        ("64M,ksm=on", " mg "),
    ] {
        let kernel = Payload::default()
            .print("U")
            .wait_for_power_button()
            .power_off()
            .elf();
        let mut child = run_command()
            .args([
                "--kernel",
                kernel.path().to_str().unwrap(),
                "--memory",
                memory,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0];
        let read = child.stdout.as_mut().unwrap().read_exact(&mut up);
        if read.is_err() {
            // The kernel has not that.
            let mut errors = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut errors)
                .unwrap();
            assert!(errors.contains("leave it away"), "{errors}");
            assert_eq!(child.wait().unwrap().code(), Some(1));
            continue;
        }
        let maps = fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap();
        let flags = maps
            .lines()
            .filter_map(|line| line.strip_prefix("VmFlags:"));
        let told = flags
            .map(|flags| format!(" {} ", flags.trim()))
            .any(|f| f.contains(flag));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told, "{memory}");
    }
}

/// The flags of the mapping of the guest's 64 MiB, as the kernel has them.
#[test]
fn a_core_dump_has_nothing_of_the_guest() {
    if no_kvm() {
        return;
    }
    let guest = Payload::default().print("x").halt();
    let machine = start(guest, &[]);
    let maps = fs::read_to_string(format!("/proc/{}/smaps", machine.vmm.id())).unwrap();
    let mut flags = maps.split("VmFlags:").zip(maps.split("VmFlags:").skip(1));
    let (_, of_guest) = flags
        .find(|(mapping, _)| mapping.contains("Size:              65536 kB"))
        .unwrap();
    let of_guest = of_guest.lines().next().unwrap();
    assert!(
        of_guest.split_whitespace().any(|flag| flag == "dd"),
        "{of_guest}"
    );
}

#[test]
fn a_size_that_is_there_twice_is_refused() {
    let output = vmm("/nowhere".as_ref())
        .args(["--memory", "1G"])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("twice"), "{errors}");
}
