//! A set of CPUs.

/// CPUs by number, a bit each.
#[derive(Debug, Clone)]
pub struct CpuSet {
    words: Vec<u64>,
    count: u32,
}

impl CpuSet {
    /// None of `cpus` CPUs.
    pub fn new(cpus: usize) -> Self {
        Self {
            words: vec![0; cpus.div_ceil(64)],
            count: 0,
        }
    }

    /// Adds or removes one.
    pub fn set(&mut self, cpu: usize, there: bool) {
        let (word, bit) = (&mut self.words[cpu / 64], 1 << (cpu % 64));
        if (*word & bit != 0) != there {
            *word ^= bit;
            self.count = if there {
                self.count + 1
            } else {
                self.count - 1
            };
        }
    }

    /// Is it there?
    pub fn has(&self, cpu: usize) -> bool {
        self.words[cpu / 64] >> (cpu % 64) & 1 != 0
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those from `from` on, below `end`, in order.
    pub fn range(&self, from: usize, end: usize) -> impl Iterator<Item = usize> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            while at < end {
                let rest = self.words[at / 64] >> (at % 64);
                if rest != 0 {
                    let found = at + rest.trailing_zeros() as usize;
                    at = found + 1;
                    return (found < end).then_some(found);
                }
                at = (at / 64 + 1) * 64;
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_skip_what_is_not_there() {
        let mut set = CpuSet::new(200);
        for cpu in [0, 63, 64, 130, 199] {
            set.set(cpu, true);
        }
        set.set(64, false);
        let found = |from, end| set.range(from, end).collect::<Vec<_>>();
        assert_eq!(found(0, 200), [0, 63, 130, 199]);
        assert_eq!(found(1, 130), [63]);
        assert!(set.has(199) && !set.has(64) && !set.is_empty());
    }
}
