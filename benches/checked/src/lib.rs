//! TOML that users write. Whatever is wrong in it is told in one line with file, line and
//! column, and with what would be right.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::value::{I64Deserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A text, to tell places in it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What errors call it: a file, or a plan that comes with a program.
    pub name: &'a str,
    /// All of it.
    pub text: &'a str,
}

impl Source<'_> {
    /// Reads it. The error is a line for the user.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        toml::from_str(self.text).map_err(|e| self.wrong(e.span().unwrap_or(0..0), e.message()))
    }

    /// Says that something is wrong at a place.
    pub fn wrong(&self, at: Range<usize>, what: &str) -> String {
        let before = self.text.get(..at.start).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before[start..].chars().count() + 1;
        let what: Vec<&str> = what.split_whitespace().collect();
        format!("{}:{line}:{column}: {}", self.name, what.join(" "))
    }
}

/// Several values, or one without brackets.
#[derive(Debug, Clone)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneOrMany(PhantomData))
    }
}

/// An untagged enum would not say what is wrong with the one value.
struct OneOrMany<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<List<T>, E> {
        let one = T::deserialize(I64Deserializer::new(value))?;
        Ok(List(vec![one]))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<List<T>, E> {
        let one = T::deserialize(StrDeserializer::new(value))?;
        Ok(List(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<List<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(values)).map(List)
    }
}

/// The values of a list: at least one, at most 64, none twice.
pub fn different<T: PartialEq>(values: &[T]) -> Result<(), String> {
    let twice = (1..values.len()).any(|i| values[..i].contains(&values[i]));
    if twice || !(1..=64).contains(&values.len()) {
        return Err("from 1 to 64 different values".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        x: List<u8>,
    }

    fn read(text: &str) -> Result<Vec<u8>, String> {
        let source = Source { name: "f", text };
        source.read::<File>().map(|file| file.x.0)
    }

    #[test]
    fn a_list_may_be_one_value() {
        assert_eq!(read("x = 1").unwrap(), [1]);
        assert_eq!(read("x = [1, 2]").unwrap(), [1, 2]);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        for (text, place) in [
            ("\nx = 256", "f:2:5: "),
            ("x = [1,\n 256]", "f:2:2: "),
            ("x = \"a\"", "f:1:5: "),
            ("y = 1", "f:1:1: "),
            ("ä", "f:1:2: "),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(place), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let end = Source {
            name: "f",
            text: "ab\ncd",
        };
        assert_eq!(end.wrong(4..5, "no\nway"), "f:2:2: no way");
        assert_eq!(end.wrong(99..99, "x"), "f:1:1: x");
    }

    #[test]
    fn values_of_a_list_differ() {
        assert!(different(&[1, 2]).is_ok());
        assert!(different(&[0; 0]).is_err());
        assert!(different(&[1, 2, 1]).is_err());
        let most: Vec<u32> = (0..64).collect();
        assert!(different(&most).is_ok());
        assert!(different(&(0..65).collect::<Vec<u32>>()).is_err());
    }
}
