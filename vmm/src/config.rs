//! What the user asked for, checked before anything is opened.
//!
//! [`args`] has the options, [`values`] what they take, [`file`] reads the same from a
//! file; here they are seen together. What they name is opened by [`crate::resources`].

pub mod args;
pub mod console;
mod cpu;
pub mod disk;
pub mod file;
pub(crate) mod keys;
pub mod memory;
mod sched;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

use crate::layout::VIRTIO_MMIO_MAX;
use crate::memory::Advice;
use crate::{Error, Result};

use args::STOP_TIMEOUT;

pub use args::RunArgs;
pub use console::ConsoleArg;
pub use cpu::CpuArg;
pub use disk::{DiskArg, DiskId};
pub use memory::MemoryArg;
pub use sched::SchedConfig;
pub use values::{Id, NetArg, Pv, Seccomp, VmName, VsockArg};

/// A machine to build: every option is one that makes a machine together with the others.
#[derive(Debug, Clone)]
pub struct Config {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial ram disk.
    pub initrd: Option<PathBuf>,
    /// The disks, in order.
    pub disks: Vec<DiskArg>,
    /// The network devices, in order.
    pub nets: Vec<NetArg>,
    /// Sockets between host and guest.
    pub vsock: Option<VsockArg>,
    /// Where the serial console is.
    pub console: ConsoleArg,
    /// Whether there is a source of random bytes.
    pub rng: bool,
    /// Number of vCPUs.
    pub cpus: u8,
    /// What they have beyond the ordinary.
    pub cpu: CpuArg,
    /// Bytes of memory.
    pub mem: u64,
    /// Whether the guest may give memory back that it doesn't use.
    pub reporting: bool,
    /// How the host has the memory.
    pub advice: Advice,
    /// The kernel's command line.
    pub cmdline: String,
    /// The paravirtual features that the guest sees.
    pub pv: Pv,
    /// What the program gives up before the guest runs.
    pub confinement: Confinement,
    /// How its threads are to run.
    pub sched: SchedConfig,
    /// How long the guest may take to power off.
    pub stop_timeout: Duration,
}

/// What a program gives up before it runs a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// What becomes of system calls for which there is no use.
    pub seccomp: Seccomp,
    /// The user and the group to become.
    pub user: Option<(Id, Id)>,
    /// All that is seen of the file system then.
    pub root: Option<PathBuf>,
}

/// A number of seconds.
fn seconds(n: u32) -> Duration {
    Duration::from_secs(n.into())
}

impl Config {
    /// How many virtio devices the machine has.
    pub fn virtio_devices(&self) -> usize {
        let single = [self.vsock.is_some(), self.rng, self.reporting].map(usize::from);
        self.disks.len() + self.nets.len() + single.iter().sum::<usize>()
    }
}

impl TryFrom<RunArgs> for Config {
    type Error = Error;

    fn try_from(args: RunArgs) -> Result<Self> {
        let sched = SchedConfig::try_from(&args)?;
        let confinement = Confinement::try_from(&args)?;
        let Some(kernel) = args.kernel else {
            return Err(Error::Usage(
                "no kernel: give --kernel FILE, or kernel = \"FILE\" in the file of --config"
                    .into(),
            ));
        };
        if args.console == Some(ConsoleArg::Socket(None)) && args.name.is_none() {
            return Err(Error::Usage(
                "--console socket is found by the machine's name: give --name, or socket=PATH"
                    .into(),
            ));
        }
        let memory = args.memory.unwrap_or_default();
        let mem = match (args.mem, memory.size) {
            (Some(_), Some(_)) => {
                return Err(Error::Usage(
                    "the memory's size is there twice: by --mem and by --memory".into(),
                ));
            }
            (one, other) => one.or(other),
        };
        let config = Self {
            kernel,
            initrd: args.initrd,
            disks: args.disks,
            nets: args.nets,
            vsock: args.vsock,
            console: args.console.unwrap_or_default(),
            rng: args.rng.unwrap_or_default(),
            cpus: args.cpus.unwrap_or_default().get(),
            cpu: args.cpu.unwrap_or_default(),
            mem: mem.unwrap_or_default().0,
            reporting: memory.reporting.is_some_and(|on| on.0),
            advice: Advice {
                huge_pages: memory.thp.map(|thp| thp.0),
                mergeable: memory.ksm.is_some_and(|on| on.0),
            },
            cmdline: args.cmdline.unwrap_or_default().to_string(),
            pv: args.pv.unwrap_or_default(),
            confinement,
            sched,
            stop_timeout: seconds(args.stop_timeout.unwrap_or(STOP_TIMEOUT)),
        };
        match config.virtio_devices() {
            devices if devices > VIRTIO_MMIO_MAX => Err(Error::Usage(format!(
                "{devices} virtio devices (--disk, --net, --vsock, --rng, --memory reporting=on): at most \
                 {VIRTIO_MMIO_MAX} are possible"
            ))),
            _ => Ok(config),
        }
    }
}

impl TryFrom<&RunArgs> for Confinement {
    type Error = Error;

    fn try_from(args: &RunArgs) -> Result<Self> {
        if args.uid.is_some() != args.gid.is_some() || args.chroot.is_some() && args.uid.is_none() {
            return Err(Error::Usage(
                "--uid and --gid go together, and --chroot with them: root leaves any folder"
                    .into(),
            ));
        }
        Ok(Self {
            seccomp: args.seccomp.unwrap_or_default(),
            user: args.uid.zip(args.gid),
            root: args.chroot.clone(),
        })
    }
}
