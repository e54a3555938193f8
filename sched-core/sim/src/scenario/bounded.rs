//! Whole numbers within bounds, checked where they are read.

use serde::{Deserialize, Deserializer, de::Error};

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: i64, const MAX: i64>(pub(crate) u64);

impl<const MIN: i64, const MAX: i64> Bounded<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// 0, where that is allowed.
impl<const MAX: i64> Default for Bounded<0, MAX> {
    fn default() -> Self {
        Self(0)
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(from)?;
        if !(MIN..=MAX).contains(&number) {
            let what = format!("{number} is out of range: {MIN} to {MAX}");
            return Err(D::Error::custom(what));
        }
        Ok(Self(number as u64))
    }
}
