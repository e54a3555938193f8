//! The terminal that a machine is started from.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::payload::Payload;
use crate::{no_kvm, vmm};

/// A terminal: the program's end and the user's.
fn terminal() -> (OwnedFd, File) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    (ioctl_tiocgptpeer(&user, flags).unwrap(), user.into())
}

#[test]
fn a_terminal_is_as_before_however_the_machine_ends() {
    if no_kvm() {
        return;
    }
    for signal in [Signal::QUIT, Signal::SYS, Signal::SEGV, Signal::ABORT] {
        let (program, mut user) = terminal();
        let before = tcgetattr(&program).unwrap().local_modes;
        let kernel = Payload::default().print("x").halt().elf();
        let share = || Stdio::from(program.try_clone().unwrap());
        let mut machine = vmm(kernel.path())
            .stdin(share())
            .stdout(share())
            .stderr(share())
            .spawn()
            .unwrap();
        user.read_exact(&mut [0]).unwrap();
        let raw = tcgetattr(&program).unwrap().local_modes;
        assert!(!raw.contains(LocalModes::ICANON));
        kill_process(Pid::from_child(&machine), signal).unwrap();
        machine.wait().unwrap();
        let after = tcgetattr(&program).unwrap().local_modes;
        assert_eq!(after, before, "{signal:?}");
    }
}
