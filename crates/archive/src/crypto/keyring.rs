//! Keys that wrap the data keys of objects.

use std::collections::BTreeMap;
use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::ArchiveError;

pub(crate) const KEY_BYTES: usize = 32;
pub(crate) const WRAPPED_BYTES: usize = KEY_BYTES + 16;
const MAX_KEY_ID_BYTES: usize = 64;
/// Entry of a Secret that names the key for new objects.
const CURRENT: &str = "current";

/// The key of one object. Objects do not share one.
pub(crate) type DataKey = [u8; KEY_BYTES];

/// Keys by their ids. New objects are written with the current one, objects of the others stay readable. A rotation adds a
/// key, makes it the current one, and keeps the old one until no object has its id.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<String, LessSafeKeyOf>,
    current: Option<String>,
    accepts_unencrypted: bool,
}

#[derive(Clone)]
struct LessSafeKeyOf(LessSafeKey);

/// A data key as an object has it: wrapped by a key of the keyring.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wrapped {
    pub key_id: String,
    pub nonce: [u8; NONCE_LEN],
    pub key: [u8; WRAPPED_BYTES],
}

impl Keyring {
    /// No keys: objects are written in clear text, with SHA-256 against accidents.
    pub fn unencrypted() -> Self {
        Self { accepts_unencrypted: true, ..Self::default() }
    }

    /// A keyring of 32-byte keys; `current` is the id of the one for new objects.
    pub fn new(
        keys: impl IntoIterator<Item = (String, [u8; KEY_BYTES])>,
        current: &str,
    ) -> Result<Self, ArchiveError> {
        let mut ring = Self { current: Some(current.to_owned()), ..Self::default() };
        for (id, bytes) in keys {
            let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if id.is_empty() || id.len() > MAX_KEY_ID_BYTES || !id.bytes().all(is_legal) || id == CURRENT {
                return Err(ArchiveError::Invalid(format!(
                    "key id {id:?} has to have 1 to {MAX_KEY_ID_BYTES} letters, digits, '-', '_' or '.'"
                )));
            }
            ring.keys.insert(id, LessSafeKeyOf(aes_key(&bytes)));
        }
        if !ring.keys.contains_key(current) {
            return Err(ArchiveError::Invalid(format!(
                "the keyring has no key {current:?}, its current one"
            )));
        }
        Ok(ring)
    }

    /// The keyring in the entries of a Secret: `current` is the id of a key, and every other entry a key, 64 hexadecimal
    /// digits, under its id. `openssl rand -hex 32` makes one.
    pub fn from_entries<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ArchiveError> {
        let mut current = None;
        let mut keys = Vec::new();
        for (id, text) in entries {
            if id == CURRENT {
                current = Some(text.trim().to_owned());
                continue;
            }
            let key = super::hex::decode(&text.trim().to_ascii_lowercase());
            let key = key.and_then(|key| key.try_into().ok()).ok_or_else(|| {
                ArchiveError::Invalid(format!("key {id:?} has to have {} hexadecimal digits", 2 * KEY_BYTES))
            })?;
            keys.push((id.to_owned(), key));
        }
        let only = if let [(id, _)] = &*keys { Some(id.clone()) } else { None };
        let current = current.or(only).ok_or_else(|| {
            ArchiveError::Invalid(format!("the keyring has several keys or none, and no entry {CURRENT:?}"))
        })?;
        Self::new(keys, &current)
    }

    /// Objects in clear text are accepted, too: those from before encryption was turned on. Without this a store could
    /// replace an encrypted object by one in clear text.
    #[must_use]
    pub fn accepting_unencrypted(mut self) -> Self {
        self.accepts_unencrypted = true;
        self
    }

    /// Id of the key of new objects; `None` without encryption.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    pub(crate) fn accepts_unencrypted(&self) -> bool {
        self.accepts_unencrypted
    }

    /// A new data key, wrapped for the object `name`; `None` without encryption.
    pub(crate) fn new_data_key(&self, name: &str) -> Result<Option<(DataKey, Wrapped)>, ArchiveError> {
        let Some(key_id) = &self.current else { return Ok(None) };
        let Some(LessSafeKeyOf(wrapper)) = self.keys.get(key_id) else { return Ok(None) };
        let data_key: DataKey = random()?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut key = [0; WRAPPED_BYTES];
        let (secret, tag) = key.split_at_mut(KEY_BYTES);
        secret.copy_from_slice(&data_key);
        let sealed = wrapper.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(name.as_bytes()),
            secret,
        );
        tag.copy_from_slice(sealed.map_err(|_| cannot_encrypt(name))?.as_ref());
        Ok(Some((data_key, Wrapped { key_id: key_id.clone(), nonce, key })))
    }

    pub(crate) fn unwrap_data_key(&self, name: &str, wrapped: &Wrapped) -> Result<DataKey, ArchiveError> {
        let id = &wrapped.key_id;
        let Some(LessSafeKeyOf(wrapper)) = self.keys.get(id) else {
            let have = self.keys.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let have = if have.is_empty() { "none".to_owned() } else { have };
            return Err(ArchiveError::wrong_key(
                name,
                format!("it needs the key {id:?}, the keyring has {have}"),
            ));
        };
        let mut key = wrapped.key;
        let nonce = Nonce::assume_unique_for_key(wrapped.nonce);
        let opened = wrapper.open_in_place(nonce, Aad::from(name.as_bytes()), &mut key);
        let wrong = || {
            ArchiveError::wrong_key(
                name,
                format!("the key {id:?} is not the one that wrote it, or its header is damaged"),
            )
        };
        opened.ok().and_then(|key| <DataKey>::try_from(&*key).ok()).ok_or_else(wrong)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.keys().collect();
        f.debug_struct("Keyring").field("ids", &ids).field("current", &self.current).finish_non_exhaustive()
    }
}

pub(super) fn aes_key(bytes: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("a key of AES-256 has 32 bytes"))
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], ArchiveError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| ArchiveError::Invalid("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

pub(super) fn cannot_encrypt(name: &str) -> ArchiveError {
    ArchiveError::Invalid(format!("{name} is too large to be encrypted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyring_is_read_from_the_entries_of_a_secret() {
        let [a, b] = ["aa".repeat(32), "bb".repeat(32)];
        let ring = Keyring::from_entries([("old", a.as_str()), ("new", &b), ("current", "new\n")]).unwrap();
        assert_eq!(ring.current(), Some("new"));
        assert_eq!(Keyring::from_entries([("old", a.as_str())]).unwrap().current(), Some("old"));
    }

    #[test]
    fn bad_entries_are_refused_with_what_to_do() {
        let [a, b] = ["aa".repeat(32), "bb".repeat(32)];
        for (entries, reason) in [
            (vec![("k", "aabb")], "64 hexadecimal digits"),
            (vec![("a", a.as_str()), ("b", &b)], "no entry \"current\""),
            (vec![("a", a.as_str()), ("current", "b")], "no key \"b\""),
            (vec![("a/b", a.as_str())], "key id"),
            (vec![], "no entry \"current\""),
        ] {
            let error = Keyring::from_entries(entries).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn keys_are_not_shown_by_debug() {
        let ring = Keyring::new([("k".to_owned(), [7; 32])], "k").unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring { ids: [\"k\"], current: Some(\"k\"), .. }");
    }
}
