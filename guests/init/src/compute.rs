//! The control: one counting loop for each vCPU, which nothing but its share of
//! a CPU can slow down.

use std::hint::black_box;

use crate::Result;
use crate::crew::{self, Member};
use crate::protocol::{Go, Outcome};

/// Iterations between two looks at the flag.
const BATCH: u64 = 10_000;

/// Counts iterations in the window.
pub fn run(go: &Go) -> Result<Outcome> {
    let counted = crew::run(go, |member| {
        count(member, go.seed);
        Ok(())
    })?;
    let work = counted.each.iter().sum::<u64>() as f64;
    Ok(counted.outcome(work / 1e6, "M iterations/s"))
}

/// Counts until the crew stops.
pub fn count(member: &Member, seed: u64) {
    let mut state = seed;
    while member.go_on() {
        for i in 0..BATCH {
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(i),
            );
        }
        member.count(BATCH);
    }
}
