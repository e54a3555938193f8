//! The emulated host's first process: mounts what is needed, runs the cell that
//! the machine was started with, and powers the machine off.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::spec::{CellOutput, CellSpec};
use crate::{Error, Result, cell};

/// Where the emulator's `-fw_cfg` option shows up.
const SPEC: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/vmfirst.cell/raw";
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

/// Does all of it; the result goes out whatever happens.
pub fn main() -> ! {
    let output = catch_unwind(serve).unwrap_or_else(|_| {
        Err(Error::Invalid(
            "dense-bench panicked; see the console".into(),
        ))
    });
    let output = output.unwrap_or_else(|error| CellOutput::Failed {
        error: error.to_string(),
    });
    if let Err(error) = tell(&output) {
        eprintln!("dense-bench: {error}");
    }
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("dense-bench: cannot power off: {error}");
    }
    loop {
        std::thread::park();
    }
}

fn serve() -> Result<CellOutput> {
    for (kind, at) in MOUNTS {
        mount(*kind, *at, *kind, MountFlags::empty(), None).map_err(Error::io("mount", at))?;
    }
    Ok(cell::run(&read_spec(Path::new(SPEC))?, Path::new(SCRATCH)))
}

/// Reads a cell from a file of JSON.
pub fn read_spec(path: &Path) -> Result<CellSpec> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::Invalid(format!("{}: not a cell: {e}", path.display())))
}

fn tell(output: &CellOutput) -> Result<()> {
    let json = serde_json::to_string(output).map_err(|e| Error::Invalid(e.to_string()))?;
    OpenOptions::new()
        .write(true)
        .open(RESULT)
        .and_then(|mut port| {
            port.write_all(format!("\n{json}\n").as_bytes())?;
            Ok(rustix::termios::tcdrain(&port)?)
        })
        .map_err(Error::io("write to", RESULT))
}
