//! One value of a group that can be read, changed and put back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::act::Cgroup;
use crate::act::cgroup::same;
use crate::{Error, Result};

/// What [`Knob::Cpu`] is while cpu.idle is set.
pub const IDLE: &str = "idle";

/// A value of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Knob {
    /// cpu.weight and cpu.idle as one value: a weight, or [`IDLE`]. The kernel forgets the
    /// weight when cpu.idle is set, so neither is put back without the other.
    Cpu,
    /// A file with one value.
    File(String),
    /// The line of a file that begins with this word: a disk, or "default".
    Line(String, String),
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu.weight"),
            Self::File(file) => f.write_str(file),
            Self::Line(file, key) => write!(f, "{file}:{key}"),
        }
    }
}

impl Knob {
    /// A file with one value.
    pub fn file(name: &str) -> Self {
        Self::File(name.into())
    }

    /// The value now.
    pub fn get(&self, group: &Cgroup) -> Result<String> {
        match self {
            Self::Cpu => match is_idle(group) {
                true => Ok(IDLE.into()),
                false => group.get("cpu.weight"),
            },
            Self::File(file) => group.get(file),
            Self::Line(file, key) => {
                let text = group.get(file)?;
                let mut lines = text.lines().filter_map(|line| line.split_once(' '));
                let line = lines.find(|(word, _)| word == key);
                Ok(line.map_or_else(|| unset(file).into(), |(_, rest)| rest.into()))
            }
        }
    }

    /// Changes it and reads it back.
    pub fn set(&self, group: &Cgroup, value: &str) -> Result<()> {
        match self {
            Self::Cpu if value == IDLE => return group.set("cpu.idle", "1"),
            Self::Cpu => {
                if is_idle(group) {
                    group.set("cpu.idle", "0")?;
                }
                return group.set("cpu.weight", value);
            }
            Self::File(file) => return group.set(file, value),
            Self::Line(file, key) => group.write(file, &format!("{key} {value}"))?,
        }
        let found = self.get(group)?;
        match self.is_same(value, &found) {
            true => Ok(()),
            false => Err(Error::Differs {
                what: format!("{}/{self}", group.path().display()),
                asked: value.into(),
                found,
            }),
        }
    }

    /// Whether the kernel's `found` is what was asked for.
    pub fn is_same(&self, asked: &str, found: &str) -> bool {
        match self {
            Self::Cpu => asked == found,
            Self::File(file) => same(file, asked, found),
            // What was not asked for in the line is as it was.
            Self::Line(..) => {
                let has = |word: &str| found.split_whitespace().any(|other| other == word);
                asked.split_whitespace().all(has)
            }
        }
    }
}

fn is_idle(group: &Cgroup) -> bool {
    group.get("cpu.idle").is_ok_and(|text| text == "1")
}

/// What a file means that has no line for a disk.
fn unset(file: &str) -> &'static str {
    match file {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        "io.latency" => "target=0",
        "io.cost.qos" => "enable=0",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::cgroup::tests::group;

    #[test]
    fn weight_and_idle_are_one_value() {
        let (_root, group) = group(&[("cpu.weight", "300\n"), ("cpu.idle", "0\n")]);
        assert_eq!(Knob::Cpu.get(&group).unwrap(), "300");
        Knob::Cpu.set(&group, IDLE).unwrap();
        assert_eq!(Knob::Cpu.get(&group).unwrap(), IDLE);
        // As the kernel does.
        group.write("cpu.weight", "100").unwrap();
        Knob::Cpu.set(&group, "300").unwrap();
        assert_eq!(group.get("cpu.idle").unwrap(), "0");
        assert_eq!(Knob::Cpu.get(&group).unwrap(), "300");
    }

    #[test]
    fn a_disks_line_is_found_among_others() {
        let text = "8:0 rbps=max wbps=5 riops=max wiops=max\n8:16 rbps=1 wbps=max\n";
        let (_root, group) = group(&[("io.max", text)]);
        let of = |disk: &str| Knob::Line("io.max".into(), disk.into());
        let found = of("8:0").get(&group).unwrap();
        assert_eq!(found, "rbps=max wbps=5 riops=max wiops=max");
        assert!(of("8:0").is_same("wbps=5", &found));
        assert!(!of("8:0").is_same("wbps=50", &found));
        assert_eq!(of("8:1").get(&group).unwrap(), unset("io.max"));
        of("8:0").set(&group, "wbps=7").unwrap();
        assert_eq!(group.get("io.max").unwrap(), "8:0 wbps=7");
    }
}
