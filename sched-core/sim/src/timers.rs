//! The queue of events: one time for each id, the earliest first.
//!
//! A tournament: the times of eight ids fill a cache line, the earliest of each line stands
//! in a line of the level above, and so on up to one line. Setting a time looks at a line of
//! each level up to where the earliest stays the same, mostly the first or second. On large
//! hosts it is lines that an event costs, and all but the lowest level's are always at hand.

/// No event is set.
pub const NEVER: u64 = u64::MAX;

const WIDTH: usize = 8;

/// A cache line of times in ns.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Line([u64; WIDTH]);

impl Line {
    fn earliest(&self) -> u64 {
        self.0.iter().fold(NEVER, |least, at| least.min(*at))
    }
}

/// Times in ns by id. Equal times come in the order of their ids.
#[derive(Debug)]
pub struct Timers {
    /// From the times of ids up to a single line.
    levels: Vec<Vec<Line>>,
}

impl Timers {
    /// No event for any of `ids` ids.
    pub fn new(ids: usize) -> Self {
        let mut levels = Vec::new();
        let mut lines = ids;
        loop {
            lines = lines.div_ceil(WIDTH).max(1);
            levels.push(vec![Line([NEVER; WIDTH]); lines]);
            if lines == 1 {
                return Self { levels };
            }
        }
    }

    /// Sets the time of `id`; [`NEVER`] takes it out.
    pub fn set(&mut self, id: u32, mut at: u64) {
        let mut index = id as usize;
        for level in &mut self.levels {
            let line = &mut level[index / WIDTH];
            let before = line.earliest();
            line.0[index % WIDTH] = at;
            at = line.earliest();
            if at == before {
                return;
            }
            index /= WIDTH;
        }
    }

    /// The earliest event. It stays until its time is set anew.
    pub fn first(&self) -> Option<(u64, u32)> {
        let earliest = self.levels.last()?.first()?.earliest();
        let mut index = 0;
        for level in self.levels.iter().rev() {
            let here = level[index].0.iter().position(|at| *at == earliest)?;
            index = index * WIDTH + here;
        }
        (earliest != NEVER).then_some((earliest, index as u32))
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
            let take = || {
                let first = timers.first()?;
                timers.set(first.1, NEVER);
                Some(first)
            };
            let found: Vec<_> = std::iter::from_fn(take).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
