//! The queue of events: one time for each id, the earliest first.
//!
//! A tournament: eight keys, a time and its id each, fill a cache line, the least of each
//! line stands in a line of the level above, and so on up to a single key, the earliest
//! event. Setting a time looks at a line of each level up to where the least stays the same,
//! mostly the first or second. Nothing is searched for and the least is found without a
//! branch: a processor can't foresee where in a line it is, and a wrong guess at each level
//! would cost more than all else here.

/// No event is set.
pub const NEVER: u64 = u64::MAX;

const WIDTH: usize = 8;
/// Bits of a key that are the id: for two times 4,096 CPUs and twice 65,536 threads.
const ID_BITS: u32 = 18;
/// Times from here on, 19 hours, never come: a scenario's end is before that.
const LATEST: u64 = NEVER >> ID_BITS;

/// A cache line of keys: time, then id.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Line([u64; WIDTH]);

impl Line {
    /// In pairs: in a row, compilers make branches of some.
    fn least(&self) -> u64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        let (low, high) = (a.min(b).min(c.min(d)), e.min(f).min(g.min(h)));
        low.min(high)
    }
}

/// Times in ns by id. Equal times come in the order of their ids.
#[derive(Debug)]
pub struct Timers {
    least: u64,
    /// From the keys of ids up to a single line.
    levels: Vec<Vec<Line>>,
}

impl Timers {
    /// No event for any of `ids` ids.
    pub fn new(ids: usize) -> Self {
        debug_assert!(ids <= 1 << ID_BITS);
        let (mut levels, mut lines) = (Vec::new(), ids);
        while levels.is_empty() || lines > 1 {
            lines = lines.div_ceil(WIDTH).max(1);
            levels.push(vec![Line([NEVER; WIDTH]); lines]);
        }
        let least = NEVER;
        Self { least, levels }
    }

    /// Sets the time of `id`; [`NEVER`] takes it out.
    pub fn set(&mut self, id: u32, at: u64) {
        let mut key = match at {
            at if at < LATEST => at << ID_BITS | u64::from(id),
            _ => NEVER,
        };
        let mut index = id as usize;
        for level in &mut self.levels {
            let line = &mut level[index / WIDTH];
            let before = line.0[index % WIDTH];
            if before == key {
                return;
            }
            line.0[index % WIDTH] = key;
            key = line.least();
            index /= WIDTH;
        }
        self.least = key;
    }

    /// The earliest event. It stays until its time is set anew.
    pub fn first(&self) -> Option<(u64, u32)> {
        event(self.least)
    }
}

fn event(key: u64) -> Option<(u64, u32)> {
    let id = key as u32 & ((1 << ID_BITS) - 1);
    (key != NEVER).then_some((key >> ID_BITS, id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is set, moved and taken out, events come as from a sorted list.
        #[test]
        fn events_come_in_order(sets in prop::collection::vec((0u32..600, 0u64..50), 1..900)) {
            let mut timers = Timers::new(600);
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
