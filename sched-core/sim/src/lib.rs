//! A simulator of hosts that nobody here has: hundreds of CPUs, thousands of vCPUs.
//!
//! It is a model: threads, locks and interrupts are events, and what they cost are numbers
//! from a scenario. Every decision of the policies is made by [`sched_core`], never by a
//! second copy of them.
//!
//! | module | question |
//! |---|---|
//! | [`scenario`] | what can be said about a host and its VMs? |
//! | [`policy`] | what does a variant switch? |
//! | [`host`] | what happens next? |
//! | [`guest`] | what does a vCPU do with its CPU? |
//! | [`queue`] | who waits on a level of a runqueue, and who is next? |
//! | [`run`] | how do cells become results? |
//! | [`calibrate`] | how far is that from what the testbed measured? |
//! | [`scale`] | what does an event cost on a large host? |
//! | [`tables`] | how does the documentation show results? |
//! | [`docs`] | which tables has the documentation? |
//! | [`timers`] | which event is the earliest? |
#![forbid(unsafe_code)]

pub mod calibrate;
mod cpuset;
pub mod docs;
pub mod guest;
pub mod host;
pub mod policy;
pub mod queue;
pub mod run;
pub mod scale;
pub mod scenario;
pub mod stats;
pub mod tables;
pub mod timers;

use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A scenario that makes no sense; with its place.
    #[error("{0}")]
    Scenario(String),
    /// A file.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Anything else, in a sentence.
    #[error("{0}")]
    Invalid(String),
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
