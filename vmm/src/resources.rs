//! What a machine has of the host: every file and device that its options name, open.

use crate::Result;
use crate::boot::Images;
use crate::config::Config;
use crate::devices::block::Disk;
use crate::devices::net::{Net, Tap};
use crate::devices::vsock::{self, Vsock};
use crate::sandbox::Sandbox;

/// All of it. What is dropped is free for others again.
#[derive(Debug)]
pub struct Resources {
    /// What the guest is started from.
    pub images: Images,
    /// The disks, in order.
    pub disks: Vec<Disk>,
    /// The network devices, in order.
    pub nets: Vec<Net>,
    /// Sockets between host and guest.
    pub vsock: Option<Vsock>,
    /// What the program gives up before the guest runs.
    pub sandbox: Sandbox,
}

impl Resources {
    /// Opens what `config` names. When it fails nothing is left.
    pub fn open(config: &Config) -> Result<Self> {
        let disks = (0..).zip(&config.disks);
        Ok(Self {
            sandbox: Sandbox::new(&config.confinement)?,
            images: Images::open(config)?,
            disks: disks
                .map(|(index, arg)| Disk::open(index, arg))
                .collect::<Result<_>>()?,
            nets: config.nets.iter().map(Net::open).collect::<Result<_>>()?,
            // After all that may be refused: it makes a file.
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
        let vsock = config.vsock.as_ref();
        vsock.map_or(Ok(()), |arg| vsock::Socket::folder(&arg.socket).map(drop))
    }
}
