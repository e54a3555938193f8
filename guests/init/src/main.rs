//! The first process of a benchmark guest: prepares the workload that the kernel's
//! command line names, says READY, waits for GO, runs the workload, tells its RESULT
//! and powers the guest off.
//!
//! It talks to the harness over the console, a line at a time; `protocol` has
//! the words. `docs/measuring.md` describes the windows.

mod callfunc;
mod compute;
mod crew;
mod dbench;
mod dedup;
mod hackbench;
mod make;
mod memcached;
mod pgbench;
mod postgres;
mod protocol;
mod repeat;
mod shell;
mod shootdown;
mod stress_ng;
mod vips;
mod window;

use std::fs;
use std::io::stdin;

use rustix::fs::sync;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::system::{RebootCommand, reboot};

use protocol::{Go, Order, Outcome};

/// Where the disk is mounted.
const DISK: &str = "/mnt";
/// Names the workload on the kernel's command line.
const NAMED_BY: &str = "vmfirst.workload=";

/// What goes wrong in a guest; the harness fails the cell with its text.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{what}: {source}")]
    Os {
        what: String,
        source: std::io::Error,
    },
    #[error("{0}")]
    Workload(String),
}

impl Error {
    fn os<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Os {
            what,
            source: source.into(),
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A workload that can begin.
type Prepared = Box<dyn FnOnce(&Go) -> Result<Outcome>>;

fn main() {
    std::panic::set_hook(Box::new(|info| {
        protocol::failed(&info.to_string().replace('\n', " "));
        end(RebootCommand::PowerOff);
    }));
    let command = match serve() {
        Ok(command) => command,
        Err(error) => {
            protocol::failed(&error.to_string());
            RebootCommand::PowerOff
        }
    };
    end(command);
}

/// Gets ready and obeys one order; returns how the guest is to end.
fn serve() -> Result<RebootCommand> {
    mount_all()?;
    let prepared = named()?
        .map(|name| Ok((prepare(&name)?, name)))
        .transpose()?;
    protocol::ready();
    match protocol::wait_for_order(stdin().lock())? {
        Order::Go(go) => {
            protocol::result(&run(prepared, &go)?);
            Ok(RebootCommand::PowerOff)
        }
        Order::PowerOff => Ok(RebootCommand::PowerOff),
        Order::Reboot => Ok(RebootCommand::Restart),
        Order::Panic => {
            // The kernel does not come back from this.
            fs::write("/proc/sysrq-trigger", "c").map_err(Error::os("crash the kernel"))?;
            Ok(RebootCommand::PowerOff)
        }
    }
}

/// The workload that the kernel's command line names, if it does.
fn named() -> Result<Option<String>> {
    let line = fs::read_to_string("/proc/cmdline").map_err(Error::os("read /proc/cmdline"))?;
    let name = |word: &str| word.strip_prefix(NAMED_BY).map(String::from);
    Ok(line.split_whitespace().find_map(name))
}

/// Does what a workload needs once, whatever the order will say: it is the boot's time,
/// not the warm-up's.
fn prepare(workload: &str) -> Result<Prepared> {
    Ok(match workload {
        "callfunc" => Box::new(callfunc::run),
        "compute" => Box::new(compute::run),
        "dbench" => Box::new(dbench::run),
        "dedup" => Box::new(dedup::run),
        "hackbench" => Box::new(hackbench::run),
        "make" => Box::new(make::prepare()?),
        "memcached" => Box::new(memcached::prepare()?),
        "pgbench" => Box::new(pgbench::prepare()?),
        "shootdown" => Box::new(shootdown::run),
        "malloc" => Box::new(|go| stress_ng::run("malloc", go)),
        "tlb-shootdown" => Box::new(|go| stress_ng::run("tlb-shootdown", go)),
        "vips" => Box::new(vips::prepare()?),
        other => return Err(Error::Workload(format!("no workload called {other}"))),
    })
}

fn run(prepared: Option<(Prepared, String)>, go: &Go) -> Result<Outcome> {
    match prepared {
        Some((workload, name)) if name == go.workload => workload(go),
        _ => Err(Error::Workload(format!(
            "not prepared: start the guest with {NAMED_BY}{} on its kernel's command line",
            go.workload
        ))),
    }
}

/// How many vCPUs the guest has, and so threads, processes or clients.
fn vcpus() -> u32 {
    let parallelism = std::thread::available_parallelism();
    parallelism.map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

fn mount_all() -> Result<()> {
    for (kind, at) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
    ] {
        mount(kind, at, kind, MountFlags::empty(), None)
            .map_err(Error::os(format!("mount {kind}")))?;
    }
    if fs::exists("/dev/vda").unwrap_or(false) {
        mount("/dev/vda", DISK, "ext4", MountFlags::empty(), None)
            .map_err(Error::os("mount the disk"))?;
    }
    Ok(())
}

/// Leaves the disk clean and ends the guest.
fn end(command: RebootCommand) -> ! {
    // Not mounted, or still in use by what has just been killed: the harness
    // throws the disk away in any case.
    let _ = unmount(DISK, UnmountFlags::empty());
    sync();
    if let Err(error) = reboot(command) {
        protocol::failed(&format!("cannot end the guest: {error}"));
    }
    loop {
        std::thread::park();
    }
}
