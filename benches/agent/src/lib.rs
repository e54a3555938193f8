//! Runs one cell on this host, and measures what a VMM costs by itself. [`cell`] begins and
//! ends it; the other modules each know one thing of a host.

pub mod cell;
mod changes;
pub mod counters;
pub mod facts;
mod guest;
mod placement;
pub mod third;
mod threads;
pub mod trace;
mod truth;
pub mod vmm_cost;
