//! What the user asked for, checked before any machine exists.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use crate::devices::net::open_tap;
use crate::layout::{CMDLINE_MAX, VIRTIO_MMIO_MAX};
use crate::{Error, Result};

/// Size of a disk's sector in bytes.
pub const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// The options of `vmm run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Kernel: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// Initial ram disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Raw disk image, /dev/vda and so on in the guest; with ",ro" read-only [may be repeated]
    #[arg(long = "disk", value_name = "FILE[,ro]")]
    pub disks: Vec<DiskArg>,
    /// Network device on a tap that the host has made: "tap=vmtap0", or with the guest's
    /// address "tap=vmtap0,mac=02:00:00:00:00:01" [may be repeated]
    #[arg(long = "net", value_name = "tap=NAME[,mac=ADDRESS]")]
    pub nets: Vec<NetArg>,
    /// Give the guest a source of random bytes, the host's
    #[arg(long)]
    pub rng: bool,
    /// Virtual CPUs, 1 to 255
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=255))]
    pub cpus: u8,
    /// Memory, as 256M or 2G
    #[arg(long, default_value = "256M", value_parser = parse_mem)]
    pub mem: u64,
    /// The kernel's command line
    #[arg(long, default_value = "console=ttyS0", value_parser = parse_cmdline)]
    pub cmdline: String,
}

/// One `--disk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

impl std::str::FromStr for DiskArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        Ok(Self {
            path: path.into(),
            read_only,
        })
    }
}

/// One `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetArg {
    /// The tap's name.
    pub tap: String,
    /// The guest's Ethernet address; without one the guest chooses.
    pub mac: Option<[u8; 6]>,
}

impl std::str::FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (tap, mac) = match text.split_once(",mac=") {
            Some((tap, mac)) => (tap, Some(parse_mac(mac)?)),
            None => (text, None),
        };
        let tap = tap
            .strip_prefix("tap=")
            .ok_or("expected tap=NAME or tap=NAME,mac=02:00:00:00:00:01")?;
        let valid = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ',' | ':');
        if !(1..libc::IFNAMSIZ).contains(&tap.len())
            || !tap.chars().all(valid)
            || tap.starts_with('.')
        {
            return Err(format!("{tap:?} is no name of a network device"));
        }
        Ok(Self {
            tap: tap.into(),
            mac,
        })
    }
}

fn parse_mac(text: &str) -> std::result::Result<[u8; 6], String> {
    let byte = |part: &str| match part.len() {
        2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
        Some(mac) if mac[0] & 1 == 0 => Ok(mac),
        Some(_) => Err(format!(
            "{text} is a multicast address; give one of a device"
        )),
        None => Err(format!("{text:?} is no address such as 02:00:00:00:00:01")),
    }
}

/// A tap that this machine has for itself.
#[derive(Debug)]
pub struct Net {
    /// The open tap; its reads don't wait.
    pub tap: File,
    /// The guest's Ethernet address; without one the guest chooses.
    pub mac: Option<[u8; 6]>,
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
    /// Whether there is a source of random bytes.
    pub rng: bool,
    /// Number of vCPUs.
    pub cpus: u8,
    /// Bytes of memory.
    pub mem: u64,
    /// The kernel's command line.
    pub cmdline: String,
}

impl Config {
    /// How many virtio devices the machine has.
    pub fn virtio_devices(&self) -> usize {
        self.disks.len() + self.nets.len() + usize::from(self.rng)
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
        let open = |what, path: PathBuf| {
            let file = File::open(&path).map_err(Error::file("open", what, &path))?;
            Ok((path, file))
        };
        let devices = args.disks.len() + args.nets.len() + usize::from(args.rng);
        if devices > VIRTIO_MMIO_MAX {
            return Err(Error::Config(format!(
                "{devices} virtio devices (--disk, --net, --rng): at most {VIRTIO_MMIO_MAX} are possible"
            )));
        }
        Ok(Self {
            kernel: open("kernel", args.kernel)?,
            initrd: args.initrd.map(|path| open("initrd", path)).transpose()?,
            disks: (0..)
                .zip(&args.disks)
                .map(|(index, arg)| open_disk(index, arg))
                .collect::<Result<_>>()?,
            nets: args.nets.iter().map(open_net).collect::<Result<_>>()?,
            rng: args.rng,
            cpus: args.cpus,
            mem: args.mem,
            cmdline: args.cmdline,
        })
    }
}

fn open_net(arg: &NetArg) -> Result<Net> {
    Ok(Net {
        tap: open_tap(&arg.tap)?,
        mac: arg.mac,
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

/// Reads a size with the suffix M or G; without one it is in MiB.
fn parse_mem(text: &str) -> std::result::Result<u64, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024 * MIB),
        Some(b'M' | b'm') => (&text[..text.len() - 1], MIB),
        _ => (text, MIB),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or("expected a size such as 256M or 2G")?;
    if !(32 * MIB..=1024 * 1024 * MIB).contains(&bytes) {
        return Err("memory is 32M to 1024G".into());
    }
    Ok(bytes)
}

fn parse_cmdline(text: &str) -> std::result::Result<String, String> {
    if text.len() >= CMDLINE_MAX {
        return Err(format!(
            "{} bytes; at most {} fit",
            text.len(),
            CMDLINE_MAX - 1
        ));
    }
    if text.contains('\0') {
        return Err("a zero byte ends the command line".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(parse_mem("256M"), Ok(256 * MIB));
        assert_eq!(parse_mem("64"), Ok(64 * MIB));
        assert_eq!(parse_mem("2g"), Ok(2048 * MIB));
        for bad in ["", "M", "1M", "-1", "12X", "99999999999999G", "2000G"] {
            assert!(parse_mem(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_disk_may_be_read_only() {
        let disk: DiskArg = "a,b,ro".parse().unwrap();
        assert_eq!((disk.path, disk.read_only), ("a,b".into(), true));
        let disk: DiskArg = "a.img".parse().unwrap();
        assert_eq!((disk.path, disk.read_only), ("a.img".into(), false));
    }

    #[test]
    fn a_network_device_has_a_tap_and_may_have_an_address() {
        let net: NetArg = "tap=vm0".parse().unwrap();
        assert_eq!((net.tap.as_str(), net.mac), ("vm0", None));
        let net: NetArg = "tap=vm0,mac=02:00:00:00:00:fe".parse().unwrap();
        assert_eq!(net.mac, Some([2, 0, 0, 0, 0, 0xfe]));
        for bad in [
            "",
            "vm0",
            "tap=",
            "tap=../x",
            "tap=a/b",
            "tap=sixteen-letters-",
            "tap=vm0,mac=",
            "tap=vm0,mac=02:00:00:00:00",
            "tap=vm0,mac=02:00:00:00:00:00:00",
            "tap=vm0,mac=+2:00:00:00:00:00:00",
            "tap=vm0,mac=01:00:00:00:00:00",
        ] {
            assert!(bad.parse::<NetArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_line_must_fit() {
        assert!(parse_cmdline(&"x".repeat(CMDLINE_MAX - 1)).is_ok());
        assert!(parse_cmdline(&"x".repeat(CMDLINE_MAX)).is_err());
        assert!(parse_cmdline("a\0b").is_err());
    }
}
