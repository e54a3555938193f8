//! Options of several parts: "key=value,..." on the command line, tables in a file.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::seen::Seen;
use crate::config::{ConsoleArg, CpuArg, DiskArg, MemoryArg, NetArg, VsockArg};

/// A text; the first byte says which option's it is. What is accepted is written so that it is
/// read as the same, on the command line and in files.
pub fn keys(input: &[u8], seen: &mut Seen) {
    let Some((&first, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    match first % 8 {
        0 => both(read(text.parse::<DiskArg>(), seen)),
        1 => both(read(text.parse::<MemoryArg>(), seen)),
        2 => both(read(toml::from_str::<DiskArg>(text), seen)),
        // An empty one has no text.
        3 => as_table(&read(toml::from_str::<MemoryArg>(text), seen)),
        4 => as_text(&read(text.parse::<ConsoleArg>(), seen)),
        5 => as_text(&read(text.parse::<NetArg>(), seen)),
        6 => as_text(&read(text.parse::<VsockArg>(), seen)),
        _ => as_table(&read(text.parse::<CpuArg>(), seen)),
    }
}

/// What was read, unless it was refused, with a reason.
fn read<T: Debug, E: Display>(parsed: Result<T, E>, seen: &mut Seen) -> Option<T> {
    let refused = |error: &E| assert!(!error.to_string().is_empty());
    let read = parsed.inspect_err(refused).ok();
    seen.note_with(|| format!("{read:?}"));
    read
}

fn as_text<T>(value: &Option<T>)
where
    T: Debug + Display + FromStr<Err: Display> + PartialEq,
{
    if let Some(value) = value {
        let again = value.to_string().parse::<T>();
        let again = again.map_err(|error| error.to_string());
        assert_eq!(again.as_ref(), Ok(value), "{value}");
    }
}

fn as_table<T>(value: &Option<T>)
where
    T: Debug + PartialEq + Serialize + DeserializeOwned,
{
    let Some(value) = value else { return };
    let table = toml::to_string(value).expect("every value can be written");
    assert_eq!(toml::from_str(&table).as_ref(), Ok(value), "{table}");
    let table = serde_json::to_string(value).expect("every value can be written");
    let again = serde_json::from_str(&table).map_err(|error| error.to_string());
    assert_eq!(again.as_ref(), Ok(value), "{table}");
}

fn both<T>(value: Option<T>)
where
    T: Debug + Display + FromStr<Err: Display> + PartialEq + Serialize + DeserializeOwned,
{
    as_text(&value);
    as_table(&value);
}
