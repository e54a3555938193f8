//! What can go wrong, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// An error of the testbed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}; is it installed and on PATH?")]
    Start {
        /// The program's name.
        program: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program ended with a failure.
    #[error("{program} failed ({status}): {last_line} (all of its output: {})", log.display())]
    Failed {
        /// The program's name.
        program: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last line that it printed.
        last_line: String,
        /// Where its whole output is.
        log: PathBuf,
    },
    /// The user asked to stop.
    #[error("stopped by a signal")]
    Cancelled,
    /// Debian packages are missing and can't be installed by this user.
    #[error("missing Debian packages; as root run: apt-get install {0}")]
    MissingPackages(String),
    /// Something that the build needs was not where it should be.
    #[error("{0}")]
    Setup(String),
    /// A host did something else than it was booted for; it has said why.
    #[error("{0}")]
    Host(String),
    /// What was measured can't be kept.
    #[error(transparent)]
    Record(#[from] dense_record::Error),
    /// A kernel does not boot or says that something is wrong.
    #[error("{kernel}: {report}; the patch before it is the last good one")]
    Kernel {
        /// Which patch it was built with last.
        kernel: String,
        /// What it said.
        report: String,
    },
    /// The emulated host reached its limit of virtual time.
    #[error("the emulated host did not finish within {limit_s} s of virtual time; its console: {}", console.display())]
    TimeLimit {
        /// The limit in virtual seconds.
        limit_s: u64,
        /// Where the console's text was kept.
        console: PathBuf,
    },
    /// The emulated host ended without a result.
    #[error("the emulated host ended without a result ({status}); last console line: {last_line}; its console: {}", console.display())]
    NoResult {
        /// The emulator's exit status.
        status: std::process::ExitStatus,
        /// The console's last line.
        last_line: String,
        /// Where the console's text was kept.
        console: PathBuf,
    },
}

impl Error {
    /// The same error, with its console's text where it was kept.
    pub fn with_console(mut self, kept: PathBuf) -> Self {
        if let Self::TimeLimit { console, .. } | Self::NoResult { console, .. } = &mut self {
            *console = kept;
        }
        self
    }

    /// Makes an [`Error::Io`] of an operation on `path`; for `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What to do about the commonest causes.
fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => {
            "; free some space or point VMFIRST_CACHE to another disk"
        }
        std::io::ErrorKind::PermissionDenied => "; choose a folder that you may write to",
        _ => "",
    }
}
