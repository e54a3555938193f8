//! Where a machine's threads wait until they have been placed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::thread::gettid;

use crate::sched::Tid;

#[derive(Debug, Default)]
struct State {
    arrived: Vec<(usize, Tid)>,
    open: Option<bool>,
}

/// The gate: threads come to it first.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// Called by the thread with this number: waits; returns whether it may go on.
    pub fn pass(&self, number: usize) -> bool {
        let mut state = self.lock();
        state.arrived.push((number, own_tid()));
        self.changed.notify_all();
        self.changed
            .wait_while(state, |state| state.open.is_none())
            .unwrap_or_else(PoisonError::into_inner)
            .open
            == Some(true)
    }

    /// Waits for `count` threads; returns their ids in the order of their numbers.
    pub fn threads(&self, count: usize) -> Vec<Tid> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.arrived.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        state.arrived.sort_unstable();
        state.arrived.iter().map(|&(_, tid)| tid).collect()
    }

    /// Lets all go on, or has them end. The first word counts.
    pub fn open(&self, go_on: bool) {
        self.lock().open.get_or_insert(go_on);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calling thread's id.
pub fn own_tid() -> Tid {
    gettid().as_raw_nonzero().get()
}
