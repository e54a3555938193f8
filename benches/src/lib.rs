//! The dense-VM benchmark: what a cell is, how it runs on a host, what its
//! results look like, and what they say.
//!
//! [`plan`] lists cells, [`spec`] is one of them as a host gets it, [`cell`] runs
//! it there, [`results`] keeps what came out, [`stats`] and [`report`] compare.

pub mod cell;
mod changes;
pub mod counters;
mod error;
pub mod facts;
mod guest;
pub mod host_init;
pub mod launch;
mod placement;
pub mod plan;
pub mod preflight;
pub mod report;
pub mod results;
pub mod run;
pub mod session;
pub mod spec;
pub mod stats;
pub mod storm;
pub mod third;
pub mod timeline;
mod truth;
pub mod vmm_cost;

pub use error::Error;

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
