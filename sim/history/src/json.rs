//! Histories as JSON lines, one operation per line, for other checkers.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::history::{History, Operation, Outcome, Value};

#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("line {line} of the history is not an operation: {source}")]
    Syntax { line: usize, source: serde_json::Error },
    #[error("line {line} of the history returns before its invocation")]
    Times { line: usize },
}

impl History {
    /// Returns the history as one JSON object per line. A value is a number, or a string with one character
    /// for each byte, so that bytes above 127 are preserved.
    pub fn to_porcupine_json(&self) -> String {
        let line = |operation| {
            serde_json::to_string(operation).expect("an operation has no map and no value that can fail")
        };
        self.operations().iter().map(|operation| line(operation) + "\n").collect()
    }

    /// Parses a history that [`History::to_porcupine_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, ParseError> {
        let mut history = Self::new();
        for (line, text) in (1..).zip(text.lines()) {
            let operation: Operation =
                serde_json::from_str(text).map_err(|source| ParseError::Syntax { line, source })?;
            if matches!(operation.outcome, Outcome::Ok { returned, .. } if returned < operation.invoked) {
                return Err(ParseError::Times { line });
            }
            history.push(operation);
        }
        Ok(history)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Plain {
    Number(i64),
    Text(String),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => Plain::Number(*number),
            Self::Bytes(bytes) => Plain::Text(bytes.iter().map(|&byte| char::from(byte)).collect()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Plain::deserialize(deserializer)? {
            Plain::Number(number) => Ok(Self::Number(number)),
            Plain::Text(text) => {
                let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
                bytes.map(Self::Bytes).map_err(|_| de::Error::custom("a character is above U+00FF"))
            }
        }
    }
}
