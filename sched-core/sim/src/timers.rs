//! The queue of events: one time for each id, the earliest first.
//!
//! An indexed heap, so that setting the time of an id again moves its entry instead of
//! leaving a stale one behind: each operation costs O(log ids). Times stand in the heap
//! itself and an entry has four children, which fill a cache line: on large hosts it is
//! lines that an event costs.

/// No event is set.
pub const NEVER: u64 = u64::MAX;

const CHILDREN: usize = 4;

/// Times in ns by id. Equal times come in the order of their ids.
#[derive(Debug)]
pub struct Timers {
    /// Time and id.
    heap: Vec<(u64, u32)>,
    /// Where each id stands in the heap.
    place: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;

impl Timers {
    /// No event for any of `ids` ids.
    pub fn new(ids: usize) -> Self {
        Self {
            heap: Vec::with_capacity(ids),
            place: vec![ABSENT; ids],
        }
    }

    /// Sets the time of `id`; [`NEVER`] takes it out.
    pub fn set(&mut self, id: u32, at: u64) {
        let place = self.place[id as usize];
        match (place, at) {
            (ABSENT, NEVER) => {}
            (ABSENT, _) => {
                self.heap.push((at, id));
                self.up(self.heap.len() - 1, (at, id));
            }
            (place, NEVER) => self.remove(place as usize),
            (place, _) => self.put(place as usize, (at, id)),
        }
    }

    /// Takes the earliest event out.
    pub fn pop(&mut self) -> Option<(u64, u32)> {
        let first = *self.heap.first()?;
        self.remove(0);
        Some(first)
    }

    fn remove(&mut self, place: usize) {
        let (_, id) = self.heap[place];
        self.place[id as usize] = ABSENT;
        if let Some(last) = self.heap.pop()
            && place < self.heap.len()
        {
            self.put(place, last);
        }
    }

    /// Puts an entry where another one was, and from there to its place.
    fn put(&mut self, place: usize, entry: (u64, u32)) {
        if place > 0 && entry < self.heap[(place - 1) / CHILDREN] {
            self.up(place, entry);
        } else {
            self.down(place, entry);
        }
    }

    fn settle(&mut self, place: usize, entry: (u64, u32)) {
        self.heap[place] = entry;
        self.place[entry.1 as usize] = place as u32;
    }

    fn up(&mut self, mut place: usize, entry: (u64, u32)) {
        while place > 0 {
            let parent = (place - 1) / CHILDREN;
            if self.heap[parent] <= entry {
                break;
            }
            self.settle(place, self.heap[parent]);
            place = parent;
        }
        self.settle(place, entry);
    }

    fn down(&mut self, mut place: usize, entry: (u64, u32)) {
        loop {
            let first = CHILDREN * place + 1;
            let children = first..(first + CHILDREN).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child]) else {
                break;
            };
            if entry <= self.heap[least] {
                break;
            }
            self.settle(place, self.heap[least]);
            place = least;
        }
        self.settle(place, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is set, moved and taken out, events come as from a sorted list.
        #[test]
        fn events_come_in_order(sets in prop::collection::vec((0u32..40, 0u64..50), 1..300)) {
            let mut timers = Timers::new(40);
            let mut model = std::collections::BTreeMap::new();
            for (id, at) in sets {
                let at = if at == 0 { NEVER } else { at };
                timers.set(id, at);
                model.insert(id, at);
            }
            let mut expected: Vec<(u64, u32)> =
                model.into_iter().filter(|(_, at)| *at != NEVER).map(|(id, at)| (at, id)).collect();
            expected.sort_unstable();
            let found: Vec<_> = std::iter::from_fn(|| timers.pop()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
