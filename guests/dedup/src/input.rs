//! The input: text-like data of which a known share repeats what was before.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Share of the blocks that copy an earlier range.
pub const DUPLICATE_SHARE: f64 = 0.5;
/// Data is made in blocks of this many bytes.
const BLOCK: usize = 64 * 1024;
/// Length of a word of the text, and number of words.
const WORD: usize = 8;
const WORDS: usize = 4096;

/// Makes `size` bytes from `seed`.
pub fn generate(size: usize, seed: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(seed);
    let words: Vec<[u8; WORD]> = (0..WORDS)
        .map(|_| random.next_u64().to_le_bytes().map(|b| b'a' + b % 26))
        .collect();
    let mut data = Vec::with_capacity(size + BLOCK);
    while data.len() < size {
        if data.len() > BLOCK && random.random_bool(DUPLICATE_SHARE) {
            let from = random.random_range(0..data.len() - BLOCK);
            data.extend_from_within(from..from + BLOCK);
        } else {
            for _ in 0..BLOCK / WORD {
                data.extend_from_slice(&words[random.next_u32() as usize % WORDS]);
            }
        }
    }
    data.truncate(size);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_own_data() {
        assert_eq!(generate(100_000, 1), generate(100_000, 1));
        assert_ne!(generate(100_000, 1), generate(100_000, 2));
        assert_eq!(generate(BLOCK + 1, 3).len(), BLOCK + 1);
    }
}
