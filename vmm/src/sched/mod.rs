//! Where and how a machine's threads run: who shares a core with them,
//! clamps, control groups, CPUs, class, slice.
//!
//! Everything is set from outside the thread, by its id, and read back: the same way
//! before the first instruction and later. What was asked for and isn't so is an error.

//! [`vmfirst_host::act`] does that for any thread; here is what a machine is given.

mod group;
mod place;

pub use group::{Group, Layout};
pub use place::{Change, CoreSched, Launch, Placement, Threads};
pub use vmfirst_host::act::{Affinity, Class, CpuList, CpuMax, CpuWeight, Slice, Tid, Uclamp};
