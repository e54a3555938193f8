//! `--disk`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::keys::{self, Switch, as_text_or_table};

/// Most bytes of a disk's name: virtio's VIRTIO_BLK_ID_BYTES.
const ID_MAX: usize = 20;

/// One `--disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DiskArg {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    #[serde(default, skip_serializing_if = "is_off")]
    pub ro: Switch,
    /// Whether what the guest discards is given back to the host; if not given, on where
    /// the guest may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<Switch>,
    /// Whether the host keeps nothing of it in its page cache.
    #[serde(default, skip_serializing_if = "is_off")]
    pub direct: Switch,
    /// The name that the guest reads as its serial number; if not given, "vmfirst-N".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<DiskId>,
}

as_text_or_table!(DiskArg, "a text such as \"FILE,ro\", or a table with path");

fn is_off(switch: &Switch) -> bool {
    !switch.0
}

impl DiskArg {
    /// Whether the guest may give blocks back.
    pub fn discards(&self) -> bool {
        !self.ro.0 && self.discard.is_none_or(|discard| discard.0)
    }
}

/// "FILE", "FILE,ro", or keys that begin with "path=".
impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("path=") {
            return keys::parse(text);
        }
        let (path, ro) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        Ok(Self {
            path: path.into(),
            ro: Switch(ro),
            discard: None,
            direct: Switch(false),
            id: None,
        })
    }
}

/// As keys, whatever the path is.
impl fmt::Display for DiskArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "path={}", keys::escape(&self.path.to_string_lossy()))?;
        if self.ro.0 {
            f.write_str(",ro")?;
        }
        if let Some(discard) = self.discard {
            write!(f, ",discard={discard}")?;
        }
        if self.direct.0 {
            f.write_str(",direct")?;
        }
        self.id.iter().try_for_each(|id| write!(f, ",id={id}"))
    }
}

/// What a guest reads as a disk's serial number: 1 to 20 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl TryFrom<String> for DiskId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let visible = text.chars().all(|c| c.is_ascii_graphic() && c != ',');
        match (1..=ID_MAX).contains(&text.len()) && visible {
            true => Ok(Self(text)),
            false => Err(format!(
                "{text:?} is no id: 1 to {ID_MAX} visible ASCII characters, no comma"
            )),
        }
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> Self {
        id.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_a_file_that_may_be_read_only() {
        let disk: DiskArg = "a,b,ro".parse().unwrap();
        assert_eq!((disk.path.to_str(), disk.ro.0), (Some("a,b"), true));
        assert!(!disk.discards());
        let disk: DiskArg = "a.img".parse().unwrap();
        assert_eq!((disk.path.to_str(), disk.ro.0), (Some("a.img"), false));
        assert!(disk.discards());
    }

    #[test]
    fn keys_say_more() {
        let disk: DiskArg = "path=/a,,b,discard=off,direct,id=root-1".parse().unwrap();
        assert_eq!(disk.path.to_str(), Some("/a,b"));
        assert_eq!((disk.discards(), disk.direct.0), (false, true));
        assert_eq!(disk.id.unwrap().to_string(), "root-1");
        assert!(
            !"path=/a,ro,discard=on"
                .parse::<DiskArg>()
                .unwrap()
                .discards()
        );
        for (bad, word) in [
            ("path=/a,read", "unknown field `read`"),
            ("path=/a,ro=maybe", "neither on nor off"),
            ("path=/a,ro,ro=off", "twice"),
            ("path=/a,id=", "is no id"),
            ("path=/a,id=123456789012345678901", "is no id"),
            ("path=/a,id=a b", "is no id"),
            ("path=/a,", "unknown field ``"),
        ] {
            let error = bad.parse::<DiskArg>().unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in [
            "/a,b,ro",
            "/a",
            "path=/x",
            "path=/a,,,,b,ro",
            // From a file.
            "/a\0b",
            "path=/a\0,,b",
            "path=/a,discard=off,id=x",
        ] {
            let disk: DiskArg = text.parse().unwrap();
            assert_eq!(disk.to_string().parse(), Ok(disk.clone()), "{disk}");
            let table = toml::to_string(&disk).unwrap();
            assert_eq!(toml::from_str(&table), Ok(disk), "{table}");
        }
    }
}
