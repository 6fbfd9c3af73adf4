//! Documents: two lines of JSON, the content and its seal. Anybody can read the content; the seal is an HMAC with a data key
//! that the keyring unwraps, or a SHA-256 without encryption. Both cover the document's name.

use bytes::Bytes;
use ring::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crypto::keyring::{DataKey, Wrapped};
use crate::crypto::{Keyring, hex, sha256};
use crate::{ArchiveError, Result};

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seal {
    format: u32,
    #[serde(flatten)]
    proof: Proof,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Proof {
    #[serde(rename_all = "camelCase")]
    Mac {
        key_id: String,
        nonce: String,
        wrapped_key: String,
        mac: String,
    },
    Plain {
        sha256: String,
    },
}

/// Only the format of a seal, which a newer build may have extended.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(crate) fn seal<T: Serialize>(name: &str, value: &T, keyring: &Keyring) -> Result<Bytes> {
    let invalid = |e| ArchiveError::Invalid(format!("cannot write {name} as JSON: {e}"));
    let content = serde_json::to_string(value).map_err(invalid)?;
    let proof = match keyring.new_data_key(name)? {
        Some((key, wrapped)) => Proof::Mac {
            mac: hex::encode(hmac::sign(&mac_key(&key), &covered(name, content.as_bytes())).as_ref()),
            key_id: wrapped.key_id,
            nonce: hex::encode(&wrapped.nonce),
            wrapped_key: hex::encode(&wrapped.key),
        },
        None => Proof::Plain { sha256: hex::encode(&sha256(&[&covered(name, content.as_bytes())])) },
    };
    let seal = serde_json::to_string(&Seal { format: FORMAT, proof }).map_err(invalid)?;
    Ok(format!("{content}\n{seal}\n").into())
}

pub(crate) fn open<T: DeserializeOwned>(name: &str, bytes: &[u8], keyring: &Keyring) -> Result<T> {
    let damaged = |reason: &str| ArchiveError::damaged(name, reason);
    let lines = bytes.strip_suffix(b"\n").and_then(|lines| {
        let end = lines.iter().position(|byte| *byte == b'\n')?;
        Some((&lines[..end], &lines[end + 1..]))
    });
    let (content, seal) = lines.ok_or_else(|| damaged("it is truncated"))?;
    let Format { format } = serde_json::from_slice(seal).map_err(|_| damaged("its seal is no JSON"))?;
    if format > FORMAT {
        return Err(ArchiveError::NewerFormat { object: name.to_owned(), found: format, newest: FORMAT });
    }
    if format == 0 {
        return Err(damaged("its seal is not legal"));
    }
    let seal: Seal = serde_json::from_slice(seal).map_err(|_| damaged("its seal has other fields"))?;
    let covered = covered(name, content);
    match seal.proof {
        Proof::Mac { key_id, nonce, wrapped_key, mac } => {
            let wrapped =
                wrapped(key_id, &nonce, &wrapped_key).ok_or_else(|| damaged("its seal is not legal"))?;
            let key = mac_key(&keyring.unwrap_data_key(name, &wrapped)?);
            let mac = hex::decode(&mac).unwrap_or_default();
            hmac::verify(&key, &covered, &mac).map_err(|_| damaged("its MAC is another one"))?;
        }
        Proof::Plain { .. } if !keyring.accepts_unencrypted() => {
            return Err(ArchiveError::wrong_key(name, "it has no MAC, and the keyring has keys"));
        }
        Proof::Plain { sha256: hash } if hash != hex::encode(&sha256(&[&covered])) => {
            return Err(damaged("its SHA-256 is another one"));
        }
        Proof::Plain { .. } => {}
    }
    serde_json::from_slice(content).map_err(|e| damaged(&format!("its content is not legal: {e}")))
}

fn covered(name: &str, content: &[u8]) -> Vec<u8> {
    [&(name.len() as u64).to_be_bytes(), name.as_bytes(), content].concat()
}

fn mac_key(key: &DataKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

fn wrapped(key_id: String, nonce: &str, key: &str) -> Option<Wrapped> {
    let nonce = hex::decode(nonce)?.try_into().ok()?;
    Some(Wrapped { key_id, nonce, key: hex::decode(key)?.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyrings() -> [Keyring; 2] {
        [Keyring::new([("k1".to_owned(), [1; 32])], "k1").unwrap(), Keyring::unencrypted()]
    }

    #[test]
    fn document_is_opened_as_it_was_sealed_and_under_its_name_only() {
        for keyring in keyrings() {
            let sealed = seal("a", &vec![1, 2, 3], &keyring).unwrap();
            assert!(sealed.starts_with(b"[1,2,3]\n"));
            assert_eq!(open::<Vec<u32>>("a", &sealed, &keyring).unwrap(), [1, 2, 3]);
            assert!(open::<Vec<u32>>("b", &sealed, &keyring).unwrap_err().is_damage());
        }
    }

    #[test]
    fn every_changed_byte_of_a_document_is_detected() {
        for keyring in keyrings() {
            let sealed = seal("a", &vec!["text"], &keyring).unwrap();
            for at in 0..sealed.len() {
                let mut changed = sealed.to_vec();
                changed[at] ^= 1;
                let error = open::<Vec<String>>("a", &changed, &keyring).unwrap_err();
                assert!(error.is_damage() && error.object() == Some("a"), "{at}: {error}");
            }
        }
    }

    #[test]
    fn document_without_mac_is_refused_when_the_keyring_has_keys() {
        let [with_key, without] = keyrings();
        let sealed = seal("a", &1, &without).unwrap();
        assert!(matches!(open::<u32>("a", &sealed, &with_key).unwrap_err(), ArchiveError::WrongKey { .. }));
    }

    #[test]
    fn newer_format_of_a_document_is_named() {
        let sealed = b"1\n{\"format\":2,\"other\":1}\n";
        let error = open::<u32>("a", sealed, &Keyring::unencrypted()).unwrap_err();
        assert!(matches!(error, ArchiveError::NewerFormat { found: 2, newest: 1, .. }), "{error}");
    }
}
