//! Bytes of an object: compressed by zstd, then encrypted by AES-256-GCM in frames of 64 KiB, or in clear text with SHA-256.
//!
//! ```text
//! magic "HELIOSAR" | format u16 | cipher u8 | compression u8 | header length u32 | header
//! header: content length u64 | attributes length u16 | attributes
//!         with a cipher also: key id length u8 | key id | nonce 12 | wrapped data key 48 | file id 8
//! cipher 1: frames of length u32, the highest bit marks the last one | ciphertext | tag 16
//! cipher 0: content | SHA-256 of the name and of every byte before it
//! ```
//! All integers are big-endian. The nonce of a frame is the file id and the frame's number. Each frame authenticates the name
//! of the object, all bytes before the frames, its number and its mark: a frame that was moved, left out or repeated, or an
//! object under another object's name, does not open. The attributes can be read without the keyring.

pub(crate) mod hex;
pub(crate) mod keyring;

use bytes::{Buf, BufMut, Bytes};
use ring::aead::{Aad, NONCE_LEN, Nonce};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

pub use keyring::Keyring;
use keyring::{WRAPPED_BYTES, Wrapped, aes_key, cannot_encrypt, random};

use crate::{ArchiveError, Result};

/// SHA-256 of something.
pub type Hash = [u8; SHA256_OUTPUT_LEN];

const MAGIC: &[u8; 8] = b"HELIOSAR";
const FORMAT: u16 = 1;
const PREFIX_BYTES: usize = 8 + 2 + 1 + 1 + 4;
const MAX_HEADER_BYTES: usize = 4096;
/// Bytes from the begin of an object that hold its attributes, whatever its key id is.
pub(crate) const HEAD_BYTES: u64 = (PREFIX_BYTES + MAX_HEADER_BYTES) as u64;
pub(crate) const MAX_CONTENT_BYTES: u64 = 1 << 30;

const CLEAR: u8 = 0;
const AES_256_GCM: u8 = 1;
const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// At the default level, 3, zstd took almost half of the CPU time of a base.
const ZSTD_LEVEL: i32 = 1;

const FRAME_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
const LAST: u32 = 1 << 31;
const FILE_ID_BYTES: usize = 8;

/// An object that was opened and is what was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    pub attributes: Bytes,
    pub content: Bytes,
}

struct Head {
    cipher: u8,
    compression: u8,
    content_bytes: u64,
    attributes: Bytes,
    key: Option<(Wrapped, [u8; FILE_ID_BYTES])>,
    /// Length of everything before the frames.
    bytes: usize,
}

/// The bytes of the object `name`. They open under this name only.
pub fn seal(name: &str, attributes: &[u8], content: &[u8], keyring: &Keyring) -> Result<Bytes> {
    if content.len() as u64 > MAX_CONTENT_BYTES {
        return Err(ArchiveError::Invalid(format!(
            "{name} has {} bytes, the limit is {MAX_CONTENT_BYTES}",
            content.len()
        )));
    }
    let compressed = zstd::bulk::compress(content, ZSTD_LEVEL);
    let mut compressed =
        compressed.map_err(|e| ArchiveError::Invalid(format!("cannot compress {name}: {e}")))?;
    let compression = if compressed.len() < content.len() { ZSTD } else { RAW };
    if compression == RAW {
        compressed.clear();
        compressed.extend_from_slice(content);
    }

    let key = match keyring.new_data_key(name)? {
        Some((data_key, wrapped)) => Some((data_key, wrapped, random::<FILE_ID_BYTES>()?)),
        None => None,
    };
    let mut header = Vec::new();
    header.put_u64(content.len() as u64);
    header.put_u16(attributes.len() as u16);
    header.put_slice(attributes);
    if let Some((_, wrapped, file_id)) = &key {
        header.put_u8(wrapped.key_id.len() as u8);
        header.put_slice(wrapped.key_id.as_bytes());
        header.put_slice(&wrapped.nonce);
        header.put_slice(&wrapped.key);
        header.put_slice(file_id);
    }
    if header.len() > MAX_HEADER_BYTES {
        return Err(ArchiveError::Invalid(format!("the attributes of {name} are too long")));
    }
    let frames = compressed.len() / FRAME_BYTES + 1;
    let room = PREFIX_BYTES + header.len() + compressed.len() + frames * (4 + TAG_BYTES) + SHA256_OUTPUT_LEN;
    let mut sealed = Vec::with_capacity(room);
    sealed.put_slice(MAGIC);
    sealed.put_u16(FORMAT);
    sealed.put_u8(if key.is_some() { AES_256_GCM } else { CLEAR });
    sealed.put_u8(compression);
    sealed.put_u32(header.len() as u32);
    sealed.put_slice(&header);
    match key {
        Some((data_key, _, file_id)) => put_frames(&mut sealed, name, compressed, &data_key, file_id)?,
        None => {
            sealed.put_slice(&compressed);
            let hash = hash_of(name, &sealed);
            sealed.put_slice(&hash);
        }
    }
    Ok(sealed.into())
}

fn put_frames(
    sealed: &mut Vec<u8>,
    name: &str,
    mut content: Vec<u8>,
    data_key: &[u8; 32],
    file_id: [u8; FILE_ID_BYTES],
) -> Result<()> {
    let key = aes_key(data_key);
    let context = hash_of(name, sealed);
    // An object without content has one frame, too: its end has to be authenticated.
    let count = content.len().div_ceil(FRAME_BYTES).max(1);
    for number in 0..count {
        let end = content.len().min((number + 1) * FRAME_BYTES);
        let frame = &mut content[number * FRAME_BYTES..end];
        let is_last = number + 1 == count;
        let aad = aad(&context, number as u32, is_last);
        let tag = key.seal_in_place_separate_tag(nonce(file_id, number as u32), aad, frame);
        let tag = tag.map_err(|_| cannot_encrypt(name))?;
        sealed.put_u32((frame.len() + TAG_BYTES) as u32 | if is_last { LAST } else { 0 });
        sealed.put_slice(frame);
        sealed.put_slice(tag.as_ref());
    }
    Ok(())
}

/// Attributes in the first bytes of an object. They are not authenticated before the object is opened.
pub fn attributes(name: &str, head: &[u8]) -> Result<Bytes> {
    Ok(parse(name, head)?.attributes)
}

/// The content of the object `name`, every byte of which is checked.
pub fn open(name: &str, sealed: &Bytes, keyring: &Keyring) -> Result<Opened> {
    let head = parse(name, sealed)?;
    let compressed = match (&head.key, head.cipher) {
        (Some((wrapped, file_id)), _) => {
            let data_key = keyring.unwrap_data_key(name, wrapped)?;
            open_frames(name, sealed, head.bytes, &data_key, *file_id)?.into()
        }
        (None, _) if !keyring.accepts_unencrypted() => {
            return Err(ArchiveError::wrong_key(
                name,
                "it is not encrypted, and the keyring does not accept objects in clear text",
            ));
        }
        (None, _) => {
            let end = sealed.len().checked_sub(SHA256_OUTPUT_LEN).filter(|end| *end >= head.bytes);
            let end = end.ok_or_else(|| ArchiveError::damaged(name, "it is truncated"))?;
            if hash_of(name, &sealed[..end]) != sealed[end..] {
                return Err(ArchiveError::damaged(name, "its SHA-256 is another one"));
            }
            sealed.slice(head.bytes..end)
        }
    };
    let content = decompress(name, &head, compressed)?;
    Ok(Opened { attributes: head.attributes, content })
}

fn decompress(name: &str, head: &Head, compressed: Bytes) -> Result<Bytes> {
    let content = match head.compression {
        RAW => compressed,
        _ => {
            let content = zstd::bulk::decompress(&compressed, head.content_bytes as usize);
            content.map_err(|e| ArchiveError::damaged(name, format!("zstd: {e}")))?.into()
        }
    };
    if content.len() as u64 != head.content_bytes {
        return Err(ArchiveError::damaged(name, "its content has another length"));
    }
    Ok(content)
}

fn open_frames(
    name: &str,
    sealed: &[u8],
    start: usize,
    data_key: &[u8; 32],
    file_id: [u8; FILE_ID_BYTES],
) -> Result<Vec<u8>> {
    let key = aes_key(data_key);
    let context = hash_of(name, &sealed[..start]);
    let mut rest = &sealed[start..];
    let mut content = Vec::with_capacity(rest.len());
    for number in 0.. {
        let length = rest.try_get_u32().map_err(|_| ArchiveError::damaged(name, "it is truncated"))?;
        let is_last = length & LAST != 0;
        let length = (length & !LAST) as usize;
        if !(TAG_BYTES..=FRAME_BYTES + TAG_BYTES).contains(&length) {
            return Err(ArchiveError::damaged(name, format!("frame {number} has an impossible length")));
        }
        let Some((frame, after)) = rest.split_at_checked(length) else {
            return Err(ArchiveError::damaged(name, format!("it is truncated in frame {number}")));
        };
        let at = content.len();
        content.extend_from_slice(frame);
        let opened =
            key.open_in_place(nonce(file_id, number), aad(&context, number, is_last), &mut content[at..]);
        let length = opened.map(|frame| frame.len());
        let length =
            length.map_err(|_| ArchiveError::damaged(name, format!("frame {number} is not authentic")))?;
        content.truncate(at + length);
        rest = after;
        if is_last {
            break;
        }
    }
    if !rest.is_empty() {
        return Err(ArchiveError::damaged(name, "it has bytes after its last frame"));
    }
    Ok(content)
}

fn parse(name: &str, sealed: &[u8]) -> Result<Head> {
    let truncated = || ArchiveError::damaged(name, "its header is truncated");
    let mut rest = sealed;
    if rest.len() < PREFIX_BYTES {
        return Err(truncated());
    }
    if rest.copy_to_bytes(MAGIC.len()) != MAGIC.as_slice() {
        return Err(ArchiveError::damaged(name, "it is no object of an archive"));
    }
    let format = rest.get_u16();
    if format > FORMAT {
        let (found, newest) = (format.into(), FORMAT.into());
        return Err(ArchiveError::NewerFormat { object: name.to_owned(), found, newest });
    }
    let (cipher, compression) = (rest.get_u8(), rest.get_u8());
    let length = rest.get_u32() as usize;
    if format == 0 || cipher > AES_256_GCM || compression > ZSTD || length > MAX_HEADER_BYTES {
        return Err(ArchiveError::damaged(name, "its header is not legal"));
    }
    let mut header = Bytes::copy_from_slice(rest.get(..length).ok_or_else(truncated)?);
    let content_bytes = header.try_get_u64().map_err(|_| truncated())?;
    if content_bytes > MAX_CONTENT_BYTES {
        return Err(ArchiveError::damaged(name, "its header has an impossible length"));
    }
    let attributes = header.try_get_u16().map_err(|_| truncated())?;
    let attributes = take(&mut header, attributes.into()).ok_or_else(truncated)?;
    let key = match cipher {
        CLEAR => None,
        _ => Some(parse_key(&mut header).ok_or_else(truncated)?),
    };
    if !header.is_empty() {
        return Err(ArchiveError::damaged(name, "its header is too long"));
    }
    Ok(Head { cipher, compression, content_bytes, attributes, key, bytes: PREFIX_BYTES + length })
}

fn parse_key(header: &mut Bytes) -> Option<(Wrapped, [u8; FILE_ID_BYTES])> {
    let length = header.try_get_u8().ok()?;
    let key_id = String::from_utf8(take(header, length.into())?.to_vec()).ok()?;
    let nonce = take(header, NONCE_LEN)?.as_ref().try_into().ok()?;
    let key = take(header, WRAPPED_BYTES)?.as_ref().try_into().ok()?;
    let file_id = take(header, FILE_ID_BYTES)?.as_ref().try_into().ok()?;
    Some((Wrapped { key_id, nonce, key }, file_id))
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn nonce(file_id: [u8; FILE_ID_BYTES], number: u32) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..FILE_ID_BYTES].copy_from_slice(&file_id);
    nonce[FILE_ID_BYTES..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn aad(context: &Hash, number: u32, is_last: bool) -> Aad<[u8; SHA256_OUTPUT_LEN + 5]> {
    let mut bytes = [0; SHA256_OUTPUT_LEN + 5];
    bytes[..SHA256_OUTPUT_LEN].copy_from_slice(context);
    bytes[SHA256_OUTPUT_LEN..][..4].copy_from_slice(&number.to_be_bytes());
    bytes[SHA256_OUTPUT_LEN + 4] = is_last.into();
    Aad::from(bytes)
}

pub(crate) fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    finish(context)
}

pub(crate) fn finish(context: Context) -> Hash {
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hash_of(name: &str, bytes: &[u8]) -> Hash {
    sha256(&[&(name.len() as u64).to_be_bytes(), name.as_bytes(), bytes])
}

#[cfg(test)]
mod tests;
