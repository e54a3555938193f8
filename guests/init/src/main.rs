//! The first process of a benchmark guest: says READY, waits for GO, runs one
//! workload, tells its RESULT and powers the guest off.
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
    protocol::ready();
    match protocol::wait_for_order(stdin().lock())? {
        Order::Go(go) => {
            protocol::result(&run(&go)?);
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

fn run(go: &Go) -> Result<Outcome> {
    match go.workload.as_str() {
        "callfunc" => callfunc::run(go),
        "compute" => compute::run(go),
        "dbench" => dbench::run(go),
        "dedup" => dedup::run(go),
        "hackbench" => hackbench::run(go),
        "make" => make::run(go),
        "memcached" => memcached::run(go),
        "pgbench" => pgbench::run(go),
        "shootdown" => shootdown::run(go),
        "malloc" | "tlb-shootdown" => stress_ng::run(&go.workload, go),
        "vips" => vips::run(go),
        other => Err(Error::Workload(format!("no workload called {other}"))),
    }
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
