//! How long vCPUs waited for their turns.

use serde::Serialize;

/// Upper bounds of the buckets in us; one more bucket has the rest.
pub const BOUNDS_US: [u32; 10] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144];

/// Turns by how long was waited for them. A kernel tells sums: the turns of an interval
/// count with their mean, so what is rare and long within an interval of many turns is not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Histogram([u64; BOUNDS_US.len() + 1]);

impl Histogram {
    /// Adds turns that were waited for so long, in the mean.
    pub fn add(&mut self, wait_us: f64, turns: u64) {
        let bucket = BOUNDS_US.partition_point(|&bound| f64::from(bound) <= wait_us);
        self.0[bucket] += turns;
    }

    /// Adds those of another vCPU.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }

    /// Each bucket's share of all turns, in per cent; none without a turn.
    pub fn percent(&self) -> Option<[f64; BOUNDS_US.len() + 1]> {
        let all: u64 = self.0.iter().sum();
        let share = |turns: u64| 100.0 * turns as f64 / all as f64;
        (all > 0).then(|| self.0.map(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_where_their_wait_is() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percent(), None);
        for (wait, turns) in [(0.0, 1), (0.9, 1), (1.0, 2), (4095.9, 3), (1e9, 1)] {
            histogram.add(wait, turns);
        }
        let mut other = Histogram::default();
        other.add(4095.0, 2);
        histogram.merge(&other);
        let percent = histogram.percent().unwrap();
        assert_eq!(
            (percent[0], percent[1], percent[6], percent[10]),
            (20.0, 20.0, 50.0, 10.0)
        );
        assert_eq!(percent.iter().sum::<f64>(), 100.0);
    }
}
