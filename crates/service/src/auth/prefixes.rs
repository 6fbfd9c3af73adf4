//! Keys that a user may access, by their prefixes. Pure.

use std::sync::Arc;

use helios_proto::Error;
use helios_proto::v1::ErrorCode;

/// Number of prefixes of one user.
pub const MAX_PREFIXES: usize = 64;
/// Length of one prefix, bytes.
pub const MAX_PREFIX_BYTES: usize = 1_024;
/// Bytes of a key that an error quotes.
const SHOWN_BYTES: usize = 128;

/// Channels of keyspace notifications, by the name of their key.
const KEYSPACE: &[u8] = b"__keyspace@0__:";
/// First bytes of all channels of keyspace notifications.
const NOTIFICATIONS: &[u8] = b"__key";

/// Prefixes that a user's keys and channels are limited to. The default has none: all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes(Option<Arc<[Vec<u8>]>>);

impl Prefixes {
    /// Checks the prefixes of a user in the users file.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn new(prefixes: Vec<String>) -> Result<Self, String> {
        if prefixes.is_empty() || prefixes.iter().any(String::is_empty) {
            return Err(
                "prefixes: write at least one, none of them empty, or leave prefixes out for all keys".into(),
            );
        }
        if prefixes.len() > MAX_PREFIXES || prefixes.iter().any(|prefix| prefix.len() > MAX_PREFIX_BYTES) {
            return Err(format!(
                "prefixes: write at most {MAX_PREFIXES}, each of at most {MAX_PREFIX_BYTES} bytes"
            ));
        }
        Ok(Self(Some(prefixes.into_iter().map(String::into_bytes).collect())))
    }

    /// Whether there are any prefixes, so that not all keys are allowed.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(|prefixes| prefixes.iter().map(Vec::as_slice))
    }

    /// Whether the key, or every key that begins with `key`, is allowed.
    pub fn allow(&self, key: &[u8]) -> bool {
        !self.is_limited() || self.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Whether every key from `start` on and before `end` is allowed; `None`: to the last key.
    pub fn allow_range(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        let within = |prefix: &[u8]| {
            start.starts_with(prefix)
                && match (end, first_key_after(prefix)) {
                    (_, None) => true,
                    (Some(end), Some(after)) => end <= after.as_slice(),
                    (None, Some(_)) => false,
                }
        };
        !self.is_limited() || self.iter().any(within)
    }

    /// Whether the channel, or every channel that begins with `channel`, is allowed: one that begins with a prefix, or that
    /// of the keyspace notifications of an allowed key. `__keyevent@0__:` would reveal the names of other keys.
    pub fn allow_channel(&self, channel: &[u8]) -> bool {
        if !self.is_limited() {
            return true;
        }
        match channel.strip_prefix(KEYSPACE) {
            Some(key) => self.allow(key),
            None => {
                let may_notify = channel.starts_with(NOTIFICATIONS) || NOTIFICATIONS.starts_with(channel);
                !may_notify && self.allow(channel)
            }
        }
    }

    /// Returns the prefixes as a user may read them, e.g. `app:, jobs:`.
    pub fn describe(&self) -> String {
        let shown: Vec<_> = self.iter().map(String::from_utf8_lossy).collect();
        shown.join(", ")
    }

    /// Returns the error of a request of the user `name` that names a key outside.
    pub fn refusal(&self, name: &str, key: &[u8]) -> Error {
        let key = String::from_utf8_lossy(&key[..key.len().min(SHOWN_BYTES)]);
        let prefixes = self.describe();
        Error::new(
            ErrorCode::Forbidden,
            format!("user {name} may access keys that begin with {prefixes}, and {key:?} does not"),
        )
    }

    /// Returns the error of a request of the user `name` that may reach keys outside.
    pub fn refusal_of(&self, name: &str, what: &str) -> Error {
        let prefixes = self.describe();
        Error::new(
            ErrorCode::Forbidden,
            format!("user {name} may access keys that begin with {prefixes}, and {what} reaches others"),
        )
    }
}

/// Returns the smallest key that is greater than all keys with this prefix; `None` if there is none.
pub fn first_key_after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Prefixes {
        Prefixes::new(texts.iter().map(|text| (*text).to_owned()).collect()).unwrap()
    }

    #[test]
    fn key_is_allowed_when_it_begins_with_a_prefix() {
        let app = prefixes(&["app:", "jobs"]);
        for (key, expected) in [
            ("app:1", true),
            ("app:", true),
            ("jobs", true),
            ("jobs2", true),
            ("app", false),
            ("", false),
            ("xapp:", false),
        ] {
            assert_eq!(app.allow(key.as_bytes()), expected, "{key}");
            assert!(Prefixes::default().allow(key.as_bytes()));
        }
    }

    #[test]
    fn range_is_allowed_when_it_has_no_key_outside_one_prefix() {
        let app = prefixes(&["app:", "b"]);
        for (start, end, expected) in [
            ("app:", Some("app;"), true),
            ("app:a", Some("app:b"), true),
            ("app:", Some("app:"), true),
            ("app:", Some("app;a"), false),
            ("app:", None, false),
            ("a", Some("app;"), false),
            ("", None, false),
            ("app:z", Some("b"), false),
            ("b", Some("c"), true),
        ] {
            let end = end.map(str::as_bytes);
            assert_eq!(app.allow_range(start.as_bytes(), end), expected, "{start} {end:?}");
        }
        assert!(Prefixes::default().allow_range(b"", None));
        let last = Prefixes(Some([vec![0xff]].into()));
        assert!(last.allow_range(b"\xff\xff", None), "no key follows this prefix");
    }

    #[test]
    fn channel_is_allowed_when_no_message_of_it_names_a_key_outside() {
        let app = prefixes(&["app:", "__"]);
        for (channel, expected) in [
            ("app:news", true),
            ("news", false),
            ("", false),
            ("__keyspace@0__:app:1", true),
            ("__keyspace@0__:other", false),
            ("__keyspace@0__:", false),
            ("__keyevent@0__:del", false),
            ("__", false),
            ("__k", false),
            ("__mine", true),
        ] {
            assert_eq!(app.allow_channel(channel.as_bytes()), expected, "{channel}");
            assert!(Prefixes::default().allow_channel(channel.as_bytes()));
        }
    }

    #[test]
    fn list_of_prefixes_is_refused_when_it_would_mean_all_keys() {
        for wrong in [vec![], vec![String::new()], vec!["a".to_owned(), String::new()]] {
            assert!(Prefixes::new(wrong).unwrap_err().contains("leave prefixes out"));
        }
        assert!(Prefixes::new(vec!["a".to_owned(); MAX_PREFIXES + 1]).is_err());
        assert!(Prefixes::new(vec!["a".repeat(MAX_PREFIX_BYTES + 1)]).is_err());
    }
}
