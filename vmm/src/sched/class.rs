//! Scheduling classes by name, and how a thread gets one.

use std::fmt;
use std::io;
use std::mem::size_of;
use std::str::FromStr;

use rustix::process::{Pid, getpriority_process};

use super::Tid;
use crate::{Error, Result};

/// Policy numbers of kernels that have these classes: kernel-patches/README.md.
const SCHED_VMF: i32 = 8;
const SCHED_BT: i32 = 9;

/// A scheduling class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Class {
    /// The ordinary class.
    #[default]
    Fair,
    /// VM first: above fair, below real time. Not in every kernel.
    Vmf,
    /// Best effort: below fair. Not in every kernel.
    Bt,
    /// Real time, round robin, with this priority.
    Rr(u8),
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let priority = match text.split_once(':') {
            Some(("rr", priority)) => priority.parse().ok().filter(|p| (1..=99).contains(p)),
            Some(_) => None,
            None => Some(1),
        };
        match (text.split(':').next().unwrap_or_default(), priority) {
            ("fair", Some(_)) => Ok(Self::Fair),
            ("vmf", Some(_)) => Ok(Self::Vmf),
            ("bt", Some(_)) => Ok(Self::Bt),
            ("rr", Some(priority)) => Ok(Self::Rr(priority)),
            _ => Err(format!(
                "{text:?} is no class: fair, vmf, bt, rr or rr:PRIORITY with 1 to 99"
            )),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Fair => f.write_str("fair"),
            Self::Vmf => f.write_str("vmf"),
            Self::Bt => f.write_str("bt"),
            Self::Rr(priority) => write!(f, "rr:{priority}"),
        }
    }
}

impl Class {
    fn policy(self) -> (i32, u32) {
        match self {
            Self::Fair => (libc::SCHED_OTHER, 0),
            Self::Vmf => (SCHED_VMF, 0),
            Self::Bt => (SCHED_BT, 0),
            Self::Rr(priority) => (libc::SCHED_RR, priority.into()),
        }
    }

    /// Whether kernels may lack it.
    fn is_optional(self) -> bool {
        matches!(self, Self::Vmf | Self::Bt)
    }

    /// Gives threads this class and reads it back. Where the kernel lacks it, they
    /// get fair, or with `strict` it is an error. Returns the class that they have then.
    pub fn give(self, threads: &[Tid], strict: bool) -> Result<Self> {
        for &tid in threads {
            match self.set(tid) {
                Err(e) if self.is_optional() && e.raw_os_error() == Some(libc::EINVAL) => {
                    if strict {
                        return Err(Error::Refused(format!(
                            "this kernel has no scheduling class {self}; choose another, or \
                             leave --vcpu-class-strict away to run as fair"
                        )));
                    }
                    return Self::Fair.give(threads, strict);
                }
                other => other.map_err(|source| self.refused(source))?,
            }
            let found = Self::of(tid).map_err(|source| self.refused(source))?;
            if found != self.to_string() {
                return Err(Error::Refused(format!(
                    "thread {tid} was given class {self} and has {found}"
                )));
            }
        }
        Ok(self)
    }

    fn refused(self, source: io::Error) -> Error {
        let hint = match source.raw_os_error() {
            Some(libc::EPERM) => "; it takes root, or CAP_SYS_NICE",
            _ => "",
        };
        Error::Refused(format!(
            "cannot give threads the scheduling class {self}: {source}{hint}"
        ))
    }

    fn set(self, tid: Tid) -> io::Result<()> {
        let (policy, priority) = self.policy();
        let mut attr = attributes(tid)?;
        if attr.sched_policy == policy as u32 && attr.sched_priority == priority {
            return Ok(());
        }
        attr.size = size_of::<libc::sched_attr>() as u32;
        attr.sched_policy = policy as u32;
        attr.sched_priority = priority;
        // The nice value that the user chose for this process stays; a thread of a
        // real-time class has one too, which its attributes don't tell.
        attr.sched_nice = getpriority_process(Pid::from_raw(tid))?;
        if self != Self::Fair {
            // KVM starts a thread of its own from a vCPU's: that is not to be like it.
            attr.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
        }
        // SAFETY: the kernel reads one sched_attr of the size that it holds.
        let done = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The name of the class that a thread has; of one that is none of ours, too.
    pub fn of(tid: Tid) -> io::Result<String> {
        let attr = attributes(tid)?;
        let priority = attr.sched_priority;
        Ok(match attr.sched_policy as i32 {
            libc::SCHED_OTHER => Self::Fair.to_string(),
            SCHED_VMF => Self::Vmf.to_string(),
            SCHED_BT => Self::Bt.to_string(),
            libc::SCHED_RR => format!("rr:{priority}"),
            libc::SCHED_FIFO => format!("fifo:{priority}"),
            libc::SCHED_BATCH => "batch".into(),
            libc::SCHED_IDLE => "idle".into(),
            libc::SCHED_DEADLINE => "deadline".into(),
            7 => "ext".into(),
            other => format!("policy {other}"),
        })
    }
}

fn attributes(tid: Tid) -> io::Result<libc::sched_attr> {
    let mut attr = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes into a sched_attr.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) };
    match done {
        0 => Ok(attr),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_names() {
        for text in ["fair", "vmf", "bt", "rr:1", "rr:99"] {
            assert_eq!(text.parse::<Class>().unwrap().to_string(), text);
        }
        assert_eq!("rr".parse(), Ok(Class::Rr(1)));
        for bad in [
            "", "rr:0", "rr:100", "rr:", "vmf:1", "fair:", "FIFO", "rr:1:2",
        ] {
            assert!(bad.parse::<Class>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fair_is_always_there() {
        assert_eq!(Class::Fair.give(&[0], true).unwrap(), Class::Fair);
        assert_eq!(Class::of(0).unwrap(), "fair");
    }
}
