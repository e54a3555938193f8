//! The VMs of a host, whoever launched them: find, steer and observe them from outside.
//!
//! [`read`] knows the kernel's files and has no opinion on them. [`model`] makes VMs,
//! threads and rates of what they say. [`act`] is all that changes something: the class,
//! slice, clamps, CPUs, cookie and control group of a thread by its id, with the caller's
//! rights, each read back; [`act::Door`] undoes what was half done. [`steer`] has what an operator wants of a VM;
//! `agent` keeps to one priority for each group, for as long as it runs, and `nri` gives pods of
//! Kubernetes theirs.

pub mod act;
#[cfg(feature = "cli")]
pub mod agent;
#[cfg(feature = "cli")]
pub mod cli;
mod error;
pub mod exposition;
pub mod model;
#[cfg(feature = "cli")]
pub mod nri;
#[cfg(feature = "pages")]
pub mod pages;
pub mod read;
pub mod steer;
#[cfg(feature = "usage")]
pub mod usage;
#[cfg(feature = "cli")]
pub mod view;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
