//! Scheduling classes by name, and how a thread gets one.

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::process::{Pid, getpriority_process};

use super::attr::{Attr, RESET_ON_FORK};
use super::{Tid, whose};
use crate::{Error, Result};

/// Policy numbers that these classes have where a kernel has them: no released one does.
const SCHED_VMF: i32 = 8;
const SCHED_BT: i32 = 9;

const RIGHT: &str = "; it takes root, CAP_SYS_NICE, or a high enough RLIMIT_RTPRIO for rr and \
                     fifo (a kernel with CONFIG_RT_GROUP_SCHED and cgroup v1 refuses root, too, \
                     where cpu.rt_runtime_us is 0)";

/// A scheduling class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Class {
    /// The ordinary class.
    #[default]
    Fair,
    /// Fair, without pre-empting others when it wakes up.
    Batch,
    /// The least of fair's weights; any other thread pre-empts it.
    Idle,
    /// VM first: above fair, below real time. Not in every kernel.
    Vmf,
    /// Best effort: below fair. Not in every kernel.
    Bt,
    /// Real time, round robin, with this priority.
    Rr(u8),
    /// Real time, first in, first out, with this priority.
    Fifo(u8),
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, priority) = match text.split_once(':') {
            Some((name @ ("rr" | "fifo"), priority)) => {
                let priority = priority.parse().ok();
                (name, priority.filter(|p| (1..=99).contains(p)))
            }
            Some(_) => (text, None),
            None => (text, Some(1)),
        };
        Ok(match (name, priority) {
            ("fair", _) => Self::Fair,
            ("batch", _) => Self::Batch,
            ("idle", _) => Self::Idle,
            ("vmf", _) => Self::Vmf,
            ("bt", _) => Self::Bt,
            ("rr", Some(priority)) => Self::Rr(priority),
            ("fifo", Some(priority)) => Self::Fifo(priority),
            _ => {
                return Err(format!(
                    "{text:?} is no class: fair, batch, idle, vmf, bt, rr or fifo, the last \
                     two also with a priority of 1 to 99 as rr:PRIORITY"
                ));
            }
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Fair => f.write_str("fair"),
            Self::Batch => f.write_str("batch"),
            Self::Idle => f.write_str("idle"),
            Self::Vmf => f.write_str("vmf"),
            Self::Bt => f.write_str("bt"),
            Self::Rr(priority) => write!(f, "rr:{priority}"),
            Self::Fifo(priority) => write!(f, "fifo:{priority}"),
        }
    }
}

impl Class {
    fn policy(self) -> (i32, u32) {
        match self {
            Self::Fair => (libc::SCHED_OTHER, 0),
            Self::Batch => (libc::SCHED_BATCH, 0),
            Self::Idle => (libc::SCHED_IDLE, 0),
            Self::Vmf => (SCHED_VMF, 0),
            Self::Bt => (SCHED_BT, 0),
            Self::Rr(priority) => (libc::SCHED_RR, priority.into()),
            Self::Fifo(priority) => (libc::SCHED_FIFO, priority.into()),
        }
    }

    /// Whether kernels may lack it.
    fn is_optional(self) -> bool {
        matches!(self, Self::Vmf | Self::Bt)
    }

    /// Gives a thread this class and reads it back. A thread that changes its class has
    /// the host's slice then; [`super::Slice`] comes after the class.
    ///
    /// # Errors
    /// [`Error::Lacking`] where the kernel has no such class.
    pub fn give(self, tid: Tid) -> Result<()> {
        self.set(tid).map_err(|source| self.refused(tid, source))?;
        let found = Self::of(tid).map_err(|source| self.refused(tid, source))?;
        if found != self.to_string() {
            return Err(Error::Differs {
                what: format!("the scheduling class of {}", whose(tid)),
                asked: self.to_string(),
                found,
            });
        }
        Ok(())
    }

    fn what(self) -> String {
        format!("scheduling class {self}")
    }

    /// Whether an error says that the kernel lacks this class.
    pub fn is_lacking_by(self, error: &Error) -> bool {
        matches!(error, Error::Lacking { what, .. } if *what == self.what())
    }

    fn refused(self, tid: Tid, source: io::Error) -> Error {
        if self.is_optional() && source.raw_os_error() == Some(libc::EINVAL) {
            return Error::Lacking {
                what: self.what(),
                instead: "it is in no released kernel (unproven/ has an untested patch); choose another class",
            };
        }
        let what = format!("give the scheduling class {self} to");
        Error::refused(what, whose(tid), source, RIGHT)
    }

    fn set(self, tid: Tid) -> io::Result<()> {
        let (policy, priority) = self.policy();
        let mut attr = Attr::of(tid)?;
        if attr.policy == policy as u32 && attr.priority == priority {
            return Ok(());
        }
        attr.policy = policy as u32;
        attr.priority = priority;
        // What was read is the slice that the thread has; given back it would become one
        // of the thread's own, which the host's base_slice_ns no longer changes.
        attr.runtime = 0;
        // The nice value that the user chose for this process stays; a thread of a
        // real-time class has one too, which its attributes don't tell.
        attr.nice = getpriority_process(Pid::from_raw(tid))?;
        if self != Self::Fair {
            // KVM starts a thread of its own from a vCPU's: that is not to be like it.
            attr.flags |= RESET_ON_FORK;
        }
        attr.give(tid)
    }

    /// The name of the class that a thread has; of one that is none of ours, too.
    pub fn of(tid: Tid) -> io::Result<String> {
        let Attr {
            policy, priority, ..
        } = Attr::of(tid)?;
        Ok(match policy as i32 {
            libc::SCHED_OTHER => Self::Fair.to_string(),
            libc::SCHED_BATCH => Self::Batch.to_string(),
            libc::SCHED_IDLE => Self::Idle.to_string(),
            SCHED_VMF => Self::Vmf.to_string(),
            SCHED_BT => Self::Bt.to_string(),
            libc::SCHED_RR => format!("rr:{priority}"),
            libc::SCHED_FIFO => format!("fifo:{priority}"),
            libc::SCHED_DEADLINE => "deadline".into(),
            7 => "ext".into(),
            other => format!("policy {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_thread;
    use super::*;

    #[test]
    fn classes_have_names() {
        for text in [
            "fair", "batch", "idle", "vmf", "bt", "rr:1", "rr:99", "fifo:3",
        ] {
            assert_eq!(text.parse::<Class>().unwrap().to_string(), text);
        }
        assert_eq!("rr".parse(), Ok(Class::Rr(1)));
        for bad in [
            "", "rr:0", "rr:100", "rr:", "vmf:1", "fair:", "FIFO", "rr:1:2", "fifo:-1",
        ] {
            assert!(bad.parse::<Class>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_given_is_there() {
        on_thread(|tid| {
            for class in [Class::Batch, Class::Idle, Class::Fair] {
                class.give(tid).unwrap();
                assert_eq!(Class::of(tid).unwrap(), class.to_string());
            }
        });
    }

    #[test]
    fn a_thread_that_has_ended_is_told_from_one_that_is_refused() {
        let tid = on_thread(|tid| tid);
        assert!(Class::Batch.give(tid).unwrap_err().is_gone());
    }

    #[test]
    fn a_class_that_the_kernel_lacks_is_said_to_be_lacking() {
        for class in [Class::Vmf, Class::Bt] {
            on_thread(|tid| match class.give(tid) {
                Ok(()) => assert_eq!(Class::of(tid).unwrap(), class.to_string()),
                Err(error) => {
                    assert!(error.is_lacking() || error.is_permission(), "{error}");
                    assert_eq!(Class::of(tid).unwrap(), "fair");
                }
            });
        }
    }
}
