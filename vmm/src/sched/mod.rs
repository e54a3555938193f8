//! Where and how a machine's threads run: who shares a core with them,
//! clamps, control groups, CPUs, class, slice.
//!
//! Everything is set from outside the thread, by its id, and read back. What was asked for
//! and isn't so is an error. [`vmfirst_host::act`] does that for any thread; here is what a
//! machine is given at its start. What is changed later is changed from another process, by
//! [`vmfirst_host::steer`].

mod group;
mod place;

pub use group::{Group, Layout};
pub use place::{Change, CoreSched, Launch, Placement, Threads};
pub use vmfirst_host::act::{Affinity, Class, CpuList, CpuMax, CpuWeight, Slice, Tid, Uclamp};
