//! The reader of a base. It hands out a part when every byte of it is checked. The next parts ([`in_flight`]) are read and
//! opened while the caller has the one before them.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};
use ring::digest::{Context, SHA256};
use tokio::task::JoinHandle;

use super::{FORMAT, Manifest, Part, in_flight, sha256_of};
use crate::crypto::{finish, hex};
use crate::layout::{BaseId, Object};
use crate::{Archive, ArchiveError, Result};

pub struct BaseReader {
    archive: Archive,
    manifest: Manifest,
    next: usize,
    /// Parts from `next` on that are being read.
    ahead: VecDeque<Reading>,
    /// Content of the next part that is skipped.
    skip: u64,
    /// Hash of the content, if it is read from its begin.
    hash: Option<Context>,
}

impl BaseReader {
    pub async fn open(archive: &Archive, base: BaseId) -> Result<Self> {
        let manifest = read_manifest(archive, base).await?;
        let hash = Some(Context::new(&SHA256));
        Ok(Self { archive: archive.clone(), manifest, next: 0, ahead: VecDeque::new(), skip: 0, hash })
    }

    /// Resumes at `offset` of the content.
    pub async fn open_at(archive: &Archive, base: BaseId, offset: u64) -> Result<Self> {
        let mut reader = Self::open(archive, base).await?;
        if offset > reader.manifest.bytes {
            return Err(ArchiveError::Invalid(format!(
                "base {base} has {} bytes and cannot be read from {offset}",
                reader.manifest.bytes
            )));
        }
        reader.skip = offset;
        while let Some(part) = reader.manifest.parts.get(reader.next)
            && reader.skip >= part.bytes.max(1)
        {
            reader.skip -= part.bytes;
            reader.next += 1;
        }
        if offset > 0 {
            reader.hash = None;
        }
        Ok(reader)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Content of the next part; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let in_flight = in_flight(self.manifest.parts.first().map_or(0, |part| part.bytes));
        let first = self.next + self.ahead.len();
        for (number, part) in self.manifest.parts.iter().enumerate().take(self.next + in_flight).skip(first) {
            let object = Object::Part(self.manifest.id(), number as u16);
            let read = read_part(self.archive.clone(), object, part.clone());
            self.ahead.push_back(Reading(tokio::spawn(read)));
        }
        let Some(reading) = self.ahead.front_mut() else { return Ok(None) };
        let read = (&mut reading.0).await;
        self.ahead.pop_front();
        let read = read.map_err(|e| ArchiveError::Invalid(format!("a task of the archive ended: {e}")));
        // After an error the part is read again, in order.
        let mut content = read.and_then(|read| read).inspect_err(|_| self.ahead.clear())?;
        self.next += 1;
        if let Some(mut hash) = self.hash.take() {
            hash.update(&content);
            if self.next < self.manifest.parts.len() {
                self.hash = Some(hash);
            } else if hex::encode(&finish(hash)) != self.manifest.sha256 {
                let manifest = self.archive.name(Object::Manifest(self.manifest.id()));
                return Err(ArchiveError::damaged(&manifest, "its parts have another content"));
            }
        }
        content.advance(std::mem::take(&mut self.skip) as usize);
        Ok(Some(content))
    }
}

/// A part that is being read, until this is dropped.
struct Reading(JoinHandle<Result<Bytes>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads, checks and opens a part.
async fn read_part(archive: Archive, object: Object, part: Part) -> Result<Bytes> {
    let name = archive.name(object);
    let stored = archive.stored(object).await?;
    if stored.len() as u64 != part.stored_bytes {
        let reason = format!("it has {} bytes, its manifest says {}", stored.len(), part.stored_bytes);
        return Err(ArchiveError::damaged(&name, reason));
    }
    if sha256_of(&stored).await? != part.sha256 {
        return Err(ArchiveError::damaged(&name, "its SHA-256 is not the one of its manifest"));
    }
    let content = archive.open(object, &stored).await?.content;
    if content.len() as u64 != part.bytes {
        return Err(ArchiveError::damaged(&name, "its content has another length than in its manifest"));
    }
    Ok(content)
}

/// Reads the manifest of a base and checks that it is the one of this base.
pub(crate) async fn read_manifest(archive: &Archive, base: BaseId) -> Result<Manifest> {
    let manifest: Manifest = archive.document(Object::Manifest(base)).await?;
    let name = archive.name(Object::Manifest(base));
    if manifest.format > FORMAT {
        return Err(ArchiveError::NewerFormat { object: name, found: manifest.format, newest: FORMAT });
    }
    let history = archive.history();
    let is_ours =
        manifest.cluster_id == history.cluster_id() && manifest.incarnation == history.incarnation();
    let bytes = manifest.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.bytes));
    let is_numbered = manifest.parts.len() <= 1 << 16;
    if !is_ours || !is_numbered || manifest.id() != base || bytes != Some(manifest.bytes) {
        return Err(ArchiveError::damaged(&name, "its content is that of another base"));
    }
    Ok(manifest)
}

impl Archive {
    /// The manifest of a base.
    pub async fn manifest(&self, base: BaseId) -> Result<Manifest> {
        read_manifest(self, base).await
    }
}
