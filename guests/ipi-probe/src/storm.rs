//! A storm: VMs come and go while their vCPUs send all kinds of IPIs and reset
//! each other, and KVM's settings change.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;

use crate::Error;
use crate::guest::{self, Program};
use crate::vm::{Config, Place, Via, Vm};

/// Settings of the series, and the values that they get in turn.
const SETTINGS: &[(&str, &[&str])] = &[
    ("/sys/module/kvm/parameters/ipi_tracking", &["N", "Y"]),
    ("/sys/module/kvm/parameters/yield_times", &["Y", "N"]),
];

/// How long a VM lives in ms.
const LIFE_MS: u64 = 60;

/// Runs it; an exception in a guest or an unknown exit is an error.
pub fn run(kvm: &Kvm, vcpus: u8, ms: u64) -> Result<serde_json::Value, Error> {
    let settings = settings();
    let end = Instant::now() + Duration::from_millis(ms);
    let mut taken = 0_u64;
    let mut rounds = 0_usize;
    let mut older: Option<Vm> = None;
    while Instant::now() < end {
        let via = [Via::Mmio, Via::Msr][rounds % 2];
        let config = Config {
            via,
            program: Program::Storm,
            vcpus,
            icr: 0,
            place: Place::Free,
            running: vcpus,
            burst: 0,
        };
        let vm = Vm::start(kvm, config)?;
        for (path, values) in &settings {
            thread::sleep(Duration::from_millis(LIFE_MS / SETTINGS.len() as u64));
            let value = values[rounds % values.len()];
            fs::write(path, value).map_err(|e| Error::setup("change a setting", e))?;
        }
        // Two at a time; the older one goes in the middle of its work.
        if let Some(old) = older.replace(vm) {
            taken += finish(old, vcpus, rounds.is_multiple_of(2))?;
        }
        rounds += 1;
    }
    if let Some(last) = older {
        taken += finish(last, vcpus, true)?;
    }
    for (path, values) in &settings {
        let last = values[values.len() - 1];
        fs::write(path, last).map_err(|e| Error::setup("change a setting", e))?;
    }
    Ok(serde_json::json!({
        "vms": rounds,
        "interrupts_taken": taken,
        "settings": settings.len(),
    }))
}

/// Those that this kernel has.
fn settings() -> Vec<(PathBuf, &'static [&'static str])> {
    let all = SETTINGS.iter().map(|&(path, v)| (PathBuf::from(path), v));
    all.filter(|(path, _)| path.exists()).collect()
}

fn finish(vm: Vm, vcpus: u8, gently: bool) -> Result<u64, Error> {
    if gently {
        vm.stop()?;
        thread::sleep(Duration::from_millis(1));
    }
    let taken = (0..u64::from(vcpus)).map(|i| u64::from(vm.word(guest::TAKEN + i * 4)));
    let taken = taken.sum();
    vm.end()?;
    Ok(taken)
}
