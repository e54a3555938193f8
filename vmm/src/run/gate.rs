//! Where a machine's threads wait: until they have been placed, then until each of them is
//! confined. No vCPU enters the guest while a thread of its process has rights to give up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::thread::gettid;

use crate::sched::Tid;
use crate::{Error, Result};

/// How far the threads may go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// They wait to be placed.
    #[default]
    Closed,
    /// They confine themselves.
    Confine,
    /// They work.
    Work,
    /// They end.
    End,
}

#[derive(Debug, Default)]
struct State {
    arrived: Vec<(usize, Tid)>,
    confined: usize,
    /// Why one of them could not confine itself.
    failure: Option<Error>,
    way: Way,
}

/// The two gates.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// Called by the thread with this number: waits at the first gate, confines itself, and
    /// waits at the second; returns whether it may work.
    pub fn pass(&self, number: usize, confine: impl FnOnce() -> Result<()>) -> bool {
        let mut state = self.lock();
        state.arrived.push((number, own_tid()));
        self.changed.notify_all();
        if self.wait(state, |state| state.way != Way::Closed).way == Way::End {
            return false;
        }
        let done = confine();
        let mut state = self.lock();
        match done {
            Ok(()) => state.confined += 1,
            Err(error) => state.failure = Some(error),
        }
        self.changed.notify_all();
        self.wait(state, |state| state.way > Way::Confine).way == Way::Work
    }

    /// Waits for `count` threads; returns their ids in the order of their numbers.
    pub fn threads(&self, count: usize) -> Vec<Tid> {
        let mut state = self.wait(self.lock(), |state| state.arrived.len() >= count);
        state.arrived.sort_unstable();
        state.arrived.iter().map(|&(_, tid)| tid).collect()
    }

    /// Has `count` threads confine themselves and waits for that. Fails when one could not.
    pub fn confine(&self, count: usize) -> Result<()> {
        self.go(Way::Confine);
        let all = |state: &State| state.confined >= count || state.failure.is_some();
        self.wait(self.lock(), all)
            .failure
            .take()
            .map_or(Ok(()), Err)
    }

    /// Lets all work.
    pub fn work(&self) {
        self.go(Way::Work);
    }

    /// Has those end that don't work yet.
    pub fn end(&self) {
        self.go(Way::End);
    }

    fn go(&self, way: Way) {
        let mut state = self.lock();
        // Threads that work have passed both gates: nothing is taken back.
        state.way = state.way.max(way);
        self.changed.notify_all();
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.changed
            .wait_while(state, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calling thread's id.
pub fn own_tid() -> Tid {
    gettid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const COUNT: usize = 4;

    /// Threads at a gate; each counts itself as confined, or fails. What they return.
    fn run(fails: Option<usize>, confined: &Arc<AtomicUsize>) -> (Result<()>, Vec<bool>) {
        let gate = Arc::<Gate>::default();
        let threads: Vec<_> = (0..COUNT)
            .map(|number| {
                let (gate, confined) = (gate.clone(), confined.clone());
                let confine = move || {
                    // The last one makes the others wait.
                    thread::yield_now();
                    confined.fetch_add(1, Ordering::SeqCst);
                    match fails == Some(number) {
                        true => Err(Error::Refused("no".into())),
                        false => Ok(()),
                    }
                };
                thread::spawn(move || gate.pass(number, confine))
            })
            .collect();
        assert_eq!(gate.threads(COUNT).len(), COUNT);
        assert_eq!(confined.load(Ordering::SeqCst), 0);
        let done = gate.confine(COUNT);
        match done {
            Ok(()) => {
                assert_eq!(confined.load(Ordering::SeqCst), COUNT);
                gate.work();
            }
            Err(_) => gate.end(),
        }
        (
            done,
            threads.into_iter().map(|t| t.join().unwrap()).collect(),
        )
    }

    #[test]
    fn nobody_works_before_all_are_confined() {
        let (done, worked) = run(None, &Arc::default());
        assert!(done.is_ok());
        assert_eq!(worked, [true; COUNT]);
    }

    #[test]
    fn one_that_cannot_confine_itself_ends_all() {
        let (done, worked) = run(Some(COUNT - 1), &Arc::default());
        assert_eq!(done.unwrap_err().to_string(), "no");
        assert_eq!(worked, [false; COUNT]);
    }
}
