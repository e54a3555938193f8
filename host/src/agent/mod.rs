//! `vmfirst agent`: one priority for each group, kept to for as long as it runs.
//!
//! [`config`] is what the operator declares, [`tree`] the groups that there are, [`plan`] what
//! their priorities mean to write and how far that holds; [`keeper`] is the one door for
//! writes, with the journal and the audit log. [`stalls`] is how long groups wait: for
//! [`reclaim`], for the loop that holds offline work back ([`cpu_loop`], decided by [`squeeze`])
//! and for the scores of [`monitor`]. [`service`] does it all again and again.

pub mod alone;
pub mod config;
mod cpu_loop;
pub mod keeper;
pub mod knob;
pub mod monitor;
pub mod plan;
mod pressure;
pub mod priority;
mod reclaim;
pub mod requirements;
pub mod ring;
pub mod service;
pub mod signals;
mod squeeze;
mod stalls;
pub mod tree;
mod triggers;
