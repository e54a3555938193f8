//! The emulated AMD host: how its parts are built, cached and run.
//!
//! [`packages`] installs what Debian has, [`emulator`], [`kernel`], [`programs`]
//! and [`image`] make the parts and keep them in a [`cache::Cache`] under a hash
//! of all their inputs, and [`machine`] boots the whole once for one cell. [`sparse`]
//! checks the kernel's source.

pub mod cache;
pub mod debian;
pub mod emulator;
mod error;
pub mod image;
pub mod kernel;
pub mod machine;
pub mod packages;
pub mod payload;
pub mod proc;
pub mod programs;
pub mod sparse;
pub mod topics;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
