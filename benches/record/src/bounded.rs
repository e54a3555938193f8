//! Whole numbers within bounds, checked where they are read.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use crate::{Error, Result};

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: i64, const MAX: i64>(u64);

impl<const MIN: i64, const MAX: i64> Bounded<MIN, MAX> {
    /// A number known when this is compiled; one out of bounds doesn't compile in a constant.
    pub const fn new(number: u64) -> Self {
        assert!(MIN <= number as i64 && number as i64 <= MAX);
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Checks a number that is of another type, by its name.
    pub fn check(name: &str, number: u64) -> Result<()> {
        if i64::try_from(number).is_ok_and(|n| (MIN..=MAX).contains(&n)) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{name} = {number}: it is from {MIN} to {MAX}"
        )))
    }
}

/// 0, where that is allowed.
impl<const MAX: i64> Default for Bounded<0, MAX> {
    fn default() -> Self {
        Self(0)
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_i64(Whole::<MIN, MAX>)
    }
}

struct Whole<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Visitor<'_> for Whole<MIN, MAX> {
    type Value = Bounded<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> std::result::Result<Self::Value, E> {
        if !(MIN..=MAX).contains(&number) {
            let what = format!("{number} is out of range: {MIN} to {MAX}");
            return Err(E::custom(what));
        }
        Ok(Bounded(number as u64))
    }
}
