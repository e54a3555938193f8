//! How much of the CPUs offline work may have: less while online work waits, more again when
//! it doesn't. Only numbers are here, per mille and looks; who measures and who writes is not.

/// When to do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Above this pressure, in per mille of the time, the share shrinks.
    pub high: u32,
    /// Below this it grows; between them it stays.
    pub low: u32,
    /// The share never is less, in per mille of all CPUs.
    pub floor: u32,
    /// What it grows by at a look, in per mille.
    pub step: u32,
    /// Looks below `low` before it grows.
    pub calm: u32,
    /// Looks above `high`, with nothing left to take, before the last resort.
    pub patience: u32,
}

/// All CPUs: no limit.
pub const WHOLE: u32 = 1000;

/// What has become of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Squeeze {
    share: u32,
    calm: u32,
    stuck: u32,
    /// The last resort was called, and there was no calm since.
    called: bool,
}

impl Default for Squeeze {
    fn default() -> Self {
        Self {
            share: WHOLE,
            calm: 0,
            stuck: 0,
            called: false,
        }
    }
}

impl Squeeze {
    /// The share of all CPUs that offline work may have together, in per mille.
    pub fn share(self) -> u32 {
        self.share
    }

    /// One look at the pressure of online work, in per mille of the time; whether the last
    /// resort is due.
    ///
    /// The share loses a quarter at each look above the high mark and gets `step` back at each
    /// look after `calm` of them below the low one: it gives way fast and comes back slowly,
    /// and doesn't swing between the marks.
    pub fn look(&mut self, marks: Marks, pressure: u32) -> bool {
        let floor = marks.floor.clamp(1, WHOLE);
        if pressure > marks.high {
            self.calm = 0;
            let at_floor = self.share <= floor;
            self.share = (self.share - self.share / 4).max(floor);
            self.stuck = if at_floor {
                self.stuck.saturating_add(1)
            } else {
                0
            };
            let due = self.stuck >= marks.patience.max(1) && !self.called;
            self.called |= due;
            return due;
        }
        self.stuck = 0;
        self.calm = match pressure < marks.low {
            true => self.calm.saturating_add(1),
            false => 0,
        };
        if self.calm >= marks.calm.max(1) {
            self.called = false;
            self.share = self.share.saturating_add(marks.step).min(WHOLE);
        }
        false
    }
}

/// What cpu.max has for one of `groups` groups that share this much of `cpus` CPUs: us in a
/// period of `period` us, which the kernel wants to be 1000 at least.
pub fn quota(share: u32, cpus: u32, groups: u32, period: u64) -> u64 {
    let all = u64::from(share) * u64::from(cpus) * period / u64::from(WHOLE);
    (all / u64::from(groups.max(1))).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks {
        high: 100,
        low: 40,
        floor: 100,
        step: 50,
        calm: 3,
        patience: 4,
    };

    #[test]
    fn it_gives_way_fast_down_to_the_floor() {
        let mut squeeze = Squeeze::default();
        let mut shares = Vec::new();
        for _ in 0..10 {
            squeeze.look(MARKS, 101);
            shares.push(squeeze.share());
        }
        assert_eq!(shares, [750, 563, 423, 318, 239, 180, 135, 102, 100, 100]);
    }

    #[test]
    fn it_comes_back_slowly_and_only_in_calm() {
        let mut squeeze = Squeeze::default();
        for _ in 0..3 {
            squeeze.look(MARKS, 500);
        }
        let mut shares = |pressures: &[u32]| -> Vec<u32> {
            let look = |pressure: &u32| {
                squeeze.look(MARKS, *pressure);
                squeeze.share()
            };
            pressures.iter().map(look).collect()
        };
        assert_eq!(
            shares(&[39, 39, 40, 39, 39]),
            [423; 5],
            "never three looks of calm"
        );
        assert_eq!(shares(&[39, 39, 39]), [473, 523, 573]);
        assert_eq!(
            shares(&[100, 70, 41]),
            [573; 3],
            "between the marks it stays"
        );
        assert_eq!(shares(&[0; 20]).last(), Some(&WHOLE));
    }

    #[test]
    fn the_last_resort_is_called_once_until_calm() {
        let mut squeeze = Squeeze::default();
        let calls = |squeeze: &mut Squeeze, pressure, looks| {
            (0..looks).filter(|_| squeeze.look(MARKS, pressure)).count()
        };
        // Nine looks to the floor, three more with nothing to take.
        assert_eq!(calls(&mut squeeze, 900, 12), 0);
        assert_eq!(calls(&mut squeeze, 900, 1), 1);
        assert_eq!(calls(&mut squeeze, 900, 50), 0);
        // A pause between the marks is no calm.
        assert_eq!(calls(&mut squeeze, 70, 9), 0);
        assert_eq!(calls(&mut squeeze, 900, 50), 0);
        assert_eq!(calls(&mut squeeze, 0, 3), 0);
        assert_eq!(calls(&mut squeeze, 900, 50), 1);
    }

    /// Whatever comes, in whatever order, with whatever marks.
    #[test]
    fn the_share_stays_within_its_bounds() {
        let mut state = 1u64;
        let mut random = |most: u32| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 33) as u32) % most
        };
        for _ in 0..2000 {
            let marks = Marks {
                high: random(1200),
                low: random(1200),
                floor: random(1200),
                step: random(1200),
                calm: random(4),
                patience: random(4),
            };
            let mut squeeze = Squeeze::default();
            for _ in 0..50 {
                let (before, pressure) = (squeeze.share(), random(2000));
                squeeze.look(marks, pressure);
                let now = squeeze.share();
                assert!(
                    (marks.floor.clamp(1, WHOLE)..=WHOLE).contains(&now),
                    "{marks:?}"
                );
                assert!(pressure > marks.high || now >= before, "{marks:?}");
                assert!(pressure <= marks.high || now <= before, "{marks:?}");
            }
        }
    }

    #[test]
    fn a_quota_is_a_part_of_all_cpus() {
        assert_eq!(quota(500, 4, 1, 100_000), 200_000);
        assert_eq!(quota(500, 4, 4, 100_000), 50_000);
        assert_eq!(quota(1, 1, 100, 100_000), 1000);
        assert_eq!(quota(WHOLE, 4096, 0, 100_000), 409_600_000);
    }
}
