//! Data that tells where it belongs, and its checksums.

/// Random numbers from a seed: splitmix64.
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next of them.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Fills `to` with what belongs to these two numbers.
pub fn fill(to: &mut [u8], place: u64, generation: u64) {
    let mut random = Random::new(place.rotate_left(32) ^ generation);
    for word in to.chunks_mut(8) {
        let bytes = random.next().to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_and_generation_has_data_of_its_own() {
        let data = |place, generation| {
            let mut bytes = [0; 20];
            fill(&mut bytes, place, generation);
            bytes
        };
        assert_eq!(data(1, 2), data(1, 2));
        assert_ne!(data(1, 2), data(2, 1));
        assert_ne!(data(1, 2), data(1, 3));
        assert_ne!(data(1, 2)[16..], [0; 4]);
    }
}
