//! `--cpu`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::keys::{self, Switch, as_text_or_table};

/// What a guest's CPUs have beyond the ordinary, of what the host's have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct CpuArg {
    /// Virtual machines of its own.
    #[serde(default)]
    pub nested: Switch,
    /// Performance counters.
    #[serde(default)]
    pub pmu: Switch,
}

as_text_or_table!(CpuArg, "a text such as \"nested,pmu\", or a table");

/// "nested", "pmu" or both.
impl FromStr for CpuArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        keys::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named_or_absent() {
        let cpu = |text: &str| text.parse::<CpuArg>().map(|cpu| (cpu.nested.0, cpu.pmu.0));
        assert_eq!(cpu("nested,pmu"), Ok((true, true)));
        assert_eq!(cpu("pmu"), Ok((false, true)));
        assert_eq!(cpu("nested=off"), Ok((false, false)));
        for bad in ["", "vmx", "pmu,pmu", "nested=1"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
    }
}
