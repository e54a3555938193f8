//! Utilisation clamps: what the scheduler believes a thread to need of a CPU's capacity.

use std::fmt;
use std::str::FromStr;

use super::attr::{Attr, KEEP_ALL, UTIL_CLAMP};
use super::{Tid, whose};
use crate::{Error, Result};

/// The capacity of the biggest CPU.
const SCALE: u32 = 1024;
/// sched_setattr(2) takes a clamp away when it is -1.
const RESET: u32 = u32::MAX;

/// Least and most, each of 1024: "0:512". "default" takes a thread's clamps away, so
/// that those of the host hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uclamp(Option<(u32, u32)>);

impl FromStr for Uclamp {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "default" {
            return Ok(Self(None));
        }
        let bounds = text.split_once(':').and_then(|(least, most)| {
            let (least, most): (u32, u32) = (least.parse().ok()?, most.parse().ok()?);
            (least <= most && most <= SCALE).then_some((least, most))
        });
        bounds
            .map(|b| Self(Some(b)))
            .ok_or_else(|| format!("{text:?} is no clamp: default, or MIN:MAX of 0 to {SCALE}"))
    }
}

impl fmt::Display for Uclamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some((least, most)) => write!(f, "{least}:{most}"),
            None => f.write_str("default"),
        }
    }
}

impl Uclamp {
    /// The clamps that a thread has; both 0 where the kernel has none.
    pub fn of(tid: Tid) -> std::io::Result<Self> {
        let attr = Attr::of(tid)?;
        Ok(Self(Some((attr.util_min, attr.util_max))))
    }

    /// Gives a thread these clamps and reads them back.
    ///
    /// # Errors
    /// [`Error::Lacking`] without CONFIG_UCLAMP_TASK.
    pub fn give(self, tid: Tid) -> Result<()> {
        let refused = |source: std::io::Error| match source.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Error::Lacking {
                what: "utilisation clamps".into(),
                instead: "they take CONFIG_UCLAMP_TASK and a schedutil governor",
            },
            _ => {
                let right = "; a thread of another user takes root or CAP_SYS_NICE";
                Error::refused("set the clamps of", whose(tid), source, right)
            }
        };
        let (util_min, util_max) = self.0.unwrap_or((RESET, RESET));
        let attr = Attr {
            flags: KEEP_ALL | UTIL_CLAMP,
            util_min,
            util_max,
            ..Attr::default()
        };
        attr.give(tid).map_err(refused)?;
        let found = Self::of(tid).map_err(refused)?;
        if self.0.is_some() && found != self {
            return Err(Error::Differs {
                what: format!("the clamps of {}", whose(tid)),
                asked: self.to_string(),
                found: found.to_string(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_thread;
    use super::super::{Class, Slice};
    use super::*;

    #[test]
    fn clamps_have_bounds() {
        for text in ["0:1024", "100:100", "default"] {
            assert_eq!(text.parse::<Uclamp>().unwrap().to_string(), text);
        }
        for bad in ["", "1", "2:1", "0:1025", "-1:3", ":", "a:b"] {
            assert!(bad.parse::<Uclamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn clamps_are_set_and_nothing_else() {
        on_thread(|tid| {
            Class::Batch.give(tid).unwrap();
            let slice = Slice::of(tid).unwrap();
            match "10:512".parse::<Uclamp>().unwrap().give(tid) {
                Ok(()) => assert_eq!(Uclamp::of(tid).unwrap().to_string(), "10:512"),
                Err(error) => assert!(error.is_lacking(), "{error}"),
            }
            assert_eq!(Class::of(tid).unwrap(), "batch");
            assert_eq!(Slice::of(tid).unwrap(), slice);
        });
    }
}
