//! Where and how threads run: class, slice, clamps, CPUs, cookie, control group.
//!
//! Everything is set from outside the thread, by its id, and read back. What was asked
//! for and isn't so is an error. Nothing here has a policy: which thread gets what, and
//! what to do when it can't have it, is the caller's.

mod affinity;
mod attr;
pub(crate) mod cgroup;
mod class;
pub mod cookie;
mod door;
mod shares;
mod slice;
mod text;
pub mod tune;
mod uclamp;

pub use affinity::{Affinity, CpuList};
pub use cgroup::{Cgroup, mount_point};
pub use class::Class;
pub use door::{Done, Door, Target, Write};
pub use shares::{CpuMax, CpuWeight};
pub use slice::Slice;
pub use text::FromText;
pub use uclamp::Uclamp;

/// A thread's id; 0 is the calling thread.
pub type Tid = i32;

fn whose(tid: Tid) -> String {
    match tid {
        0 => "this thread".into(),
        tid => format!("thread {tid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Tid;
    use std::sync::mpsc::channel;

    /// Runs `look` on the id of a thread of this process that waits meanwhile. It has
    /// ended when this returns.
    pub fn on_thread<T>(look: impl FnOnce(Tid) -> T) -> T {
        let (tid, tids) = channel();
        let (end, ends) = channel::<()>();
        let thread = std::thread::spawn(move || {
            tid.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            let _ = ends.recv();
        });
        let looked = look(tids.recv().unwrap());
        drop(end);
        thread.join().unwrap();
        looked
    }
}
