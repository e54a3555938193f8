//! `vmfirst agent`: one priority for each group, kept to for as long as it runs.
//!
//! [`config`] is what the operator declares, [`tree`] the groups that there are, [`plan`] what
//! their priorities mean to write and how far that holds; [`keeper`] is the one door for
//! writes, with the journal and the audit log. [`service`] does it again and again.

pub mod config;
pub mod keeper;
pub mod knob;
pub mod plan;
mod pressure;
pub mod priority;
mod reclaim;
pub mod requirements;
pub mod ring;
pub mod service;
pub mod tree;
