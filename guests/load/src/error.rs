//! What can go wrong.

use std::io;
use std::time::Duration;

/// What was tried, and what came of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It came too late: as after an interrupt that was lost.
    #[error("{what} took {took:?}")]
    Late {
        /// Which operation.
        what: String,
        /// For how long it was waited.
        took: Duration,
    },
    /// Data is not what was written or sent.
    #[error("wrong data: {0}")]
    Data(String),
    /// A thread panicked.
    #[error("a thread panicked; see above")]
    Panic,
}

impl Error {
    /// For `map_err` on a system call.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
