//! The bounded queue between two stages: one mutex, two conditions.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Takes up to a number of items; ends when its last producer is gone.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
    capacity: usize,
}

struct State<T> {
    items: VecDeque<T>,
    producers: usize,
}

impl<T> Queue<T> {
    /// An empty queue; `producers` handles are to be taken, not more.
    pub fn new(capacity: usize, producers: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::with_capacity(capacity),
                producers,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
            capacity,
        }
    }

    /// One of the producers' handles.
    pub fn producer(&self) -> Producer<'_, T> {
        Producer(self)
    }

    /// The next item; none when there will never be one.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                drop(state);
                self.drained.notify_one();
                return Some(item);
            }
            if state.producers == 0 {
                return None;
            }
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to add; dropping it says that no more comes from here.
pub struct Producer<'a, T>(&'a Queue<T>);

impl<T> Producer<'_, T> {
    /// Adds an item; waits while the queue is full.
    pub fn push(&self, item: T) {
        let queue = self.0;
        let mut state = queue.lock();
        while state.items.len() >= queue.capacity {
            state = queue
                .drained
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.items.push_back(item);
        drop(state);
        queue.filled.notify_one();
    }
}

impl<T> Drop for Producer<'_, T> {
    fn drop(&mut self) {
        self.0.lock().producers -= 1;
        self.0.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn everything_pushed_is_popped_once_and_then_it_ends() {
        const EACH: u64 = 1000;
        let queue = Queue::new(3, 2);
        let sum: u64 = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let producer = queue.producer();
                    (1..=EACH).for_each(|n| producer.push(n));
                });
            }
            let consumers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| std::iter::from_fn(|| queue.pop()).sum::<u64>()))
                .collect();
            consumers.into_iter().map(|c| c.join().unwrap()).sum()
        });
        assert_eq!(sum, EACH * (EACH + 1));
    }
}
