//! Each case runs in a process of its own, this test program again: a filter is for good.

use std::collections::HashMap;
use std::fs::File;
use std::io::stdin;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, id};
use std::time::Instant;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Signal, getppid, kill_process};

use super::*;

const VARIABLE: &str = "VMM_SANDBOX_CASE";

/// What one role may do after all.
const EXCEPTIONS: [(Role, &str); 3] = [
    (Role::Steer, "open"),
    (Role::IoStreams, "connect"),
    (Role::Reap, "open"),
];

fn all_roles() -> impl Iterator<Item = Role> {
    Role::OF_A_MACHINE.into_iter().chain([Role::Reap])
}

/// What no thread may do, by name.
const FORBIDDEN: [(&str, fn()); 8] = [
    ("open", || drop(File::open("/dev/null"))),
    ("create", || drop(File::create("/dev/null"))),
    ("connect", || drop(UnixStream::connect("/nowhere"))),
    ("network", || drop(UdpSocket::bind("127.0.0.1:0"))),
    ("exec", || drop(Command::new("/bin/true").status())),
    ("signal", || {
        let _ = kill_process(getppid().unwrap(), Signal::CONT);
    }),
    ("code", || {
        let rights = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: a new mapping, which nobody uses.
        let _ = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE) };
    }),
    ("ioctl", || {
        let _ = rustix::io::ioctl_fionread(stdin());
    }),
];

/// What every thread may do.
fn ordinary() {
    let big = vec![1u8; 4 << 20];
    let threads: HashMap<_, _> = (0..1000).map(|i| (i, vec![i; 100])).collect();
    assert_eq!(threads.len() + big.len(), 1000 + (4 << 20));
    let mut grows = Vec::new();
    for i in 0..1_000_000 {
        grows.push(i);
    }
    // Below what is mapped by itself: the heap grows, and shrinks again.
    let pieces: Vec<_> = (0..1000).map(|_| vec![1u8; 20 << 10]).collect();
    drop((big, grows, pieces));
    let _ = Instant::now();
    std::thread::yield_now();
    println!("process {} is well", id());
}

/// Runs case `name` of `role` in a process of its own.
fn run(role: Role, mode: &str, name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sandbox::tests::child",
            "--ignored",
            "--nocapture",
        ])
        .args(["--test-threads", "1"])
        .env(VARIABLE, format!("{role:?} {mode} {name}"))
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap()
}

#[test]
#[ignore = "what the others run"]
fn child() {
    let case = std::env::var(VARIABLE).expect("a case");
    let [role, mode, name] = case.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{case}");
    };
    let role = all_roles().find(|r| format!("{r:?}") == role).unwrap();
    crate::log::start(crate::log::Format::Text);
    let seccomp = clap::ValueEnum::from_str(mode, false).unwrap();
    let sandbox = Sandbox::new(&Confinement {
        seccomp,
        ..Confinement::default()
    });
    let sandbox = sandbox.unwrap();
    // A thread of its own: the test program itself may do what any role may.
    let name = name.to_owned();
    let thread = std::thread::spawn(move || {
        let confined = match role {
            Role::Reap => sandbox.enter_alone(role, CapabilitySet::empty()),
            _ => sandbox.enter().and_then(|filters| filters.confine(role)),
        };
        confined.unwrap();
        match name.as_str() {
            "ordinary" => ordinary(),
            "panic" => panic!("on purpose"),
            name => FORBIDDEN.iter().find(|(n, _)| *n == name).unwrap().1(),
        }
    });
    println!("thread ended: {}", thread.join().is_ok());
}

#[track_caller]
fn assert_printed(output: &Output, text: &str) {
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains(text),
        "{output:?}"
    );
}

#[test]
fn a_forbidden_call_ends_the_process() {
    for role in all_roles() {
        for (name, _) in FORBIDDEN {
            let ended = !EXCEPTIONS.contains(&(role, name));
            let output = run(role, "on", name);
            assert_eq!(
                output.status.signal(),
                ended.then_some(libc::SIGSYS),
                "{role:?} {name}"
            );
            let errors = String::from_utf8_lossy(&output.stderr);
            let told = errors.contains("its filter refuses system call");
            // To start a program the C library blocks all signals: the end is at once.
            assert_eq!(told, ended && name != "exec", "{role:?} {name}: {errors}");
        }
    }
}

#[test]
fn a_logged_call_is_done() {
    for role in all_roles() {
        for (name, _) in FORBIDDEN {
            assert_printed(&run(role, "log", name), "thread ended: true");
        }
    }
}

#[test]
fn ordinary_work_is_allowed() {
    for role in all_roles() {
        assert_printed(&run(role, "on", "ordinary"), "is well");
    }
}

/// Even with RUST_BACKTRACE it is one line, and the other threads go on.
#[test]
fn a_panic_stays_a_panic() {
    for role in all_roles() {
        let output = run(role, "on", "panic");
        assert_printed(&output, "thread ended: false");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(
            errors.contains("tests.rs") && errors.contains("on purpose"),
            "{errors}"
        );
    }
}

#[test]
fn a_panic_has_a_backtrace_where_it_may() {
    let output = run(Role::Vcpu, "log", "panic");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("stack backtrace") && errors.contains("sandbox"),
        "{errors}"
    );
}
