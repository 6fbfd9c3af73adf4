//! A secret that clients authenticate with: a password or the gateway's token.

use std::fmt;
use std::hint::black_box;

/// A secret: redacted in `Debug`, compared in constant time.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into().into_boxed_slice())
    }

    /// Whether `candidate` is the secret. The time depends on the length of `candidate` only.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let mut difference = u8::from(candidate.len() != self.0.len());
        for (position, byte) in candidate.iter().enumerate() {
            let expected = self.0.get(position).copied().unwrap_or(!*byte);
            difference = black_box(difference | (byte ^ expected));
        }
        difference == 0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_matches() {
        let secret = Secret::new("secret");
        assert!(secret.matches(b"secret"));
        for wrong in ["", "secre", "secrets", "Secret", "secret\0"] {
            assert!(!secret.matches(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
