//! A VMM's resident memory without its guest's.

use dense_record::{Error, Result};

use super::{proc_of, read};

/// Sums over a process's mappings.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub rss_kib: u64,
    pub anonymous_kib: u64,
}

fn sums(smaps: &str, guest_kib: u64) -> Option<Memory> {
    let mut sum = Memory::default();
    let mut guest_seen = false;
    let mut is_guest = false;
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let kib = || value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok();
        match (name, kib()) {
            // The guest's memory is the only mapping as large as that.
            ("Size", Some(size)) => {
                is_guest = size >= guest_kib;
                guest_seen |= is_guest;
            }
            ("Rss", Some(rss)) if !is_guest => sum.rss_kib += rss,
            ("Anonymous", Some(size)) if !is_guest => sum.anonymous_kib += size,
            _ => {}
        }
    }
    guest_seen.then_some(sum)
}

pub fn of(pid: u32, guest_mib: u64) -> Result<Memory> {
    let smaps = read(&proc_of(pid).join("smaps"))?;
    sums(&smaps, guest_mib << 10).ok_or_else(|| {
        Error::Invalid(format!(
            "no mapping of {guest_mib} MiB: where is the guest's memory?"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 00:02 5 /vmfirst/vmm
Size:               1024 kB
Rss:                 300 kB
Anonymous:             0 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Rss:               50000 kB
Anonymous:         50000 kB
7fff00000000-7fff00021000 rw-p 00000000 00:00 0 [stack]
Size:                132 kB
Rss:                  20 kB
Anonymous:            20 kB
";

    #[test]
    fn the_guests_memory_is_left_out() {
        let expected = Memory {
            rss_kib: 320,
            anonymous_kib: 20,
        };
        assert_eq!(sums(SMAPS, 128 << 10), Some(expected));
    }

    #[test]
    fn a_process_without_it_is_refused() {
        assert_eq!(sums(SMAPS, 256 << 10), None);
        assert_eq!(sums("", 1), None);
    }
}
