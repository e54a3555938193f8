//! `vmfirst view`: what runs in a control group sees its own machine in /proc and /sys.
//!
//! [`boundary`] tells whose machine a reader sees. [`group`] and [`host`] read the kernel's
//! figures, [`ledger`] and [`load`] make of them what the kernel doesn't tell of a group: times
//! of single CPUs, and load averages. [`render`] is figures in, text out. [`machines`] has what
//! is kept of each group, and [`texts`] of each open file, both bounded. [`triggers`] has those
//! who poll pressure. [`tree`] says which files there are, [`serve`] answers FUSE, and
//! [`mounted`] keeps the mount over a crash.

mod boundary;
mod group;
mod host;
mod ledger;
mod load;
mod machines;
mod mounted;
mod render;
mod serve;
mod texts;
mod tree;
mod triggers;

pub use boundary::{ATTRIBUTE, Boundaries};
pub use group::Count;
pub use load::EVERY;
pub use machines::Machines;
pub use mounted::{Mounted, mount, mounts, ready, unmount};
pub use serve::View;
