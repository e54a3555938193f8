//! What can go wrong, and what to do then.

use std::io;

/// An error that tells the user what to do next, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel, its configuration or its state does not allow it.
    #[error("{0}")]
    Unavailable(String),
    /// The kernel refused the program.
    #[error("cannot {what}: {source}; {hint}")]
    Bpf {
        /// What was tried.
        what: &'static str,
        /// libbpf's answer.
        source: libbpf_rs::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A file of ours.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the file's name.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel ended the scheduler.
    #[error("the kernel ended the scheduler: {0}; all threads are under fair again")]
    Ended(String),
}

impl Error {
    /// For a file that can't be used.
    pub fn io(what: &str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}
