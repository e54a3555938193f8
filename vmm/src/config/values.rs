//! The values that options take.
//!
//! Each is checked where it is read, from the command line or from a file, so that the
//! message can say which one is wrong.

use std::fmt;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::console::{ConsoleArg, LogLimit};
use crate::layout::CMDLINE_MAX;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Longest name of a machine in bytes.
const NAME_MAX: usize = 64;
/// Longest text that tells that a guest has started, in bytes.
const LAUNCH_TEXT_MAX: usize = 256;

vmfirst_host::as_text!(
    Cmdline, ConsoleArg, LaunchText, LogLimit, NetArg, Size, VmName, VsockArg
);

/// A machine's name: it names files too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmName(String);

impl FromStr for VmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let first = text.chars().next();
        if text.len() > NAME_MAX
            || !text.chars().all(valid)
            || !first.is_some_and(|c| c.is_ascii_alphanumeric())
        {
            return Err(format!(
                "{text:?} is no name: 1 to {NAME_MAX} letters, digits, '-', '_' and '.', \
                 a letter or digit first"
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A kernel's command line: it fits, and nothing in it ends it early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline(String);

impl Default for Cmdline {
    fn default() -> Self {
        Self("console=ttyS0".into())
    }
}

impl FromStr for Cmdline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() >= CMDLINE_MAX {
            return Err(format!(
                "{} bytes; at most {} fit",
                text.len(),
                CMDLINE_MAX - 1
            ));
        }
        if text.contains('\0') {
            return Err("a zero byte ends the command line".into());
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a guest prints when it has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchText(String);

impl Default for LaunchText {
    fn default() -> Self {
        Self(" as init process".into())
    }
}

impl FromStr for LaunchText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=LAUNCH_TEXT_MAX => Ok(Self(text.into())),
            _ => Err(format!("give 1 to {LAUNCH_TEXT_MAX} bytes")),
        }
    }
}

impl fmt::Display for LaunchText {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number of vCPUs: 1 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct Cpus(NonZeroU8);

impl Cpus {
    /// The number.
    pub fn get(self) -> u8 {
        self.0.get()
    }
}

impl Default for Cpus {
    fn default() -> Self {
        Self(NonZeroU8::MIN)
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is no number is none of those that are possible.
        Self::try_from(text.parse::<i64>().unwrap_or_default()).map_err(String::from)
    }
}

impl TryFrom<i64> for Cpus {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        let number = u8::try_from(number).ok().and_then(NonZeroU8::new);
        number.map(Self).ok_or("expected a number, 1 to 255")
    }
}

impl From<Cpus> for u8 {
    fn from(cpus: Cpus) -> Self {
        cpus.get()
    }
}

/// An amount of memory in bytes: a whole number of MiB, 32 MiB to 1 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Default for Size {
    fn default() -> Self {
        Self(256 * MIB)
    }
}

/// With the suffix M or G; without one in MiB.
impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = match text.as_bytes().last() {
            Some(b'G' | b'g') => (&text[..text.len() - 1], GIB),
            Some(b'M' | b'm') => (&text[..text.len() - 1], MIB),
            _ => (text, MIB),
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit))
            .ok_or("expected a size such as 256M or 2G")?;
        if !(32 * MIB..=1024 * GIB).contains(&bytes) {
            return Err("memory is 32M to 1024G".into());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}M", self.0 / MIB)
    }
}

/// Which of KVM's paravirtual features a guest sees in its CPUID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pv {
    /// No feature, and no sign that the guest is one
    None,
    /// What QEMU offers by default: clock, steal time, asynchronous page faults, EOI without exit
    Qemu,
    /// All that this host's KVM has
    #[default]
    All,
}

/// One `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetArg {
    /// The tap's name.
    pub tap: String,
    /// The guest's Ethernet address; without one the guest chooses.
    pub mac: Option<[u8; 6]>,
}

impl FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (tap, mac) = match text.split_once(",mac=") {
            Some((tap, mac)) => (tap, Some(parse_mac(mac)?)),
            None => (text, None),
        };
        let tap = tap
            .strip_prefix("tap=")
            .ok_or("expected tap=NAME or tap=NAME,mac=02:00:00:00:00:01")?;
        let valid = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ',' | ':');
        if !(1..libc::IFNAMSIZ).contains(&tap.len())
            || !tap.chars().all(valid)
            || tap.starts_with('.')
        {
            return Err(format!("{tap:?} is no name of a network device"));
        }
        Ok(Self {
            tap: tap.into(),
            mac,
        })
    }
}

impl fmt::Display for NetArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "tap={}", self.tap)?;
        match self.mac {
            Some([a, b, c, d, e, g]) => {
                write!(f, ",mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            None => Ok(()),
        }
    }
}

/// `--vsock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockArg {
    /// The guest's address: 0 to 2 and the largest have meanings of their own.
    pub cid: u32,
    /// The host's end.
    pub socket: PathBuf,
}

impl FromStr for VsockArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (cid, socket) = text
            .strip_prefix("cid=")
            .and_then(|text| text.split_once(",socket="))
            .ok_or("expected cid=3,socket=FILE")?;
        // What is no number is as wrong as 0.
        let cid = cid.parse().unwrap_or(0);
        if !(3..u32::MAX).contains(&cid) {
            return Err("cid is a number, 3 to 4294967294");
        }
        Ok(Self {
            cid,
            socket: socket.into(),
        })
    }
}

impl fmt::Display for VsockArg {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "cid={},socket={}", self.cid, self.socket.display())
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |part: &str| match part.len() {
        2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
        Some(mac) if mac[0] & 1 == 0 => Ok(mac),
        Some(_) => Err(format!(
            "{text} is a multicast address; give one of a device"
        )),
        None => Err(format!("{text:?} is no address such as 02:00:00:00:00:01")),
    }
}

/// What happens at a system call that isn't in a thread's list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// It ends the program at once.
    #[default]
    On,
    /// It is done, and the kernel's log tells of it.
    Log,
    /// It is done.
    Off,
}

/// A user or group: not root, nor the value by which the kernel means "unchanged".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Id(u32);

impl TryFrom<u32> for Id {
    type Error = &'static str;

    fn try_from(id: u32) -> Result<Self, Self::Error> {
        match id {
            0 | u32::MAX => Err("expected a number, 1 to 4294967294; 0 gives nothing up"),
            id => Ok(Self(id)),
        }
    }
}

impl From<Id> for u32 {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What is no number is as wrong as 0.
        text.parse().unwrap_or(0).try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!("256M".parse(), Ok(Size(256 * MIB)));
        assert_eq!("64".parse(), Ok(Size(64 * MIB)));
        assert_eq!("2g".parse(), Ok(Size(2048 * MIB)));
        for bad in ["", "M", "1M", "-1", "12X", "99999999999999G", "2000G"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_device_has_a_tap_and_may_have_an_address() {
        let net: NetArg = "tap=vm0".parse().unwrap();
        assert_eq!((net.tap.as_str(), net.mac), ("vm0", None));
        let net: NetArg = "tap=vm0,mac=02:00:00:00:00:fe".parse().unwrap();
        assert_eq!(net.mac, Some([2, 0, 0, 0, 0, 0xfe]));
        for bad in [
            "",
            "vm0",
            "tap=",
            "tap=../x",
            "tap=a/b",
            "tap=sixteen-letters-",
            "tap=vm0,mac=",
            "tap=vm0,mac=02:00:00:00:00",
            "tap=vm0,mac=02:00:00:00:00:00:00",
            "tap=vm0,mac=+2:00:00:00:00:00:00",
            "tap=vm0,mac=01:00:00:00:00:00",
        ] {
            assert!(bad.parse::<NetArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guest_has_an_address_and_a_socket() {
        let vsock: VsockArg = "cid=3,socket=/run/a,b".parse().unwrap();
        assert_eq!((vsock.cid, vsock.socket), (3, "/run/a,b".into()));
        for bad in [
            "",
            "cid=3",
            "socket=/a",
            "cid=2,socket=/a",
            "cid=4294967295,socket=/a",
            "cid=,socket=/a",
        ] {
            assert!(bad.parse::<VsockArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_line_must_fit() {
        assert!("x".repeat(CMDLINE_MAX - 1).parse::<Cmdline>().is_ok());
        assert!("x".repeat(CMDLINE_MAX).parse::<Cmdline>().is_err());
        assert!("a\0b".parse::<Cmdline>().is_err());
    }

    #[test]
    fn a_name_is_safe_in_a_path() {
        assert!("web-1.prod_2".parse::<VmName>().is_ok());
        let long = "x".repeat(NAME_MAX + 1);
        for bad in ["", ".", "..", "a/b", "-a", "a b", "ä", "a\0", &long] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_is_written_as_it_is_read() {
        for text in ["tap=vm0,mac=02:00:00:00:0a:fe", "tap=vm0"] {
            assert_eq!(text.parse::<NetArg>().unwrap().to_string(), text);
        }
        let vsock = "cid=3,socket=/run/v";
        assert_eq!(vsock.parse::<VsockArg>().unwrap().to_string(), vsock);
        assert_eq!("3g".parse::<Size>().unwrap().to_string(), "3072M");
    }
}
