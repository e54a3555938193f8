//! TLB shootdowns and nothing else: a thread a vCPU maps memory of the common
//! address space, writes to it, protects it and unmaps it again. Each of the last
//! two interrupts every other vCPU that a thread runs on, and waits for all.

use memmap2::MmapMut;

use crate::crew::{self, Member};
use crate::protocol::{Go, Outcome};
use crate::{Error, Result};

const PAGE: usize = 4096;
/// Few enough that Linux flushes page by page, as for a small buffer.
const PAGES: usize = 4;

/// Counts rounds of map, write, protect, read, unmap.
pub fn run(go: &Go) -> Result<Outcome> {
    let counted = crew::run(go, |member| shoot(member, go.seed))?;
    let rounds = counted.each.iter().sum::<u64>() as f64;
    Ok(counted.outcome(rounds / 1e3, "k ops/s"))
}

fn shoot(member: &Member, seed: u64) -> Result<()> {
    let mut round = (seed << 8) + u64::from(member.number);
    while member.go_on() {
        round = round.wrapping_add(1 << 32);
        let mut map = MmapMut::map_anon(PAGES * PAGE).map_err(Error::os("map memory"))?;
        for page in map.chunks_exact_mut(PAGE) {
            if page[..8] != [0; 8] {
                return Err(Error::Workload("a new page was not empty".into()));
            }
            page[..8].copy_from_slice(&round.to_le_bytes());
        }
        let map = map.make_read_only().map_err(Error::os("protect memory"))?;
        if map
            .chunks_exact(PAGE)
            .any(|p| p[..8] != round.to_le_bytes())
        {
            return Err(Error::Workload("a page lost what was written".into()));
        }
        drop(map);
        member.count(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted() {
        let go = Go {
            workload: "shootdown".into(),
            clients: 2,
            warmup_ms: 1,
            window_ms: 20,
            seed: 1,
        };
        assert!(run(&go).unwrap().value > 0.0);
    }
}
