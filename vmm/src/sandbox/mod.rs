//! What the program gives up before it runs a guest: privileges that it doesn't need any
//! more, then, a thread at a time, system calls.
//!
//! The order: everything that the machine needs is open; all threads are there, and have
//! been placed; limits; chroot; a filter for all threads; then each thread, before its first work:
//! groups, gid, uid; no_new_privs; Landlock; its own filter on top.
//!
//! The filter below spares time: the kernel tries each system call that is there on a new
//! filter, but on a filter on top only those that the one below lets pass.

mod files;
mod filters;
mod limits;
mod privileges;
mod refusal;
mod search;

use std::fs::File;
use std::panic;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::thread::{CapabilitySet, secure_computing_mode};
use seccompiler::{BackendError, BpfProgram};

pub use files::Use;

use files::Files;
use privileges::{Privileges, User};

use crate::config::{Confinement, Seccomp};
use crate::{Error, Result};

/// The kinds of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs a vCPU.
    Vcpu,
    /// Serves the devices.
    Io,
    /// The same, with Unix sockets for vsock.
    IoStreams,
    /// Waits for signals and for the end.
    Main,
    /// The same, and moves threads, and removes files of the machine's.
    Steer,
    /// Answers the API.
    Api,
    /// Removes what a machine left, in a process of its own.
    Reap,
}

impl Role {
    /// Those of a machine's process.
    const OF_A_MACHINE: [Self; 6] = [
        Self::Vcpu,
        Self::Io,
        Self::IoStreams,
        Self::Main,
        Self::Steer,
        Self::Api,
    ];
}

/// What to give up, checked; nothing is given up yet.
#[derive(Debug)]
pub struct Sandbox {
    seccomp: Seccomp,
    filters: Filters,
    root: Option<File>,
    /// Bytes of the longest file that the machine writes.
    longest: u64,
    /// What who steers finds by name.
    paths: Vec<(PathBuf, Use)>,
}

impl Sandbox {
    /// Fails where the kernel has no seccomp, but is asked for it. To be called before
    /// other threads are started.
    pub fn new(confinement: &Confinement) -> Result<Self> {
        let seccomp = confinement.seccomp;
        let privileges = Privileges::new(confinement)?;
        if seccomp == Seccomp::On {
            share_heap();
        }
        Ok(Self {
            seccomp,
            filters: Filters::new(seccomp, privileges.user)?,
            root: privileges.root,
            longest: 0,
            paths: Vec::new(),
        })
    }

    /// Lets the machine write a file of so many bytes.
    pub fn allow_length(&mut self, bytes: u64) {
        self.longest = self.longest.max(bytes);
    }

    /// Lets who steers use `path`.
    pub fn allow(&mut self, path: impl Into<PathBuf>, how: Use) {
        self.paths.push((path.into(), how));
    }

    /// What each thread confines itself by, after [`Sandbox::enter`].
    pub fn filters(&self) -> Filters {
        self.filters.clone()
    }

    /// Whether the threads become another user.
    pub fn becomes_user(&self) -> bool {
        self.filters.user.is_some()
    }

    /// Gives up the file system and what no thread needs, for all threads that are there;
    /// returns the filters. No thread can be started after it.
    pub fn enter(self) -> Result<Filters> {
        let filters = self.prepare()?;
        if let Some(base) = filters::base(filters.seccomp) {
            seccompiler::apply_filter_all_threads(&base).map_err(refused)?;
        }
        Ok(filters)
    }

    /// The same for a process of one thread, which stays who it is: it is confined to what
    /// `role` needs, with `kept` alone of root's capabilities.
    pub fn enter_alone(self, role: Role, kept: CapabilitySet) -> Result<()> {
        let filters = self.prepare()?;
        privileges::keep(kept)?;
        filters.confine(role)
    }

    fn prepare(self) -> Result<Filters> {
        limits::set(self.longest)?;
        if self.seccomp == Seccomp::On {
            // Before paths mean something else.
            let _ = self.filters.files.set(Files::new(&self.paths)?);
        }
        if let Some(root) = self.root {
            privileges::leave_root(&root)?;
        }
        if self.seccomp == Seccomp::On {
            panic::set_hook(Box::new(report_panic));
            refusal::tell().map_err(refused)?;
        }
        Ok(self.filters)
    }
}

/// Whom all threads become, and their filters: each is compiled when it is first needed.
#[derive(Debug, Clone)]
pub struct Filters {
    seccomp: Seccomp,
    user: Option<User>,
    programs: Arc<Mutex<Vec<(Role, BpfProgram)>>>,
    files: Arc<OnceLock<Files>>,
}

impl Filters {
    fn new(seccomp: Seccomp, user: Option<User>) -> Result<Self> {
        if seccomp != Seccomp::Off && secure_computing_mode().is_err() {
            return Err(Error::Refused(
                "this kernel has no seccomp; to go without it: --seccomp off".into(),
            ));
        }
        Ok(Self {
            seccomp,
            user,
            programs: Arc::default(),
            files: Arc::default(),
        })
    }

    /// Confines the calling thread to what `role` needs, for good.
    pub fn confine(&self, role: Role) -> Result<()> {
        privileges::give_up(self.user)?;
        if let Some(files) = self.files.get() {
            files.restrict(role)?;
        }
        match self.program(role).map_err(refused)? {
            Some(program) => seccompiler::apply_filter(&program).map_err(refused),
            None => Ok(()),
        }
    }

    fn program(&self, role: Role) -> std::result::Result<Option<BpfProgram>, BackendError> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, program)) = programs.iter().find(|(other, _)| *other == role) {
            return Ok(Some(program.clone()));
        }
        let program = filters::program(role, self.seccomp)?;
        programs.extend(program.clone().map(|program| (role, program)));
        Ok(program)
    }
}

/// Has all threads allocate from the program's own heap. For a heap of a thread's own the
/// C library looks into files of /proc and /sys when it grows or shrinks, and a filter
/// refuses to open files. Threads seldom allocate, and one heap is smaller than many. A
/// thread that is there keeps the heap that it has.
fn share_heap() {
    // SAFETY: sets a number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::System {
        action: "confine a thread (--seccomp)",
        source: std::io::Error::other(error),
    }
}

/// The usual hook opens files for its backtrace, which a confined thread must not do.
fn report_panic(info: &panic::PanicHookInfo) {
    let place = info.location().map_or("?".into(), ToString::to_string);
    let what = info.payload_as_str().unwrap_or("panic");
    log::error!("a fault of this program at {place}: {what}; --seccomp log gives a backtrace");
}

#[cfg(test)]
mod tests;
