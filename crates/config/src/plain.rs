//! Numbers and switches that may be written as text: environment variables always are.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written<T> {
    Value(T),
    Text(String),
}

impl<T: FromStr> Written<T> {
    fn read<E: Error>(self, wanted: &str) -> Result<T, E> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Text(text) => {
                text.trim().parse().map_err(|_| E::custom(format!("{text:?}: write {wanted}")))
            }
        }
    }
}

/// Deserializes a number, or text with its digits.
pub fn number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr + Display,
{
    Written::deserialize(deserializer).map_err(|_| not_a_number())?.read("a number")
}

/// As `number`, for an optional field, whose default is set in `settings`.
pub fn some_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let written: Option<Written<u64>> = Option::deserialize(deserializer).map_err(|_| not_a_number())?;
    written.map(|written| written.read("a number")).transpose()
}

/// Deserializes `true` or `false`, or the same as text.
pub fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let written = Written::deserialize(deserializer).map_err(|_| D::Error::custom("write true or false"))?;
    written.read("true or false")
}

fn not_a_number<E: Error>() -> E {
    E::custom("write a number, zero or more")
}
