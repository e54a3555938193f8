//! Opens a tap that the host has made.

use std::fs::{File, OpenOptions, read_to_string};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::{Error, Result};

const TUN: &str = "/dev/net/tun";

/// Attaches to tap `name`, which must be there and in nobody's use. Reads don't wait.
pub fn open(name: &str) -> Result<File> {
    check(name)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(Error::file("open", "tap driver", Path::new(TUN)))?;
    attach(&file, name).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Error::Config(format!("tap {name} is in use by another program")),
        _ => Error::Config(format!("tap {name} cannot be attached to: {error}")),
    })?;
    Ok(file)
}

/// The kernel would make a tap that is missing: then the user has mistyped its name.
fn check(name: &str) -> Result<()> {
    let device = Path::new("/sys/class/net").join(name);
    if !device.exists() {
        return Err(Error::Config(format!(
            "tap {name} does not exist; make it: ip tuntap add dev {name} mode tap"
        )));
    }
    let flags = read_to_string(device.join("tun_flags")).unwrap_or_default();
    let flags = i32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    if flags & libc::IFF_TAP == 0 {
        return Err(Error::Config(format!(
            "network device {name} is not a tap; make one: ip tuntap add dev NAME mode tap"
        )));
    }
    Ok(())
}

fn attach(file: &File, name: &str) -> std::io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // Config has checked that a final zero is left.
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        },
    };
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
