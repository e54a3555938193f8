//! How long a fair thread runs before others of its weight get their turn.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::attr::Attr;
use super::{Tid, whose};
use crate::{Error, Result};

/// The kernel's bounds: `__setparam_fair()` clamps to 0.1 ms and 100 ms.
const LEAST: Duration = Duration::from_micros(100);
const MOST: Duration = Duration::from_millis(100);

/// A thread's slice; `default` is the host's base_slice_ns. A short slice is an early
/// deadline: the thread is chosen sooner after it wakes up, and runs for shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice(Option<Duration>);

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "default" {
            return Ok(Self(None));
        }
        let units = [("us", 1_000.0), ("ms", 1_000_000.0)];
        let unit = units.iter().find_map(|&(unit, ns)| {
            let number = text.strip_suffix(unit)?;
            let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            Some(number.parse::<f64>().ok().filter(|_| plain)? * ns)
        });
        let slice = unit.map(|ns| Duration::from_nanos(ns.round() as u64));
        let slice = slice.filter(|slice| (LEAST..=MOST).contains(slice));
        slice.map(|slice| Self(Some(slice))).ok_or_else(|| {
            format!("{text:?} is no slice: default, or 100us to 100ms, such as 0.5ms")
        })
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(slice) => write!(f, "{}us", slice.as_nanos() as f64 / 1000.0),
            None => f.write_str("default"),
        }
    }
}

impl Slice {
    /// The slice that a thread has, its own or the host's. None where its class has none,
    /// or the kernel tells none (before Linux 6.12).
    pub fn of(tid: Tid) -> std::io::Result<Option<Duration>> {
        let attr = Attr::of(tid)?;
        Ok((is_fair(&attr) && attr.runtime > 0).then(|| Duration::from_nanos(attr.runtime)))
    }

    /// A slice that [`Slice::of`] told.
    pub fn exactly(slice: Duration) -> Self {
        Self(Some(slice))
    }

    /// Gives a thread this slice and reads it back.
    ///
    /// # Errors
    /// [`Error::Usage`] when the thread's class has no slices, [`Error::Lacking`] before
    /// Linux 6.12.
    pub fn give(self, tid: Tid) -> Result<()> {
        let refused = |source| {
            let right = "; a thread of another user takes root or CAP_SYS_NICE";
            Error::refused("set the slice of", whose(tid), source, right)
        };
        let mut attr = Attr::of(tid).map_err(refused)?;
        if !is_fair(&attr) {
            return Err(Error::Usage(format!(
                "{} has a class without slices: give it class fair or batch first",
                whose(tid)
            )));
        }
        if attr.runtime == 0 {
            return Err(Error::Lacking {
                what: "slice for each thread".into(),
                instead: "Linux 6.12 has it; cpu.weight works before",
            });
        }
        attr.runtime = self.0.map_or(0, |slice| slice.as_nanos() as u64);
        attr.give(tid).map_err(refused)?;
        let found = Attr::of(tid).map_err(refused)?.runtime;
        if self.0.is_some() && found != attr.runtime {
            return Err(Error::Differs {
                what: format!("the slice of {}", whose(tid)),
                asked: self.to_string(),
                found: Self(Some(Duration::from_nanos(found))).to_string(),
            });
        }
        Ok(())
    }
}

fn is_fair(attr: &Attr) -> bool {
    let policy = attr.policy as i32;
    [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].contains(&policy)
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_thread;
    use super::super::{Class, Uclamp};
    use super::*;

    #[test]
    fn slices_have_units_and_bounds() {
        for (text, shown) in [
            ("100us", "100us"),
            ("0.5ms", "500us"),
            ("100ms", "100000us"),
            ("default", "default"),
        ] {
            assert_eq!(text.parse::<Slice>().unwrap().to_string(), shown);
        }
        for bad in [
            "", "1", "99us", "101ms", "-1ms", "1s", "ms", "nanms", "1e0ms", "infus",
        ] {
            assert!(bad.parse::<Slice>().is_err(), "{bad}");
        }
    }

    /// The slice is the thread's alone, and the class and clamps that it has stay.
    #[test]
    fn a_slice_is_set_and_taken_back() {
        on_thread(|tid| {
            let Some(before) = Slice::of(tid).unwrap() else {
                eprintln!("SKIP: this kernel has no slice for each thread");
                return;
            };
            Class::Batch.give(tid).unwrap();
            let clamps = Uclamp::of(tid).unwrap();
            let slice: Slice = "0.3ms".parse().unwrap();
            slice.give(tid).unwrap();
            assert_eq!(Slice::of(tid).unwrap(), Some(Duration::from_micros(300)));
            assert_eq!(Class::of(tid).unwrap(), "batch");
            assert_eq!(Uclamp::of(tid).unwrap(), clamps);
            Slice(None).give(tid).unwrap();
            assert_eq!(Slice::of(tid).unwrap(), Some(before));
        });
    }

    /// It would be pinned to the thread if the class were given with what was read.
    #[test]
    fn a_new_class_has_the_hosts_slice() {
        on_thread(|tid| {
            let Some(before) = Slice::of(tid).unwrap() else {
                eprintln!("SKIP: this kernel has no slice for each thread");
                return;
            };
            "0.3ms".parse::<Slice>().unwrap().give(tid).unwrap();
            Class::Batch.give(tid).unwrap();
            assert_eq!(Slice::of(tid).unwrap(), Some(before));
        });
    }
}
