//! What can go wrong.

/// What was tried, and what failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call.
    #[error("cannot {what}: {why}; this needs read and write access to /dev/kvm")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        why: String,
    },
    /// The guest did what its code does not say.
    #[error("the guest went wrong: {0}; the kernel under test is at fault")]
    Guest(String),
    /// A vCPU's thread panicked.
    #[error("a vCPU's thread panicked; see above")]
    Panic,
}

impl Error {
    /// A system call that failed.
    pub fn setup(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Setup {
            what,
            why: why.to_string(),
        }
    }
}
