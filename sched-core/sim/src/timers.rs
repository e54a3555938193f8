//! The queue of events: one time for each id, the earliest first.
//!
//! An indexed binary heap, so that setting the time of an id again moves its entry
//! instead of leaving a stale one behind: each operation costs O(log ids).

/// No event is set.
pub const NEVER: u64 = u64::MAX;

/// Times in ns by id. Equal times come in the order of their ids.
#[derive(Debug)]
pub struct Timers {
    heap: Vec<u32>,
    /// Where each id stands in the heap.
    place: Vec<u32>,
    time: Vec<u64>,
}

const ABSENT: u32 = u32::MAX;

impl Timers {
    /// No event for any of `ids` ids.
    pub fn new(ids: usize) -> Self {
        Self {
            heap: Vec::with_capacity(ids),
            place: vec![ABSENT; ids],
            time: vec![NEVER; ids],
        }
    }

    /// Sets the time of `id`; [`NEVER`] takes it out.
    pub fn set(&mut self, id: u32, at: u64) {
        let index = id as usize;
        let before = self.time[index];
        self.time[index] = at;
        match (self.place[index], at) {
            (ABSENT, NEVER) => {}
            (ABSENT, _) => {
                self.place[index] = self.heap.len() as u32;
                self.heap.push(id);
                self.up(self.heap.len() - 1);
            }
            (place, NEVER) => self.remove(place as usize),
            (place, _) if at < before => self.up(place as usize),
            (place, _) => self.down(place as usize),
        }
    }

    /// Takes the earliest event out.
    pub fn pop(&mut self) -> Option<(u64, u32)> {
        let id = *self.heap.first()?;
        let at = self.time[id as usize];
        self.time[id as usize] = NEVER;
        self.remove(0);
        Some((at, id))
    }

    fn remove(&mut self, place: usize) {
        let id = self.heap.swap_remove(place);
        self.place[id as usize] = ABSENT;
        if let Some(&moved) = self.heap.get(place) {
            self.place[moved as usize] = place as u32;
            self.down(place);
            self.up(place);
        }
    }

    fn key(&self, place: usize) -> (u64, u32) {
        let id = self.heap[place];
        (self.time[id as usize], id)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.place[self.heap[a] as usize] = a as u32;
        self.place[self.heap[b] as usize] = b as u32;
    }

    fn up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.key(parent) <= self.key(place) {
                return;
            }
            self.swap(parent, place);
            place = parent;
        }
    }

    fn down(&mut self, mut place: usize) {
        loop {
            let children = [2 * place + 1, 2 * place + 2];
            let least = children
                .into_iter()
                .filter(|child| *child < self.heap.len())
                .min_by_key(|child| self.key(*child));
            match least {
                Some(child) if self.key(child) < self.key(place) => {
                    self.swap(child, place);
                    place = child;
                }
                _ => return,
            }
        }
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
