//! Options of several parts: "key=value,key,..." on the command line, a table in a file.
//!
//! Both are read by one definition, so that a key which one has the other has too.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::{Error as TextError, MapAccessDeserializer, MapDeserializer};
use serde::de::{IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// "on" or "off"; in a file true or false as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Switch(pub bool);

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Switch;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("on or off")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Switch, E> {
                Ok(Switch(value))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Switch, E> {
                match text {
                    "on" => Ok(Switch(true)),
                    "off" => Ok(Switch(false)),
                    _ => Err(E::custom(format!("{text:?} is neither on nor off"))),
                }
            }
        }

        // Asked for a bool, a format that has types of its own gives what it has.
        from.deserialize_any(Either)
    }
}

/// Reads "key=value,key,...". A key without a value is on; a comma in a value is written
/// twice.
pub fn parse<T: Table>(text: &str) -> Result<T, String> {
    let parts = split(text);
    let pairs = parts.iter().map(|part| match part.split_once('=') {
        Some((key, value)) => (key, Text(value)),
        None => (part.as_str(), Text("on")),
    });
    let pairs: Vec<_> = pairs.collect();
    let mut keys: Vec<_> = pairs.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("{:?} is there twice", twice[0]));
    }
    T::from_table(MapDeserializer::<_, TextError>::new(pairs.into_iter()))
        .map_err(|error| error.to_string())
}

/// The value of a key: a text, whatever is wanted.
struct Text<'a>(&'a str);

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = TextError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TextError> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The parts between single commas.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![];
    let mut part = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        // Of two, the first is the value's.
        if c != ',' || chars.next_if_eq(&',').is_some() {
            part.push(c);
        } else {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts.push(part);
    parts
}

/// A value as [`parse`] takes it.
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// What keys and values make, or a file's table.
pub trait Table: Sized {
    /// What is expected, for messages.
    const EXPECTED: &'static str;

    /// Reads the table.
    fn from_table<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
}

/// Reads a value from its text or from its table.
pub fn text_or_table<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Table + FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    from.deserialize_any(TextOrTable(PhantomData))
}

struct TextOrTable<T>(PhantomData<T>);

impl<'de, T: Table + FromStr<Err: fmt::Display>> Visitor<'de> for TextOrTable<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_table(MapAccessDeserializer::new(map))
    }
}

/// Gives a type with `#[serde(remote = "Self")]`, which makes its table, both forms.
macro_rules! as_text_or_table {
    ($type:ty, $expected:literal) => {
        impl $crate::config::keys::Table for $type {
            const EXPECTED: &'static str = $expected;

            fn from_table<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                // The inherent one, of the table.
                <$type>::deserialize(from)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                <$type>::serialize(self, to)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::config::keys::text_or_table(from)
            }
        }
    };
}
pub(crate) use as_text_or_table;
