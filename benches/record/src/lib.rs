//! What a cell of the dense-VM benchmark is, and what came out of it: the words that plans,
//! hosts and results share. Nothing here reads a plan, draws a report or runs anything.

pub mod bounded;
pub mod chosen;
pub mod cost;
mod error;
pub mod job;
pub mod json;
pub mod measured;
pub mod spec;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
