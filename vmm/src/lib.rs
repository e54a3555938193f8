//! `vmm`: launches one virtual machine on KVM, built on the rust-vmm crates.
//!
//! Read [`builder`] first: it assembles a machine in one function. [`boot`] puts
//! a kernel and its tables into memory, [`vcpu`] runs the CPUs, [`devices`] has a
//! folder or file for each device, [`run`] ties them to the terminal and to signals
//! until the machine ends, and [`sandbox`] is what the process gives up before that.

pub mod api;
pub mod boot;
pub mod builder;
pub mod bus;
pub mod config;
pub mod control;
pub mod devices;
mod error;
pub mod exit;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod layout;
pub mod live;
pub mod log;
pub mod memory;
pub mod observe;
pub mod pv;
pub mod reaper;
pub mod run;
pub mod rundir;
pub mod sandbox;
pub mod sched;
pub mod vcpu;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
