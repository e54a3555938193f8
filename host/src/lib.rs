//! The VMs of a host, whoever launched them: find, steer and observe them from outside.
//!
//! [`act`] is all that changes something: the class, slice, clamps, CPUs, cookie and
//! control group of a thread by its id, with the caller's rights, each read back.

pub mod act;
mod error;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
