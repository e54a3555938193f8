//! What a machine has of the host: every file and device that its options name, open.

use crate::Result;
use crate::boot::Images;
use crate::config::{Config, ConsoleArg};
use crate::devices::block::{Disk, SECTOR};
use crate::devices::net::{Net, Tap};
use crate::devices::serial::Place;
use crate::devices::socket::Socket;
use crate::devices::vsock::Vsock;
use crate::sandbox::Sandbox;

/// All of it. What is dropped is free for others again.
pub struct Resources {
    /// What the guest is started from.
    pub images: Images,
    /// The disks, in order.
    pub disks: Vec<Disk>,
    /// The network devices, in order.
    pub nets: Vec<Net>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// Where the console is.
    pub console: Place,
    /// What the program gives up before the guest runs.
    pub sandbox: Sandbox,
}

impl Resources {
    /// Opens what `config` names. When it fails nothing is left.
    pub fn open(config: &Config) -> Result<Self> {
        let mut sandbox = Sandbox::new(&config.confinement)?;
        let images = Images::open(config)?;
        let disks = (0..).zip(&config.disks);
        let disks: Vec<_> = disks
            .map(|(index, arg)| Disk::open(index, arg))
            .collect::<Result<_>>()?;
        for disk in disks.iter().filter(|disk| !disk.read_only) {
            sandbox.allow_length(disk.sectors * SECTOR);
        }
        if let ConsoleArg::File(to) = &config.console {
            sandbox.allow_length(to.limit.0);
        }
        Ok(Self {
            sandbox,
            images,
            disks,
            nets: config.nets.iter().map(Net::open).collect::<Result<_>>()?,
            // After all that may be refused: these make files.
            console: Place::open(&config.console)?,
            vsock: config.vsock.as_ref().map(Vsock::open).transpose()?,
        })
    }

    /// Sees that what `config` names can be opened, as far as it can be seen without taking
    /// anything: a machine may have all of it.
    pub fn check(config: &Config) -> Result<()> {
        Sandbox::new(&config.confinement)?;
        Images::open(config)?;
        for (index, arg) in config.disks.iter().enumerate() {
            Disk::look(index, arg)?;
        }
        for arg in &config.nets {
            Tap::check(&arg.tap)?;
        }
        Place::check(&config.console)?;
        let vsock = config.vsock.as_ref();
        vsock.map_or(Ok(()), |arg| Socket::folder(&arg.socket).map(drop))
    }
}
