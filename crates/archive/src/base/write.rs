//! The writer of a base. It holds one part, however large the base is.

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{FORMAT, Manifest, Part, Source};
use crate::crypto::{finish, hex, sha256};
use crate::layout::{BaseId, Object};
use crate::{Archive, ArchiveError, Result};

const PART_BYTES: usize = 16 << 20;

#[derive(Debug, Clone)]
pub struct Options {
    /// Length of the content of each part but the last.
    pub part_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { part_bytes: PART_BYTES }
    }
}

/// The base to write.
#[derive(Debug, Clone)]
pub struct BaseRequest {
    pub id: BaseId,
    pub now_ms: u64,
    pub snapshot_version: u32,
    /// See [`Manifest::snapshot_crc32c`].
    pub snapshot_crc32c: Option<u32>,
    /// Identity of the content: a writer resumes only if it is the same. The bytes of a snapshot set differ between members, so
    /// it has to name the member and the snapshot.
    pub source: String,
    pub member: String,
    pub started_ms: u64,
    pub keys: Option<u64>,
    pub state_digest: Option<String>,
}

/// The begin of a write.
pub enum Begun {
    /// The base is complete already.
    Complete(Box<Manifest>),
    Writer(Box<BaseWriter>),
}

/// A base that is being written.
pub struct BaseWriter {
    archive: Archive,
    request: BaseRequest,
    part_bytes: usize,
    parts: Vec<Part>,
    bytes: u64,
    hash: Context,
    /// The last part is there: it is shorter than the others.
    has_end: bool,
}

impl BaseWriter {
    /// Begins a base, or resumes one: the parts that an interrupted write of the same source left are read and checked.
    pub async fn begin(archive: &Archive, request: BaseRequest, options: Options) -> Result<Begun> {
        let id = request.id;
        match archive.document::<Manifest>(Object::Manifest(id)).await {
            Err(ArchiveError::Missing { .. }) => {}
            found => return found.map(|manifest| Begun::Complete(Box::new(manifest))),
        }
        if options.part_bytes == 0 {
            return Err(ArchiveError::Invalid("a part has to have at least one byte".to_owned()));
        }
        let source = Source { source: request.source.clone(), part_bytes: options.part_bytes as u64 };
        let mut writer = Self {
            archive: archive.clone(),
            request,
            part_bytes: options.part_bytes,
            parts: Vec::new(),
            bytes: 0,
            hash: Context::new(&SHA256),
            has_end: false,
        };
        match archive.create_document(Object::Source(id), &source).await {
            Ok(None) => {}
            Ok(Some(found)) if found == source => writer.resume().await?,
            Ok(Some(_)) => writer.discard(&source).await?,
            Err(error) if error.is_damage() => writer.discard(&source).await?,
            Err(error) => return Err(error),
        }
        Ok(Begun::Writer(Box::new(writer)))
    }

    /// Offset in the content at which the source has to begin.
    pub fn offset(&self) -> u64 {
        self.bytes
    }

    /// Writes the rest of the content, from [`BaseWriter::offset`] to the end of `source`. After an error, or if the future was
    /// dropped, it can be called again with a source that begins at the offset of then.
    pub async fn write(&mut self, source: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        loop {
            let mut part = Vec::with_capacity(self.part_bytes);
            let mut limited = (&mut *source).take(self.part_bytes as u64);
            while limited.limit() > 0 && limited.read_buf(&mut part).await? > 0 {}
            if part.is_empty() && !(self.parts.is_empty()) {
                return Ok(());
            }
            if self.has_end {
                return Err(ArchiveError::Invalid(format!(
                    "the source of base {} is longer than at the first attempt",
                    self.request.id
                )));
            }
            self.put(part.into()).await?;
            if self.has_end {
                return Ok(());
            }
        }
    }

    /// Writes the manifest. The base is complete when this returns.
    pub async fn finish(self, finished_ms: u64) -> Result<Manifest> {
        let Self { archive, request, parts, .. } = self;
        let manifest = Manifest {
            format: FORMAT,
            cluster_id: archive.history().cluster_id().to_owned(),
            incarnation: archive.history().incarnation(),
            index: request.id.index,
            term: request.id.term,
            now_ms: request.now_ms,
            snapshot_version: request.snapshot_version,
            snapshot_crc32c: request.snapshot_crc32c,
            member: request.member,
            started_ms: request.started_ms,
            finished_ms,
            bytes: self.bytes,
            stored_bytes: parts.iter().map(|part| part.stored_bytes).sum(),
            sha256: hex::encode(&finish(self.hash)),
            keys: request.keys,
            state_digest: request.state_digest,
            parts,
        };
        let object = Object::Manifest(request.id);
        match archive.create_document(object, &manifest).await? {
            None => Ok(manifest),
            // An earlier call succeeded, and its answer was lost.
            Some(found) if found.sha256 == manifest.sha256 && found.parts == manifest.parts => Ok(found),
            Some(_) => Err(ArchiveError::Forked { object: archive.name(object) }),
        }
    }

    async fn put(&mut self, content: Bytes) -> Result<()> {
        let object = self.next_part()?;
        let stored = self.archive.create(object, Vec::new(), content.clone()).await?;
        self.add(&content, &stored);
        Ok(())
    }

    fn add(&mut self, content: &[u8], stored: &[u8]) {
        self.hash.update(content);
        self.bytes += content.len() as u64;
        self.has_end = content.len() < self.part_bytes;
        self.parts.push(Part {
            bytes: content.len() as u64,
            stored_bytes: stored.len() as u64,
            sha256: hex::encode(&sha256(&[stored])),
        });
    }

    fn next_part(&self) -> Result<Object> {
        let number = u16::try_from(self.parts.len());
        let number = number.map_err(|_| {
            ArchiveError::Invalid(format!("base {} has more than 65536 parts", self.request.id))
        })?;
        Ok(Object::Part(self.request.id, number))
    }

    async fn resume(&mut self) -> Result<()> {
        while !self.has_end {
            let object = self.next_part()?;
            let opened = match self.archive.stored(object).await {
                Ok(stored) => self.archive.open(object, &stored).await.map(|opened| (opened, stored)),
                Err(error) => Err(error),
            };
            match opened {
                Ok((opened, stored)) if opened.content.len() <= self.part_bytes => {
                    self.add(&opened.content, &stored);
                }
                Err(ArchiveError::Missing { .. }) => return Ok(()),
                // Half a part, or one of another key: it is in no manifest, and is written again.
                Ok(_) => return self.archive.delete(object).await,
                Err(error) if error.is_damage() => return self.archive.delete(object).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what a write of other content left.
    async fn discard(&mut self, source: &Source) -> Result<()> {
        let id = self.request.id;
        let catalog = self.archive.catalog().await?;
        let parts = catalog.bases.get(&id).map(|base| base.parts.clone()).unwrap_or_default();
        // The identity last: until it is gone, the next attempt discards again.
        for part in parts {
            self.archive.delete(Object::Part(id, part)).await?;
        }
        self.archive.delete(Object::Source(id)).await?;
        match self.archive.create_document(Object::Source(id), source).await? {
            None => Ok(()),
            Some(_) => Err(ArchiveError::Forked { object: self.archive.name(Object::Source(id)) }),
        }
    }
}
