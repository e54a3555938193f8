//! `--console`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::keys::{self, Table};

const KIB: u64 = 1 << 10;
/// Bytes of a console's file, unless the user says otherwise.
const LIMIT: LogLimit = LogLimit(1024 * KIB);

/// Where the guest's serial console is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ConsoleArg {
    /// On standard input and output.
    #[default]
    Stdio,
    /// At a socket: of this path, or beside the API's.
    Socket(Option<PathBuf>),
    /// What it prints goes to a file; it reads nothing.
    File(ConsoleFile),
    /// What it prints goes nowhere; it reads nothing.
    None,
}

/// A file of bounded size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleFile {
    /// Where it is.
    pub file: PathBuf,
    /// Bytes that it has at most.
    #[serde(default)]
    pub limit: LogLimit,
}

impl Table for ConsoleFile {
    const EXPECTED: &'static str = "file=PATH,limit=SIZE";

    fn from_table<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

impl FromStr for ConsoleArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdio" => return Ok(Self::Stdio),
            "socket" => return Ok(Self::Socket(None)),
            "none" => return Ok(Self::None),
            _ => {}
        }
        match text.strip_prefix("socket=") {
            Some("") => Err("socket= needs a path".into()),
            Some(path) => Ok(Self::Socket(Some(path.into()))),
            None if text.starts_with("file=") => keys::parse(text).map(Self::File),
            None => Err("expected stdio, socket, socket=PATH, file=PATH,limit=SIZE or none".into()),
        }
    }
}

impl fmt::Display for ConsoleArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Socket(None) => f.write_str("socket"),
            Self::Socket(Some(path)) => write!(f, "socket={}", path.display()),
            Self::File(ConsoleFile { file, limit }) => {
                let file = keys::escape(&file.to_string_lossy());
                write!(f, "file={file},limit={limit}")
            }
            Self::None => f.write_str("none"),
        }
    }
}

/// Bytes of a file at most: 4 KiB to 16 GiB, a whole number of KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit(pub u64);

impl Default for LogLimit {
    fn default() -> Self {
        LIMIT
    }
}

/// With the suffix K, M or G.
impl FromStr for LogLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = match text.as_bytes().last() {
            Some(b'K' | b'k') => KIB,
            Some(b'M' | b'm') => KIB << 10,
            Some(b'G' | b'g') => KIB << 20,
            _ => return Err("expected a limit such as 64K or 1M"),
        };
        let number = text[..text.len() - 1].parse::<u64>().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit));
        match bytes.filter(|bytes| (4 * KIB..=KIB << 24).contains(bytes)) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err("a limit is 4K to 16G"),
        }
    }
}

impl fmt::Display for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}K", self.0 / KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_in_one_of_five_places() {
        for (text, printed) in [
            ("stdio", "stdio"),
            ("socket", "socket"),
            ("socket=/run/a,b", "socket=/run/a,b"),
            ("file=/a,,b", "file=/a,,b,limit=1024K"),
            ("file=/a,limit=2G", "file=/a,limit=2097152K"),
            ("none", "none"),
        ] {
            let console: ConsoleArg = text.parse().unwrap();
            assert_eq!(console.to_string(), printed);
            assert_eq!(printed.parse(), Ok(console));
        }
        for (bad, word) in [
            ("", "expected stdio"),
            ("tty", "expected stdio"),
            ("socket=", "needs a path"),
            ("file=/a,limit=1", "such as 64K"),
            ("file=/a,limit=K", "4K to 16G"),
            ("file=/a,limit=17G", "4K to 16G"),
            ("file=/a,limit=99999999999999999G", "4K to 16G"),
            ("file=/a,size=1K", "unknown field `size`"),
        ] {
            let error = bad.parse::<ConsoleArg>().unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
