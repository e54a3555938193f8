//! Core scheduling: only threads with the same cookie run on one core's hardware threads
//! at a time (Documentation/admin-guide/hw-vuln/core-scheduling.rst).

use std::io;
use std::thread;

use super::{Tid, whose};
use crate::{Error, Result};

/// Whose threads a call is for: `enum pid_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One thread.
    Thread = 0,
    /// All threads of the process.
    Process = 1,
}

const RIGHT: &str = "; it takes root or CAP_SYS_PTRACE for a process of another user, or one \
                     that is not dumpable";

/// A thread's cookie; 0 is none. Only equality means something.
pub fn of(tid: Tid) -> Result<u64> {
    let mut cookie = 0u64;
    call(libc::PR_SCHED_CORE_GET, tid, Scope::Thread, &raw mut cookie)
        .map_err(|source| refused("read the core-scheduling cookie of", tid, source))?;
    Ok(cookie)
}

/// Gives a thread, or its whole process, a new cookie that nothing else has, and sees that
/// the thread has one.
pub fn create(tid: Tid, scope: Scope) -> Result<()> {
    let before = of(tid)?;
    call(libc::PR_SCHED_CORE_CREATE, tid, scope, std::ptr::null_mut())
        .map_err(|source| refused("give a core-scheduling cookie to", tid, source))?;
    match of(tid)? {
        found if found != 0 && found != before => Ok(()),
        found => Err(differs(tid, "a new one", found)),
    }
}

/// Takes a thread's cookie away.
pub fn clear(tid: Tid) -> Result<()> {
    Holder::new(0)?.give(tid)
}

/// Keeps a thread's cookie, so that it can be given back when the thread has another.
/// A cookie lives only as long as a thread has it: a thread of this process does.
#[derive(Debug)]
pub struct Holder {
    cookie: u64,
    ask: std::sync::mpsc::Sender<(Tid, std::sync::mpsc::Sender<io::Result<()>>)>,
}

impl Holder {
    /// Holds the cookie that `tid` has now; 0 is none, as this process has.
    pub fn new(tid: Tid) -> Result<Self> {
        let (ask, asked) = std::sync::mpsc::channel::<(Tid, std::sync::mpsc::Sender<_>)>();
        let (said, ready) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let null = std::ptr::null_mut();
            let taken = match tid {
                0 => Ok(()),
                tid => call(libc::PR_SCHED_CORE_SHARE_FROM, tid, Scope::Thread, null),
            };
            let _ = said.send(taken);
            while let Ok((tid, answer)) = asked.recv() {
                let null = std::ptr::null_mut();
                let given = call(libc::PR_SCHED_CORE_SHARE_TO, tid, Scope::Thread, null);
                let _ = answer.send(given);
            }
        });
        let taken = ready.recv().unwrap_or_else(|_| Err(lost()));
        taken.map_err(|source| refused("share the core-scheduling cookie of", tid, source))?;
        let cookie = of(tid)?;
        if tid == 0 && cookie != 0 {
            return Err(Error::Usage(
                "this program runs with a core-scheduling cookie of its own and so can't take \
                 one away: start it from a shell without"
                    .into(),
            ));
        }
        Ok(Self { cookie, ask })
    }

    /// Gives a thread the cookie and reads it back.
    pub fn give(&self, tid: Tid) -> Result<()> {
        let (answer, answered) = std::sync::mpsc::channel();
        let asked = self.ask.send((tid, answer)).map_err(|_| lost());
        let given = asked.and_then(|()| answered.recv().unwrap_or_else(|_| Err(lost())));
        given.map_err(|source| refused("give a core-scheduling cookie to", tid, source))?;
        match of(tid)? {
            found if found == self.cookie => Ok(()),
            found => Err(differs(tid, &format!("{:#x}", self.cookie), found)),
        }
    }
}

fn lost() -> io::Error {
    io::Error::other("the thread that holds it has ended")
}

fn differs(tid: Tid, asked: &str, found: u64) -> Error {
    Error::Differs {
        what: format!("the core-scheduling cookie of {}", whose(tid)),
        asked: asked.into(),
        found: format!("{found:#x}"),
    }
}

fn refused(what: &str, tid: Tid, source: io::Error) -> Error {
    let lacking = |instead| Error::Lacking {
        what: "core scheduling here".into(),
        instead,
    };
    match source.raw_os_error() {
        Some(libc::ENODEV) => lacking("the host's CPUs have one thread a core: nothing to isolate"),
        Some(libc::EINVAL) => lacking("it takes CONFIG_SCHED_CORE"),
        _ => Error::refused(what, whose(tid), source, RIGHT),
    }
}

fn call(command: libc::c_int, tid: Tid, scope: Scope, cookie: *mut u64) -> io::Result<()> {
    let scope = scope as libc::c_ulong;
    // SAFETY: only PR_SCHED_CORE_GET writes, a u64 to `cookie`, which points to one then.
    let done = unsafe { libc::prctl(libc::PR_SCHED_CORE, command, tid, scope, cookie) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_thread;
    use super::*;

    /// Where core scheduling is there: made, kept, taken away, given back.
    #[test]
    fn a_cookie_comes_back() {
        on_thread(|tid| {
            if let Err(error) = create(tid, Scope::Thread) {
                assert!(error.is_lacking(), "{error}");
                eprintln!("SKIP: {error}");
                return;
            }
            let first = of(tid).unwrap();
            let holder = Holder::new(tid).unwrap();
            clear(tid).unwrap();
            assert_eq!(of(tid).unwrap(), 0);
            holder.give(tid).unwrap();
            assert_eq!(of(tid).unwrap(), first);
        });
    }
}
