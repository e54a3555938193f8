//! What can go wrong, said so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// An error of the benchmark.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program could not be run or failed.
    #[error("{program}: {reason}")]
    Program {
        /// The program.
        program: String,
        /// What happened.
        reason: String,
    },
    /// A plan, a cell or a results file does not make sense.
    #[error("{0}")]
    Invalid(String),
    /// A guest gave no result.
    #[error("guest {guest}: {reason}")]
    Guest {
        /// Its number, from 0.
        guest: usize,
        /// What happened.
        reason: String,
    },
}

impl Error {
    /// For `map_err` on an operation on `path`.
    pub fn io<E: Into<std::io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }
}
