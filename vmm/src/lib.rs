//! `vmm`: launches one virtual machine on KVM, built on the rust-vmm crates.
//!
//! Read [`builder`] first: it assembles a machine in one function, of what [`config`] asks
//! for and [`resources`] has opened. [`boot`] puts a kernel and its tables into memory,
//! [`devices`] has a folder or file for each device, [`run`] has the threads of the machine,
//! its vCPUs among them, until it ends, and [`sandbox`] is what the process gives up before
//! that.

pub mod api;
pub mod boot;
pub mod brake;
pub mod builder;
pub mod bus;
pub mod config;
pub mod cpuid;
pub mod devices;
mod error;
pub mod exit;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod layout;
pub mod log;
pub mod memory;
pub mod notify;
pub mod observe;
pub mod plain;
pub mod reaper;
pub mod resources;
pub mod run;
pub mod rundir;
pub mod sandbox;
pub mod sched;

pub use error::{Error, Kind};

/// Result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;
