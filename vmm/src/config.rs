//! What the user asked for, checked before any machine exists.
//!
//! [`args`] has the options, [`values`] what they take, [`file`] reads the same from a
//! file; here the files and devices that they name are opened.

pub mod args;
pub mod file;
mod sched;
pub mod values;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::devices::net::Tap;
use crate::devices::vsock::{Muxer, Socket};
use crate::layout::VIRTIO_MMIO_MAX;
use crate::sandbox::{Privileges, Sandbox};
use crate::{Error, Result};

use args::STOP_TIMEOUT;

pub use args::RunArgs;
pub use sched::SchedConfig;
pub use values::{DiskArg, Id, NetArg, Pv, Seccomp, VmName, VsockArg};

/// Size of a disk's sector in bytes.
pub const SECTOR: u64 = 512;

/// A tap that this machine has for itself.
#[derive(Debug)]
pub struct Net {
    /// The open tap.
    pub tap: Tap,
    /// The guest's Ethernet address; without one the guest chooses.
    pub mac: Option<[u8; 6]>,
}

/// The host's end of a guest's sockets.
#[derive(Debug)]
pub struct Vsock {
    /// The guest's address.
    pub cid: u32,
    /// Its streams.
    pub muxer: Muxer,
    /// The file at which the host's programs find it.
    pub socket: Socket,
}

impl Vsock {
    /// The device's part, and the file, which outlives it.
    pub fn split(self) -> ((u32, Muxer), Socket) {
        ((self.cid, self.muxer), self.socket)
    }
}

/// A machine to build: every file is open and every number has been checked.
#[derive(Debug)]
pub struct Config {
    /// The kernel's path, for messages, and its open file.
    pub kernel: (PathBuf, File),
    /// The initial ram disk.
    pub initrd: Option<(PathBuf, File)>,
    /// The disks, in order.
    pub disks: Vec<Disk>,
    /// The network devices, in order.
    pub nets: Vec<Net>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// Whether there is a source of random bytes.
    pub rng: bool,
    /// Number of vCPUs.
    pub cpus: u8,
    /// Bytes of memory.
    pub mem: u64,
    /// The kernel's command line.
    pub cmdline: String,
    /// The paravirtual features that the guest sees.
    pub pv: Pv,
    /// What the program gives up before the guest runs.
    pub sandbox: Sandbox,
    /// How its threads are to run.
    pub sched: SchedConfig,
    /// How long the guest may take to power off.
    pub stop_timeout: Duration,
}

/// A number of seconds.
fn seconds(n: u32) -> Duration {
    Duration::from_secs(n.into())
}

impl Config {
    /// How many virtio devices the machine has.
    pub fn virtio_devices(&self) -> usize {
        let single = [self.vsock.is_some(), self.rng].map(usize::from);
        self.disks.len() + self.nets.len() + single.iter().sum::<usize>()
    }
}

/// A disk image that is open and locked.
#[derive(Debug)]
pub struct Disk {
    /// Its place among the machine's disks, from 0.
    pub index: usize,
    /// The image. Its lock ends with it.
    pub file: File,
    /// Its size in sectors.
    pub sectors: u64,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

impl TryFrom<RunArgs> for Config {
    type Error = Error;

    fn try_from(args: RunArgs) -> Result<Self> {
        let sched = SchedConfig::try_from(&args)?;
        let Some(kernel) = args.kernel else {
            return Err(Error::Config(
                "no kernel: give --kernel FILE, or kernel = \"FILE\" in the file of --config"
                    .into(),
            ));
        };
        let rng = args.rng.unwrap_or_default();
        let single = [args.vsock.is_some(), rng].map(usize::from);
        let devices = args.disks.len() + args.nets.len() + single.iter().sum::<usize>();
        if devices > VIRTIO_MMIO_MAX {
            return Err(Error::Config(format!(
                "{devices} virtio devices (--disk, --net, --vsock, --rng): at most {VIRTIO_MMIO_MAX} are possible"
            )));
        }
        let sandbox = Sandbox::new(
            args.seccomp.unwrap_or_default(),
            Privileges::new(args.uid, args.gid, args.chroot.as_deref())?,
        )?;
        Ok(Self {
            kernel: open_file("kernel", kernel)?,
            initrd: args
                .initrd
                .map(|path| open_file("initrd", path))
                .transpose()?,
            disks: (0..)
                .zip(&args.disks)
                .map(|(index, arg)| open_disk(index, arg))
                .collect::<Result<_>>()?,
            nets: args.nets.iter().map(open_net).collect::<Result<_>>()?,
            // After all that may be refused: it makes a file.
            vsock: args.vsock.as_ref().map(open_vsock).transpose()?,
            rng,
            cpus: args.cpus.unwrap_or_default().get(),
            mem: args.mem.unwrap_or_default().0,
            cmdline: args.cmdline.unwrap_or_default().to_string(),
            pv: args.pv.unwrap_or_default(),
            sandbox,
            sched,
            stop_timeout: seconds(args.stop_timeout.unwrap_or(STOP_TIMEOUT)),
        })
    }
}

/// Opens a file that is read from any place in it, without waiting for what is none.
fn open_file(what: &'static str, path: PathBuf) -> Result<(PathBuf, File)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .map_err(Error::file("open", what, &path))?;
    let meta = file
        .metadata()
        .map_err(Error::file("look at", what, &path))?;
    if !meta.is_file() {
        return Err(Error::Config(format!(
            "{what} {} is no ordinary file",
            path.display()
        )));
    }
    Ok((path, file))
}

fn open_net(arg: &NetArg) -> Result<Net> {
    Ok(Net {
        tap: Tap::open(&arg.tap)?,
        mac: arg.mac,
    })
}

fn open_vsock(arg: &VsockArg) -> Result<Vsock> {
    let (socket, listener) = Socket::bind(&arg.socket)?;
    Ok(Vsock {
        cid: arg.cid,
        muxer: Muxer::new(arg.cid.into(), socket.path(), listener)?,
        socket,
    })
}

/// Opens and locks an image: a writable one for this machine alone.
fn open_disk(index: usize, arg: &DiskArg) -> Result<Disk> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(!arg.read_only)
        .open(&arg.path)
        .map_err(Error::file("open", "disk", &arg.path))?;
    let locked = if arg.read_only {
        file.try_lock_shared()
    } else {
        file.try_lock()
    };
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => Error::Config(format!(
            "disk {} is in use by another machine; stop that one, or give both \",ro\"",
            arg.path.display()
        )),
        TryLockError::Error(source) => Error::file("lock", "disk", &arg.path)(source),
    })?;
    let kind = file
        .metadata()
        .map_err(Error::file("look at", "disk", &arg.path))?
        .file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::Config(format!(
            "disk {} is neither a file nor a block device",
            arg.path.display()
        )));
    }
    // A block device tells its size only so.
    let bytes = file
        .seek(SeekFrom::End(0))
        .map_err(Error::file("look at", "disk", &arg.path))?;
    if bytes == 0 || bytes % SECTOR != 0 {
        return Err(Error::Config(format!(
            "disk {} has {bytes} bytes: a raw image is a multiple of {SECTOR}",
            arg.path.display()
        )));
    }
    Ok(Disk {
        index,
        file,
        sectors: bytes / SECTOR,
        read_only: arg.read_only,
    })
}
