//! What a control group may have of the CPUs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The period of cpu.max in us.
const PERIOD: u64 = 100_000;

/// A share of the CPU against neighbouring groups, 1 to 10000; others have 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u16")]
pub struct CpuWeight(u16);

impl TryFrom<i64> for CpuWeight {
    type Error = &'static str;

    fn try_from(weight: i64) -> std::result::Result<Self, Self::Error> {
        let known = u16::try_from(weight).ok();
        let weight = known.filter(|weight| (1..=10_000).contains(weight));
        weight.map(Self).ok_or("a weight is 1 to 10000")
    }
}

impl From<CpuWeight> for u16 {
    fn from(weight: CpuWeight) -> Self {
        weight.0
    }
}

impl FromStr for CpuWeight {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Self::try_from(text.parse::<i64>().unwrap_or_default())
    }
}

impl fmt::Display for CpuWeight {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The most CPU time a group may use, in per cent of one CPU; "max" is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax(Option<u32>);

impl FromStr for CpuMax {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "max" {
            return Ok(Self(None));
        }
        // The kernel's least quota is 1 ms, so 1 % of our period.
        let percent = text.strip_suffix('%').and_then(|n| n.parse().ok());
        percent
            .filter(|n| (1..=1_000_000).contains(n))
            .map(|n| Self(Some(n)))
            .ok_or_else(|| format!("{text:?} is no limit: max, or 150% for one and a half CPUs"))
    }
}

impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(percent) => write!(f, "{percent}%"),
            None => f.write_str("max"),
        }
    }
}

impl CpuMax {
    /// As cpu.max has it: quota and period in us.
    pub fn kernel(self) -> String {
        match self.0 {
            Some(percent) => format!("{} {PERIOD}", u64::from(percent) * PERIOD / 100),
            None => format!("max {PERIOD}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_limits_have_bounds() {
        for text in ["1", "100", "10000"] {
            assert_eq!(text.parse::<CpuWeight>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "10001", "-1", "a"] {
            assert!(bad.parse::<CpuWeight>().is_err(), "{bad}");
        }
        for (text, kernel) in [("max", "max 100000"), ("150%", "150000 100000")] {
            let max: CpuMax = text.parse().unwrap();
            assert_eq!(
                (max.to_string(), max.kernel()),
                (text.into(), kernel.into())
            );
        }
        for bad in ["", "%", "0%", "150", "-1%", "99999999999%"] {
            assert!(bad.parse::<CpuMax>().is_err(), "{bad}");
        }
    }
}
