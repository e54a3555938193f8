//! A thread's scheduling attributes as the kernel has them: sched_setattr(2).

use std::io;
use std::mem::size_of;

use super::Tid;

/// Flags of sched_setattr(2), from include/uapi/linux/sched.h.
pub const KEEP_ALL: u64 = 0x18;
pub const RESET_ON_FORK: u64 = 0x01;
pub const UTIL_CLAMP: u64 = 0x60;

/// struct sched_attr with the clamps, which libc's lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Attr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Of fair classes the slice in ns, 0 for the host's; Linux 6.12.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// 0 to 1024.
    pub util_min: u32,
    /// 0 to 1024.
    pub util_max: u32,
}

impl Attr {
    /// Those of a thread.
    pub fn of(tid: Tid) -> io::Result<Self> {
        let mut attr = Self::default();
        let size = size_of::<Self>();
        // SAFETY: the kernel writes at most `size` bytes into an Attr, which any bytes make.
        let done = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) };
        match done {
            0 => Ok(attr),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives them to a thread. Clamps change only with the flag for them.
    pub fn give(mut self, tid: Tid) -> io::Result<()> {
        self.size = size_of::<Self>() as u32;
        // SAFETY: the kernel reads one Attr of the size that it holds.
        let done = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const self, 0) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
