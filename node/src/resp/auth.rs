//! The one password of the one user, `default`.

use std::fmt;
use std::hint::black_box;

/// Shown nowhere; compared in constant time.
#[derive(Clone)]
pub struct Password(Box<[u8]>);

impl Password {
    pub fn new(password: impl Into<Vec<u8>>) -> Self {
        Self(password.into().into_boxed_slice())
    }

    /// Takes time that depends on the length of `candidate` only.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let mut difference = u8::from(candidate.len() != self.0.len());
        for (position, byte) in candidate.iter().enumerate() {
            let expected = self.0.get(position).copied().unwrap_or(!*byte);
            difference = black_box(difference | (byte ^ expected));
        }
        difference == 0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_password_matches() {
        let password = Password::new("secret");
        assert!(password.matches(b"secret"));
        for wrong in ["", "secre", "secrets", "Secret", "secret\0"] {
            assert!(!password.matches(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{password:?}"), "Password(..)");
    }
}
