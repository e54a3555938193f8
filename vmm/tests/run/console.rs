//! Where a guest's console may be, and that nobody who reads it holds the guest.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::payload::Payload;
use crate::wait::wait_until;
use crate::{no_kvm, run_command};

/// A machine of `payload`, in a folder of its own.
struct Machine {
    folder: TempDir,
    vmm: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

fn start(payload: &Payload, options: &[&str]) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(payload.elf().path(), folder.path().join("kernel")).unwrap();
    let vmm = run_command()
        .args(["--run-dir", "run", "--kernel", "kernel", "--mem", "64M"])
        .args(options)
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Machine { folder, vmm }
}

fn connect(path: &Path) -> UnixStream {
    wait_until("the socket is there", || path.exists());
    let client = UnixStream::connect(path).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    client
}

fn read(client: &mut UnixStream, size: usize) -> String {
    let mut bytes = vec![0; size];
    client.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_client_reads_what_was_before_and_types() {
    if no_kvm() {
        return;
    }
    let guest = Payload::default().print("hello ").echo_line().power_off();
    let mut machine = start(&guest, &["--console", "socket=tty"]);
    let path = machine.folder.path().join("tty");
    let mut first = connect(&path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(read(&mut first, 6), "hello ");
    // Another one takes its place, and is told the same.
    let mut second = connect(&path);
    assert_eq!(read(&mut second, 6), "hello ");
    let mut rest = String::new();
    first.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("another client"), "{rest}");
    second.write_all(b"typed\n").unwrap();
    let mut rest = String::new();
    second.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "typed\n");
    assert_eq!(machine.vmm.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

/// As a user without a terminal: what is typed is sent, and the machine's end is the end.
#[test]
fn vmm_console_finds_a_machine_by_its_name() {
    if no_kvm() {
        return;
    }
    let guest = Payload::default().print("hello ").echo_line().power_off();
    let mut machine = start(&guest, &["--console", "socket", "--name", "web"]);
    wait_until("the socket is there", || {
        machine.folder.path().join("run/web.console").exists()
    });
    let mut client = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["--run-dir", "run", "console", "web"])
        .current_dir(machine.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello typed\n");
    assert_eq!(machine.vmm.wait().unwrap().code(), Some(0));
    let left = fs::read_dir(machine.folder.path().join("run"))
        .unwrap()
        .count();
    assert_eq!(left, 0);

    let gone = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["--run-dir", "run", "console", "web"])
        .current_dir(machine.folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&gone.stderr);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_file_has_the_last_that_was_printed_and_no_more_than_its_limit() {
    if no_kvm() {
        return;
    }
    let guest = Payload::default()
        .print_lines(3000)
        .print("end")
        .power_off();
    let mut machine = start(&guest, &["--console", "file=log,limit=4K"]);
    assert_eq!(machine.vmm.wait().unwrap().code(), Some(0));
    let log = fs::read_to_string(machine.folder.path().join("log")).unwrap();
    assert!(log.len() <= 4096 && log.len() > 2048, "{}", log.len());
    assert!(log.ends_with("x\nx\nend"), "{log:?}");
}

#[test]
fn a_console_may_be_nowhere() {
    if no_kvm() {
        return;
    }
    let guest = Payload::default().print("unheard").power_off();
    let mut machine = start(&guest, &["--console", "none"]);
    assert_eq!(machine.vmm.wait().unwrap().code(), Some(0));
    let mut output = String::new();
    let stdout = machine.vmm.stdout.as_mut().unwrap();
    stdout.read_to_string(&mut output).unwrap();
    assert_eq!(output, "");
}

/// Far more than pipe and buffer hold, and nobody reads: the guest comes to its end by itself.
#[test]
fn a_guest_that_prints_never_waits_for_its_reader() {
    if no_kvm() {
        return;
    }
    let guest = Payload::default().print_lines(200_000).power_off();
    let mut machine = start(&guest, &[]);
    assert_eq!(machine.vmm.wait().unwrap().code(), Some(0));
}

#[test]
fn consoles_that_are_none() {
    let guest = Payload::default().power_off();
    for (console, word) in [
        ("socket", "give --name"),
        ("socket=/nowhere/tty", "/nowhere/tty"),
        ("file=/nowhere/log", "/nowhere"),
        ("file=/dev/null", "no ordinary file"),
    ] {
        for dry in [&["--dry-run"][..], &[]] {
            let kernel = guest.elf();
            let output = run_command()
                .args(["--kernel", kernel.path().to_str().unwrap()])
                .args(["--console", console])
                .args(dry)
                .output()
                .unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{console}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{console}: {errors}");
            assert!(errors.contains(word), "{console}: {errors}");
        }
    }
}
