//! What the user gets wrong: one line on standard error, a status that says so, nothing started.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::payload::Payload;
use crate::{no_kvm, vmm};

/// Runs with `options`; returns the status and the lines on standard error.
fn refusal(kernel: &Path, options: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = vmm(kernel).args(options).output().unwrap();
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8(output.stderr).unwrap();
    (
        output.status.code(),
        errors.lines().map(String::from).collect(),
    )
}

#[track_caller]
fn assert_refused(kernel: &Path, options: &[&str], word: &str) {
    let (code, lines) = refusal(kernel, options);
    assert_eq!(code, Some(1), "{lines:?}");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(word), "{lines:?}");
}

fn file(bytes: usize) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&vec![0; bytes]).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn files_that_are_missing() {
    let kernel = Payload::default().halt().elf();
    assert_refused(Path::new("/nowhere/kernel"), &[], "/nowhere/kernel");
    assert_refused(kernel.path(), &["--initrd", "/nowhere/i"], "/nowhere/i");
    assert_refused(kernel.path(), &["--disk", "/nowhere/d"], "/nowhere/d");
}

#[test]
fn files_that_are_no_files() {
    let kernel = Payload::default().halt().elf();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    for none in [folder.path(), &fifo] {
        let text = none.to_str().unwrap();
        assert_refused(none, &[], "no ordinary file");
        assert_refused(kernel.path(), &["--initrd", text], "no ordinary file");
    }
}

#[test]
fn disks_that_are_none() {
    let kernel = Payload::default().halt().elf();
    let odd = file(1000);
    assert_refused(kernel.path(), &["--disk", path(&odd)], "512");
    assert_refused(kernel.path(), &["--disk", path(&file(0))], "512");
    assert_refused(kernel.path(), &["--disk", "/tmp,ro"], "block device");
}

#[test]
fn a_disk_that_another_machine_has() {
    let kernel = Payload::default().halt().elf();
    let disk = file(512);
    let other = File::open(disk.path()).unwrap();
    other.lock_shared().unwrap();
    assert_refused(kernel.path(), &["--disk", path(&disk)], "in use");
    drop(other);
    // Nor twice in one machine.
    let twice = ["--disk", path(&disk), "--disk", path(&disk)];
    assert_refused(kernel.path(), &twice, "in use");
}

/// QEMU locks bytes of the file; "101" says that it may write.
#[test]
fn a_disk_that_qemu_has() {
    let kernel = Payload::default().halt().elf();
    let disk = file(512);
    let qemu = File::open(disk.path()).unwrap();
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 101,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the kernel reads one flock.
    let taken = unsafe { libc::fcntl(qemu.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    assert_eq!(taken, 0);
    for end in ["", ",ro"] {
        let option = format!("{}{end}", path(&disk));
        assert_refused(kernel.path(), &["--disk", &option], "in use");
    }
}

#[test]
fn taps_that_are_none() {
    let kernel = Payload::default().halt().elf();
    assert_refused(kernel.path(), &["--net", "tap=vmfnowhere"], "ip tuntap add");
    assert_refused(kernel.path(), &["--net", "tap=lo"], "not a tap");
}

#[test]
fn sockets_that_are_none() {
    let kernel = Payload::default().halt().elf();
    let folder = tempfile::tempdir().unwrap();
    let vsock = |name: &str| format!("cid=3,socket={}/{name}", folder.path().display());
    let refused = |name: &str, word| {
        assert_refused(kernel.path(), &["--vsock", &vsock(name)], word);
    };
    refused("nowhere/v", "nowhere/v");
    refused(&"x".repeat(100), "at most");
    File::create(folder.path().join("file")).unwrap();
    refused("file", "is a file already");
    let live = UnixListener::bind(folder.path().join("live")).unwrap();
    refused("live", "is in use");
    drop(live);
    // A refusal for another reason leaves no socket behind.
    let options = ["--vsock", &vsock("v"), "--disk", "/nowhere/d"];
    assert_refused(kernel.path(), &options, "/nowhere/d");
    assert!(!folder.path().join("v").exists());
}

#[test]
fn more_devices_than_there_is_room_for() {
    let kernel = Payload::default().halt().elf();
    let mut options = ["--disk", "/nowhere/d"].repeat(8);
    options.push("--rng");
    assert_refused(kernel.path(), &options, "at most 8");
}

#[test]
fn users_and_folders_that_are_none() {
    let kernel = Payload::default().halt().elf();
    for half in [["--uid", "1000"], ["--gid", "1000"], ["--chroot", "/tmp"]] {
        assert_refused(kernel.path(), &half, "--uid and --gid go together");
    }
    let user = ["--uid", "65534", "--gid", "65534", "--chroot"];
    for folder in ["/nowhere/f", path(&file(1))] {
        assert_refused(kernel.path(), &[&user[..], &[folder]].concat(), folder);
    }
}

#[test]
fn kernels_that_are_none() {
    if no_kvm() {
        return;
    }
    for size in [0, 3, 64, 4096, 1 << 20] {
        assert_refused(file(size).path(), &[], "kernel");
    }
}

/// The header of a bzImage for 64 bits whose protected-mode part has `mib` MiB, and some of it.
fn bzimage(mib: u32) -> NamedTempFile {
    let mut image = vec![0; 0x400];
    image[0x1f1] = 1; // setup_sects
    image[0x1f4..0x1f8].copy_from_slice(&((mib << 20) / 16).to_le_bytes()); // syssize
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6c]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x211] = 1; // loaded high
    image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    image[0x236] = 1; // a 64-bit entry point
    image[0x260..0x264].copy_from_slice(&0x50_0000u32.to_le_bytes()); // init_size
    image.resize(60_000, 0x90);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&image).unwrap();
    file
}

#[test]
fn kernels_that_cannot_run() {
    if no_kvm() {
        return;
    }
    assert_refused(bzimage(4).path(), &[], "is cut short");
    let good = Payload::default().halt().elf();
    // The machine, the kind of file, and the entry point of an ELF file's header.
    for (at, byte, word) in [
        (18, 183, "no executable for x86-64"),
        (16, 1, "no executable for x86-64"),
        (4, 1, "no executable for x86-64"),
        (27, 1, "where nothing of it is"),
    ] {
        let mut bytes = std::fs::read(good.path()).unwrap();
        bytes[at] = byte;
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        assert_refused(file.path(), &[], word);
    }
}

/// What no --mem helps against is not met by advice to give more.
#[test]
fn advice_is_such_as_can_help() {
    if no_kvm() {
        return;
    }
    let kernel = Payload::default().halt().elf();
    let initrd = NamedTempFile::new().unwrap();
    initrd.as_file().set_len(2500 << 20).unwrap();
    let options = ["--initrd", path(&initrd)];
    assert_refused(kernel.path(), &options, "has to be below 2048M");
    // A segment of 1 TiB.
    let mut bytes = std::fs::read(kernel.path()).unwrap();
    bytes[64 + 40..64 + 48].copy_from_slice(&(1u64 << 40).to_le_bytes());
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    assert_refused(file.path(), &[], "has to be below 3072M");
}

#[test]
fn memory_that_is_too_small() {
    if no_kvm() {
        return;
    }
    let kernel = Payload::default().halt().elf();
    let initrd = file(70 << 20);
    assert_refused(kernel.path(), &["--initrd", path(&initrd)], "--mem 74M");
}

#[test]
fn command_lines_that_are_wrong() {
    let kernel = Payload::default().halt().elf();
    let long = "x".repeat(3000);
    for options in [
        ["--cpus", "0"],
        ["--cpus", "256"],
        ["--cmdline", &long],
        ["--nonsense", "1"],
        ["--\u{1b}[2J", "1"],
        ["--mem", "1\n\n\u{1b}[2J\u{9b}7m"],
        ["--seccomp", "maybe"],
        ["--uid=0", "--gid=1"],
        ["--uid=1", "--gid=4294967295"],
        ["--uid=nobody", "--gid=1"],
    ] {
        let (code, lines) = refusal(kernel.path(), &options);
        assert_eq!(code, Some(2), "{lines:?}");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("vmm: "), "{lines:?}");
        assert!(!lines[0].contains(char::is_control), "{lines:?}");
    }
}
