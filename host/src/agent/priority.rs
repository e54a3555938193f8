//! What a priority is, and what it means on each resource: the declared table.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use crate::act::CpuWeight;

/// 0 is the highest, 7 is offline work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Runs in what the others leave.
    pub const OFFLINE: Self = Self(7);

    /// Before all others.
    pub const HIGHEST: Self = Self(0);

    /// What most have.
    pub const MIDDLE: Self = Self(3);

    /// Down to it work is online unless that is declared otherwise.
    pub const ONLINE: Self = Self(2);

    /// All, the highest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=7).map(Self)
    }

    /// As a number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for Priority {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let known = u8::try_from(number).ok().filter(|number| *number <= 7);
        known
            .map(Self)
            .ok_or_else(|| format!("{number} is no priority: 0 (highest) to 7 (offline)"))
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse::<i64>();
        let number =
            number.map_err(|_| format!("{text:?} is no priority: 0 (highest) to 7 (offline)"))?;
        Self::try_from(number)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Priority {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(self.0)
    }
}

/// A number, or the same as a key of a table, where it is text.
impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberOrText;
        impl Visitor<'_> for NumberOrText {
            type Value = Priority;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a priority, 0 (highest) to 7 (offline)")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Priority, E> {
                Priority::try_from(number).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Priority, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Priority, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(NumberOrText)
    }
}

/// An amount of memory as memory.low has it: bytes, or "max".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(Option<u64>);

impl Memory {
    /// No bound.
    pub const MAX: Self = Self(None);
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::MAX);
        }
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let shift = match unit {
            "" => Some(0),
            "K" => Some(10),
            "M" => Some(20),
            "G" => Some(30),
            "T" => Some(40),
            _ => None,
        };
        let number = text[..text.len() - unit.len()].parse::<u64>().ok();
        let bytes = number.zip(shift).and_then(|(n, s)| n.checked_mul(1 << s));
        bytes
            .map(|bytes| Self(Some(bytes)))
            .ok_or_else(|| format!("{text:?} is no amount of memory: max, 0, 512M, 4G"))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str("max"),
        }
    }
}

crate::as_text!(Memory);

/// A line of the table: what a priority means. What isn't declared is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Row {
    /// Share of the CPU against groups beside it; where there is cpu.idle and `cpu_idle` is
    /// true, that instead.
    pub cpu_weight: Option<CpuWeight>,
    /// Whether it runs only when no group beside it would.
    pub cpu_idle: Option<bool>,
    /// memory.min: what is never reclaimed.
    pub memory_min: Option<Memory>,
    /// memory.low: what is reclaimed last.
    pub memory_low: Option<Memory>,
    /// memory.high: from where on the group itself is slowed down and reclaimed.
    pub memory_high: Option<Memory>,
    /// memory.oom.group: whether the OOM killer ends the whole group or nothing of it.
    pub oom_group: Option<bool>,
    /// Whether the agent reclaims from it when groups of higher priority wait for memory.
    pub reclaim: Option<bool>,
    /// Share of the disks' time against groups beside it.
    pub io_weight: Option<CpuWeight>,
    /// Beyond this latency, in us, groups beside it with longer ones are slowed down.
    pub io_latency_us: Option<u64>,
    /// io.max of each disk, as "rbps=10485760 wiops=500".
    pub io_max: Option<String>,
}

/// Each key that `over` has replaces the one below.
macro_rules! overlay {
    ($below:ident, $over:ident, $($key:ident),*) => {
        Row { $($key: $over.$key.clone().or($below.$key)),* }
    };
}

impl Row {
    /// This row with what `over` declares instead.
    pub fn with(self, over: &Self) -> Self {
        overlay!(
            self,
            over,
            cpu_weight,
            cpu_idle,
            memory_min,
            memory_low,
            memory_high,
            oom_group,
            reclaim,
            io_weight,
            io_latency_us,
            io_max
        )
    }
}

/// The table of all priorities.
pub type Table = BTreeMap<Priority, Row>;

/// Each step has half the share of the one above, and 3 is what the kernel gives who has none.
pub fn default_table() -> Table {
    const WEIGHTS: [i64; 8] = [800, 400, 200, 100, 50, 25, 12, 1];
    let row = |priority: Priority| {
        let weight = CpuWeight::try_from(WEIGHTS[usize::from(priority.0)]).ok();
        let offline = priority == Priority::OFFLINE;
        Row {
            cpu_weight: weight,
            io_weight: weight,
            cpu_idle: offline.then_some(true),
            memory_low: (priority == Priority(0)).then_some(Memory::MAX),
            oom_group: offline.then_some(true),
            reclaim: offline.then_some(true),
            ..Row::default()
        }
    };
    Priority::all().map(|p| (p, row(p))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_priorities_have_bounds() {
        for (text, kernel) in [("max", "max"), ("0", "0"), ("2M", "2097152")] {
            assert_eq!(text.parse::<Memory>().unwrap().to_string(), kernel);
        }
        for bad in ["", "M", "-1", "1.5G", "1g", "99999999999T"] {
            assert!(bad.parse::<Memory>().is_err(), "{bad}");
        }
        assert_eq!("7".parse::<Priority>().unwrap(), Priority::OFFLINE);
        for bad in ["", "8", "-1", "high"] {
            assert!(bad.parse::<Priority>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_row_keeps_what_is_not_declared_anew() {
        let row = default_table()[&Priority::OFFLINE].clone();
        let over = Row {
            cpu_weight: "5".parse().ok(),
            oom_group: Some(false),
            ..Row::default()
        };
        let row = row.with(&over);
        assert_eq!(row.cpu_weight.unwrap().to_string(), "5");
        assert_eq!((row.oom_group, row.cpu_idle), (Some(false), Some(true)));
    }
}
