//! The emulated host's first process: mounts what is needed, does the job that
//! the machine was started with, and powers the machine off.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use serde::{Deserialize, Serialize};

use crate::cell::{Console, Host, same_cell};
use crate::launch::{self, Launch, Launched};
use crate::spec::{CellOutput, CellSpec};
use crate::storm::Storm;
use crate::vmm_cost::{self, Cost, CostSpec};
use crate::{Error, Result, cell};

/// What the emulated host is booted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// A cell of the benchmark.
    Cell(Box<CellSpec>),
    /// A cell while everything around it changes, as its seed says.
    Storm(Box<CellSpec>),
    /// Runs of the VMM, one after another.
    Launches(Vec<Launch>),
    /// What VMMs cost by themselves.
    Cost(CostSpec),
}

/// What came out of a [`Job`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// Of a cell.
    Cell(CellOutput),
    /// Of each launch.
    Launches(Vec<Launched>),
    /// Of each VMM, by its name.
    Cost(BTreeMap<String, Vec<Cost>>),
    /// The job could not be done at all.
    Failed(String),
}

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
/// There for the journal of changes to the host.
pub const STATE: &str = "/run/dense-bench";

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

/// Does all of it; the result goes out whatever happens.
pub fn main() -> ! {
    let done = match catch_unwind(serve) {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Done::Failed(error.to_string()),
        Err(_) => Done::Failed("dense-bench panicked; see the console".into()),
    };
    if let Err(error) = tell(&done) {
        eprintln!("dense-bench: {error}");
    }
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("dense-bench: cannot power off: {error}");
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
    Ok(match read_json(Path::new(SPEC))? {
        Job::Cell(spec) => Done::Cell(run_cell(&spec, save)),
        Job::Storm(spec) => {
            let _storm = Storm::start(spec.seed)?;
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

/// Reads a file of JSON.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::Invalid(format!("{}: not understood: {e}", path.display())))
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
