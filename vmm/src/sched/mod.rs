//! Where and how a machine's threads run: scheduling class, CPUs, control groups.
//!
//! Everything is set from outside the thread, by its id, and read back: the same way
//! before the first instruction and later. What was asked for and isn't so is an error.

mod affinity;
mod cgroup;
mod class;
mod place;
mod shares;

pub use affinity::{Affinity, CpuList};
pub use cgroup::{Group, Layout};
pub use class::Class;
pub use place::{Change, Launch, Placement, Threads};
pub use shares::{CpuMax, CpuWeight};

/// A thread's id.
pub type Tid = i32;
