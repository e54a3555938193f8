//! The emulated AMD host: how its parts are built, cached and run.
//!
//! [`packages`] installs what Debian has, [`emulator`], [`kernel`], [`programs`]
//! and [`image`] make the parts and keep them in a [`cache::Cache`] under a hash
//! of all their inputs, and [`machine`] boots the whole once. [`workshop`] has all of them
//! made; [`boots`] saves a host that has booted, and [`cells`] runs the cells of a plan from
//! there. [`each`] and [`sparse`] check the kernel series, [`selftest`] is its
//! test among the kernel's own.

pub mod boots;
pub mod cache;
pub mod cells;
pub mod deb;
pub mod debian;
pub mod each;
pub mod emulator;
mod error;
pub mod image;
pub mod initrd;
pub mod kernel;
pub mod kernel_deb;
pub mod libvirt_host;
pub mod machine;
pub mod packaged;
pub mod packages;
pub mod payload;
pub mod proc;
pub mod programs;
pub mod progress;
pub mod scx_host;
pub mod selftest;
pub mod sparse;
pub mod topics;
pub mod workshop;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
