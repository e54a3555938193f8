//! What can go wrong when a host is looked at or steered.

use std::io;

/// An error that tells the user what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense; nothing was tried.
    #[error("{0}")]
    Usage(String),
    /// The host has it otherwise: change that, or do without. Nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// The kernel, or its configuration, lacks it.
    #[error("this kernel has no {what}; {instead}")]
    Lacking {
        /// What is lacking.
        what: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {what}: {source}{hint}")]
    Refused {
        /// What was tried, as a verb and its object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
        /// What the caller lacks, with punctuation in front; empty when unknown.
        hint: &'static str,
    },
    /// The kernel agreed, and has another value.
    #[error("{what} was set to {asked} and has {found}")]
    Differs {
        /// What was set.
        what: String,
        /// The value that was asked for.
        asked: String,
        /// The value that was read back.
        found: String,
    },
    /// A part failed, and what was done before it could not be undone.
    #[error("{error}; could not be put back: {stays}")]
    Stuck {
        /// What failed.
        error: Box<Error>,
        /// What has its new value still.
        stays: String,
    },
    /// A thread, process or group that was there before.
    #[error("{0} has ended")]
    Gone(String),
}

impl Error {
    /// For a call on `whose` (a thread, a process) that the kernel refused; `hint` is for
    /// a caller who lacks the right.
    pub(crate) fn refused(
        what: impl Into<String>,
        whose: impl Into<String>,
        source: impl Into<io::Error>,
        hint: &'static str,
    ) -> Self {
        let (source, whose) = (source.into(), whose.into());
        match source.raw_os_error() {
            Some(libc::ESRCH) => Self::Gone(whose),
            Some(libc::EPERM | libc::EACCES) => Self::Refused {
                what: format!("{} {whose}", what.into()),
                source,
                hint,
            },
            _ => Self::Refused {
                what: format!("{} {whose}", what.into()),
                source,
                hint: "",
            },
        }
    }

    /// Whether the caller's rights were too small.
    pub fn is_permission(&self) -> bool {
        let code = |source: &io::Error| source.raw_os_error();
        matches!(self, Self::Refused { source, .. }
            if matches!(code(source), Some(libc::EPERM | libc::EACCES)))
    }

    /// Whether the kernel lacks it.
    pub fn is_lacking(&self) -> bool {
        matches!(self, Self::Lacking { .. })
    }

    /// Whether what was there before has ended.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_for_who_lacks_the_right() {
        let make = |code| {
            let source = io::Error::from_raw_os_error(code);
            Error::refused("set the slice of", "thread 7", source, "; it takes root")
        };
        assert_eq!(make(libc::ESRCH).to_string(), "thread 7 has ended");
        assert!(make(libc::ESRCH).is_gone());
        assert!(make(libc::EPERM).to_string().ends_with("; it takes root"));
        assert!(make(libc::EPERM).is_permission());
        assert!(!make(libc::EINVAL).to_string().contains("root"));
    }
}
