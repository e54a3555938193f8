//! A page of memory that isn't there until it is brought: whoever touches it sleeps.
//! Documentation/admin-guide/mm/userfaultfd.rst.

use std::fs::File;
use std::os::fd::FromRawFd;

use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use crate::Error;

const PAGE: u64 = 4096;
/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;
/// `UFFDIO_API`, `UFFDIO_REGISTER` and `UFFDIO_ZEROPAGE`.
const IOCTL_API: libc::c_ulong = 0xc018_aa3f;
const IOCTL_REGISTER: libc::c_ulong = 0xc020_aa00;
const IOCTL_ZEROPAGE: libc::c_ulong = 0xc020_aa04;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` and `struct uffdio_zeropage`, which look alike.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
    mode: u64,
    /// What the kernel answers.
    answer: u64,
}

/// Gone, and its sleepers awake, when this is dropped.
#[derive(Debug)]
pub struct MissingPage {
    file: File,
    at: u64,
}

impl MissingPage {
    /// Takes the page at `at`, which nobody has touched yet.
    pub fn hold(at: u64) -> Result<Self, Error> {
        // SAFETY: takes flags only and returns a file descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            let why = std::io::Error::last_os_error();
            return Err(Error::setup("make a userfaultfd", why));
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        let page = Self { file, at };
        let mut api = Api {
            api: API,
            features: 0,
            ioctls: 0,
        };
        page.call(IOCTL_API, &mut api)?;
        page.call(IOCTL_REGISTER, &mut page.range(MODE_MISSING))?;
        Ok(page)
    }

    /// Brings it, full of zeros; wakes up whoever sleeps.
    pub fn bring(&self) -> Result<(), Error> {
        self.call(IOCTL_ZEROPAGE, &mut self.range(0))
    }

    fn range(&self, mode: u64) -> Range {
        Range {
            start: self.at,
            len: PAGE,
            mode,
            answer: 0,
        }
    }

    fn call<T>(&self, request: libc::c_ulong, argument: &mut T) -> Result<(), Error> {
        // SAFETY: each request gets the structure that it takes.
        match unsafe { ioctl_with_mut_ref(&self.file, request, argument) } {
            0 => Ok(()),
            _ => {
                let why = std::io::Error::last_os_error();
                Err(Error::setup("hold a page back", why))
            }
        }
    }
}
