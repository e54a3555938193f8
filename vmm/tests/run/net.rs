//! The network device on a real tap, confined as by default.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write, stderr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::guests::{assert_ended_by, start};
use crate::payload::{Payload, Ring, WRITE, virtio};
use crate::{no_kvm, vmm, wait_until};

/// A tap that stays until this is dropped.
struct Tap {
    name: String,
}

/// The kernel's request for a device by its name.
fn request(name: &str, flags: i32) -> libc::ifreq {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: flags as libc::c_short,
        },
    }
}

/// An open tap: made if it isn't there.
fn attach(name: &str) -> File {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = request(name, libc::IFF_TAP | libc::IFF_NO_PI);
    // Busy: a program that another test is about to start still has this test's descriptor.
    wait_until("the tap is free", || {
        // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq.
        let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        let error = std::io::Error::last_os_error();
        assert!(
            done == 0 || error.kind() == ErrorKind::ResourceBusy,
            "{error}"
        );
        done == 0
    });
    tun
}

fn persist(tun: &File, on: i32) {
    // SAFETY: the descriptor is open, and the request takes a number.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, on) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

impl Tap {
    /// A tap that is up, and on which the host says nothing by itself. None where the
    /// machine has no taps, which is said past the test's own capture.
    fn new(what: &str) -> Option<Self> {
        if !Path::new("/dev/net/tun").exists() {
            let _ = writeln!(stderr(), "SKIP: this machine has no /dev/net/tun");
            return None;
        }
        let name = format!("vmf{what}{}", std::process::id() % 100_000);
        persist(&attach(&name), 1);
        let tap = Self { name };
        let quiet = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.name);
        // A host without IPv6 has nothing to disable.
        let _ = std::fs::write(quiet, "1");
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM);
        let mut request = request(&tap.name, libc::IFF_UP);
        // SAFETY: the descriptor is open, and the kernel reads one ifreq.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        Some(tap)
    }

    fn option(&self) -> String {
        format!("tap={}", self.name)
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/sys/class/net/{}/{name}", self.name)).unwrap()
    }

    /// Waits until a file of the device says this.
    #[track_caller]
    fn expect(&self, name: &str, value: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.file(name).trim() != value {
            assert!(Instant::now() < deadline, "{name}: {}", self.file(name));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a frame from the host.
    fn send(&self, frame: &[u8]) {
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW);
        let mut to: libc::sockaddr_ll = no_address();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.file("ifindex").trim().parse().unwrap();
        // SAFETY: frame and address are there for the call, with their sizes.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        assert_eq!(sent, frame.len() as isize);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        persist(&attach(&self.name), 0);
    }
}

fn no_address() -> libc::sockaddr_ll {
    // SAFETY: numbers and arrays of numbers, which may be zero.
    unsafe { std::mem::zeroed() }
}

fn socket(family: i32, kind: i32) -> OwnedFd {
    // SAFETY: the call takes numbers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

const RX: Ring = Ring(0x30_0000);
const TX: Ring = Ring(0x31_0000);
const SENT: u32 = 0x32_0000;
const BUFFERS: u32 = 0x33_0000;
/// Checksums for and of the guest, long segments of both kinds for it, mergeable buffers.
const FEATURES: u32 = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 15;

/// A guest that sends a frame of 60 bytes, prints "x", and when a frame has come prints
/// the number of its buffers (of 64 bytes) and the first byte of the third.
fn guest() -> Payload {
    let mut payload = Payload::default().set_up(virtio(0), FEATURES, &[RX, TX]);
    for index in 0..4 {
        payload = payload.describe(RX, index, BUFFERS + 64 * index, 64, WRITE);
    }
    payload = payload.offer(virtio(0), 0, RX, &[0, 1, 2, 3]);
    // To everybody, behind a header of 12 bytes.
    for at in [12, 16] {
        payload = payload.poke32(SENT + at, u32::MAX);
    }
    payload
        .describe(TX, 0, SENT, 72, 0)
        .offer(virtio(0), 1, TX, &[0])
        .print("x")
        .wait_for_change(RX.0 + 0x2002, 0)
        .print_from(BUFFERS + 10)
        .print_from(BUFFERS + 128)
        .halt()
}

#[test]
fn frames_pass_in_both_directions() {
    if no_kvm() {
        return;
    }
    let Some(tap) = Tap::new("a") else {
        return;
    };
    let mut running = start(guest(), &["--net", &tap.option()]);
    tap.expect("statistics/rx_packets", "1");
    let mut frame = [b'Z'; 150];
    frame[..6].fill(0xff);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    tap.send(&frame);
    let mut printed = [0; 2];
    let output = running.vmm.stdout.as_mut().unwrap();
    output.read_exact(&mut printed).unwrap();
    // 12 and 150 bytes in buffers of 64.
    assert_eq!(printed, [3, b'Z']);
    assert_ended_by(running, Signal::HUP);
}

#[test]
fn a_tap_that_another_program_has_is_refused() {
    let Some(tap) = Tap::new("b") else {
        return;
    };
    let _held = attach(&tap.name);
    let kernel = Payload::default().halt().elf();
    let output = vmm(kernel.path())
        .args(["--net", &tap.option()])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("in use"), "{errors}");
}
