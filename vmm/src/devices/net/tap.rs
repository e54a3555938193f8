//! A tap that the host has made.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, Read, Result as IoResult, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use libc::{TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::HEADER;
use crate::{Error, Result};

const TUN: &str = "/dev/net/tun";
/// What the guest may take, and how the tap calls it.
const TAKES: [(u32, libc::c_uint); 3] = [
    (VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
];

/// A tap that this process has for itself. Before each frame is a virtio header.
#[derive(Debug)]
pub struct Tap {
    file: File,
    offloads: bool,
}

impl Tap {
    /// Sees that there is a tap of this name. The kernel would make one that is missing: then
    /// the user has mistyped its name.
    pub fn check(name: &str) -> Result<()> {
        check(name)
    }

    /// Attaches to tap `name`, which must be there and in nobody's use. Reads don't wait.
    pub fn open(name: &str) -> Result<Self> {
        check(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(TUN)
            .map_err(Error::file("open", "tap driver", Path::new(TUN)))?;
        attach(&file, name).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => Error::Refused(format!(
                "network device {name} is not a tap; make one: ip tuntap add dev NAME mode tap"
            )),
            Some(libc::EBUSY) => Error::Busy(format!("tap {name} is in use by another program")),
            _ => Error::Refused(format!("tap {name} cannot be attached to: {error}")),
        })?;
        let mut tap = Self {
            file,
            offloads: true,
        };
        // An old kernel may not have all; and the last user may have left some on.
        tap.offloads = tap.give(u64::MAX).is_ok();
        tap.give(0).map_err(Error::system("set up a tap"))?;
        Ok(tap)
    }

    /// A tap whose other end is a test's.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn mock(file: File) -> Self {
        Self {
            file,
            offloads: true,
        }
    }

    /// Whether the host's kernel does checksums and segments.
    pub fn offloads(&self) -> bool {
        self.offloads
    }

    /// Leaves out of frames to the guest what a driver with these features does itself.
    pub fn give(&self, features: u64) -> IoResult<()> {
        let flags = TAKES
            .iter()
            .filter(|(feature, _)| features & 1 << feature != 0)
            .fold(0, |flags, (_, flag)| flags | flag);
        // SAFETY: the descriptor is open, and the request takes a number.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, flags) };
        if done < 0 {
            return Err(IoError::last_os_error());
        }
        Ok(())
    }

    /// Reads a header and a frame; none if there is none now.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let size = (&self.file).read(buffer).ok()?;
        (size > HEADER).then_some(size)
    }

    /// Sends a frame with its header; tells whether the tap took it.
    pub fn send(&self, frame: &[u8]) -> bool {
        (&self.file).write(frame).is_ok()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn check(name: &str) -> Result<()> {
    // A name of this network namespace, whatever /sys shows.
    let found = CString::new(name).is_ok_and(|name| {
        // SAFETY: the name ends in a zero.
        unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
    });
    match found {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "tap {name} does not exist; make it: ip tuntap add dev {name} mode tap"
        ))),
    }
}

fn attach(file: &File, name: &str) -> IoResult<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // Config has checked that a final zero is left.
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: flags as libc::c_short,
        },
    };
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(IoError::last_os_error());
    }
    let size = HEADER as libc::c_int;
    // SAFETY: the descriptor is open, and the kernel reads one int.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } < 0 {
        return Err(IoError::last_os_error());
    }
    Ok(())
}
