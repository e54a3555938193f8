//! `--memory`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::keys::{self, Switch, as_text_or_table};
use super::values::Size;

/// The guest's memory: how much, and how the host has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct MemoryArg {
    /// How much; `--mem` says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Whether the guest may give back what it doesn't use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporting: Option<Switch>,
    /// Whether the host gives it huge pages, or none; if not given, as the host has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thp: Option<Switch>,
    /// Whether the host may keep equal pages of several machines once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ksm: Option<Switch>,
}

as_text_or_table!(
    MemoryArg,
    "a text such as \"1G,reporting=on\", or a table with size, reporting, thp, ksm"
);

/// "SIZE,key=value,..." or keys alone.
impl FromStr for MemoryArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split(',').next() {
            Some(first) if first.starts_with(|c: char| c.is_ascii_digit()) => {
                keys::parse(&format!("size={text}"))
            }
            _ => keys::parse(text),
        }
    }
}

impl fmt::Display for MemoryArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut parts: Vec<_> = self.size.iter().map(ToString::to_string).collect();
        let switches = [
            ("reporting", self.reporting),
            ("thp", self.thp),
            ("ksm", self.ksm),
        ];
        for (key, switch) in switches {
            parts.extend(switch.map(|switch| format!("{key}={switch}")));
        }
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_comes_first_or_is_a_key() {
        let memory: MemoryArg = "1G,reporting=on,thp=off".parse().unwrap();
        assert_eq!(memory.size, Some(Size(1 << 30)));
        assert_eq!(memory.thp, Some(Switch(false)));
        assert_eq!((memory.reporting, memory.ksm), (Some(Switch(true)), None));
        assert_eq!("size=1G,reporting,thp=off".parse(), Ok(memory));
        assert_eq!("ksm=on".parse::<MemoryArg>().unwrap().size, None);
        for (bad, word) in [
            ("", "unknown field ``"),
            ("1K", "such as 256M"),
            ("1G,", "unknown field ``"),
            ("1G,2G", "unknown field `2G`"),
            ("1G,size=1G", "twice"),
            ("1G,thp=always", "neither on nor off"),
        ] {
            let error = bad.parse::<MemoryArg>().unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in ["64M", "1G,reporting,thp=on,ksm", "thp=off"] {
            let memory: MemoryArg = text.parse().unwrap();
            assert_eq!(memory.to_string().parse(), Ok(memory.clone()), "{memory}");
            let table = toml::to_string(&memory).unwrap();
            assert_eq!(toml::from_str(&table), Ok(memory), "{table}");
        }
    }
}
