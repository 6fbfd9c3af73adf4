//! The reader of a base. It hands out a part when every byte of it is checked.

use bytes::{Buf as _, Bytes};
use ring::digest::{Context, SHA256};

use super::{FORMAT, Manifest};
use crate::crypto::{finish, hex, sha256};
use crate::layout::{BaseId, Object};
use crate::{Archive, ArchiveError, Result};

pub struct BaseReader {
    archive: Archive,
    manifest: Manifest,
    next: usize,
    /// Content of the next part that is skipped.
    skip: u64,
    /// Hash of the content, if it is read from its begin.
    hash: Option<Context>,
}

impl BaseReader {
    pub async fn open(archive: &Archive, base: BaseId) -> Result<Self> {
        let manifest = read_manifest(archive, base).await?;
        let hash = Some(Context::new(&SHA256));
        Ok(Self { archive: archive.clone(), manifest, next: 0, skip: 0, hash })
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
        let Some(part) = self.manifest.parts.get(self.next) else {
            return Ok(None);
        };
        let object = Object::Part(self.manifest.id(), self.next as u16);
        let name = self.archive.name(object);
        let stored = self.archive.stored(object).await?;
        if stored.len() as u64 != part.stored_bytes {
            let reason = format!("it has {} bytes, its manifest says {}", stored.len(), part.stored_bytes);
            return Err(ArchiveError::damaged(&name, reason));
        }
        if hex::encode(&sha256(&[&stored])) != part.sha256 {
            return Err(ArchiveError::damaged(&name, "its SHA-256 is not the one of its manifest"));
        }
        let mut content = self.archive.open(object, &stored).await?.content;
        if content.len() as u64 != part.bytes {
            return Err(ArchiveError::damaged(&name, "its content has another length than in its manifest"));
        }
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
