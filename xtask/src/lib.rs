//! `cargo xtask`: builds the emulated host, runs the benchmark in it, and tests all.

pub mod bench;
pub mod cost;
pub mod report;
pub mod test;

/// What ends an xtask.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part of the testbed failed.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// A check of `cargo xtask test` failed; cargo has said why.
    #[error("{0} failed; see above")]
    Tests(String),
    /// The user asked for something that is not there or can't be done.
    #[error("{0}")]
    Usage(String),
    /// Some cells gave no result; the others are saved.
    #[error("{failed} of {total} cells failed; `--resume` runs only those again")]
    Cells {
        /// Cells without a result.
        failed: usize,
        /// All cells asked for.
        total: usize,
    },
}
