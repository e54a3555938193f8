//! The thread of a vCPU.

use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::control::Control;
use crate::bus::Buses;
use crate::exit::{End, Ender};

/// Runs a vCPU until the machine ends. What a guest does can end the machine, no more.
pub fn run(mut fd: VcpuFd, id: u8, buses: &Arc<Buses>, control: &Control, ender: &Ender) {
    loop {
        control.attend(id, &fd);
        if ender.ended().is_some() {
            return;
        }
        match fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => buses.ports.read(port.into(), data),
            Ok(VcpuExit::IoOut(port, data)) => buses.ports.write(port.into(), data),
            Ok(VcpuExit::MmioRead(address, data)) => buses.mmio.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => buses.mmio.write(address, data),
            Ok(VcpuExit::Intr | VcpuExit::Hlt) => {}
            Ok(VcpuExit::Shutdown) => {
                crash(id, "triple fault", ender);
            }
            Ok(exit) => crash(id, &format!("{exit:?}"), ender),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(e) => crash(id, &format!("KVM_RUN: {e}"), ender),
        }
    }
}

fn crash(id: u8, why: &str, ender: &Ender) {
    log::error!("vCPU {id} cannot go on: {why}");
    ender.end(End::Crash);
}
