//! The emulated host's first process: mounts what is needed, does the job that
//! the machine was started with, and powers the machine off.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dense_agent::cell::{Console, Host, STATE, same_cell};
use dense_agent::{cell, third, vmm_cost};
use dense_record::job::{Done, Job};
use dense_record::json::read_json;
use dense_record::measured::CellOutput;
use dense_record::spec::CellSpec;
use dense_record::{Error, Result};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

mod launch;
mod modules;
mod storm;

use storm::Storm;

/// Where the emulator's `-fw_cfg` option shows up.
const SPEC: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/vmfirst.cell/raw";
/// Read, it has the emulator save the host at the end of its round, if it was told to.
const SAVE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/vmfirst.save/raw";
/// Longer than a round.
const TO_THE_ROUNDS_END: Duration = Duration::from_millis(2);
/// The second serial port takes the result.
const RESULT: &str = "/dev/ttyS1";
/// A tmpfs for the guests' disks.
const SCRATCH: &str = "/run";

/// Type and place of everything to mount.
const MOUNTS: &[(&str, &str)] = &[
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

/// As the first process all of it; the result goes out whatever happens. A cell's third party
/// is this program once more.
fn main() -> ! {
    if std::env::args().nth(1).as_deref() == Some(third::ARGUMENT) {
        third::main();
    }
    let done = match catch_unwind(serve) {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Done::Failed(error.to_string()),
        Err(_) => Done::Failed("the first process panicked; see the console".into()),
    };
    if let Err(error) = tell(&done) {
        eprintln!("init: {error}");
    }
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("init: cannot power off: {error}");
    }
    loop {
        std::thread::park();
    }
}

fn serve() -> Result<Done> {
    for (kind, at) in MOUNTS {
        // Whoever planned the host's memory has counted the disks.
        let options = (*at == SCRATCH).then_some(c"size=100%");
        mount(*kind, *at, *kind, MountFlags::empty(), options).map_err(Error::io("mount", at))?;
    }
    modules::load()?;
    Ok(match read_json(Path::new(SPEC))? {
        Job::Cell(spec) => Done::Cell(run_cell(&spec, save)),
        Job::Storm(spec) => {
            let _storm = Storm::start(spec.chosen.seed)?;
            Done::Cell(run_cell(&spec, same_cell))
        }
        Job::Launches(launches) => {
            Done::Launches(launches.iter().map(launch::run).collect::<Result<_>>()?)
        }
        Job::Cost(spec) => Done::Cost(vmm_cost::run(&spec)?),
    })
}

/// Has the emulator save the host. Each host that begins where this one was saved goes on
/// here, with a cell of its own.
fn save(_: &CellSpec) -> Result<CellSpec> {
    fs::read(SAVE).map_err(Error::io("read", SAVE))?;
    std::thread::sleep(TO_THE_ROUNDS_END);
    match read_json(Path::new(SPEC))? {
        Job::Cell(spec) => Ok(*spec),
        _ => Err(Error::Invalid("the saved host was given no cell".into())),
    }
}

fn run_cell(spec: &CellSpec, booted: fn(&CellSpec) -> Result<CellSpec>) -> CellOutput {
    let console: Console = Arc::new(Mutex::new(std::io::stderr()));
    let host = Host {
        scratch: Path::new(SCRATCH),
        state: Path::new(STATE),
        console: &console,
        stop: &AtomicBool::new(false),
        booted,
    };
    cell::run(spec, host)
}

fn tell(done: &Done) -> Result<()> {
    let json = serde_json::to_string(done).map_err(|e| Error::Invalid(e.to_string()))?;
    OpenOptions::new()
        .write(true)
        .open(RESULT)
        .and_then(|mut port| {
            port.write_all(format!("\n{json}\n").as_bytes())?;
            Ok(rustix::termios::tcdrain(&port)?)
        })
        .map_err(Error::io("write to", RESULT))
}
