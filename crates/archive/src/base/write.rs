//! The writer of a base. However large the base is, it holds the part that is read from the source and those before it that
//! are sealed and stored ([`in_flight`]).

use std::pin::pin;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{FORMAT, Manifest, Part, Source, in_flight};
use crate::crypto::{finish, hex};
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
        let (archive, part_bytes) = (self.archive.clone(), self.part_bytes);
        let in_flight = in_flight(part_bytes as u64);
        let mut number = self.parts.len();
        let mut stored = FuturesOrdered::new();
        let mut has_end = self.has_end;
        let read = loop {
            let part = {
                let mut read = pin!(read_part(source, part_bytes));
                loop {
                    tokio::select! {
                        biased;
                        Some(part) = stored.next() => self.add(part?),
                        part = &mut read => break part,
                    }
                }
            };
            let content = match part {
                Ok(content) if content.is_empty() && number > 0 => break Ok(()),
                Ok(content) => content,
                Err(error) => break Err(error),
            };
            if has_end {
                break Err(ArchiveError::Invalid(format!(
                    "the source of base {} is longer than at the first attempt",
                    self.request.id
                )));
            }
            if stored.len() == in_flight
                && let Some(part) = stored.next().await
            {
                self.add(part?);
            }
            has_end = content.len() < part_bytes;
            stored.push_back(store(&archive, self.part(number)?, content));
            number += 1;
            if has_end {
                break Ok(());
            }
        };
        // Also after an error of the source: the next attempt begins after these parts.
        while let Some(part) = stored.next().await {
            self.add(part?);
        }
        read
    }

    /// Sets the digest of the state, which the source may compute while its content is read.
    pub fn set_state_digest(&mut self, digest: String) {
        self.request.state_digest = Some(digest);
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

    fn add(&mut self, Stored { content, part }: Stored) {
        self.hash.update(&content);
        self.bytes += part.bytes;
        self.has_end = content.len() < self.part_bytes;
        self.parts.push(part);
    }

    fn part(&self, number: usize) -> Result<Object> {
        let number = u16::try_from(number).map_err(|_| {
            ArchiveError::Invalid(format!("base {} has more than 65536 parts", self.request.id))
        })?;
        Ok(Object::Part(self.request.id, number))
    }

    async fn resume(&mut self) -> Result<()> {
        while !self.has_end {
            let object = self.part(self.parts.len())?;
            let opened = match self.archive.stored(object).await {
                Ok(stored) => self.archive.open(object, &stored).await.map(|opened| (opened, stored)),
                Err(error) => Err(error),
            };
            match opened {
                Ok((opened, stored)) if opened.content.len() <= self.part_bytes => {
                    let part = Part::of(&opened.content, &stored).await?;
                    self.add(Stored { content: opened.content, part });
                }
                // Half a part, or one of another key: it is in no manifest, and is written again.
                Ok(_) => break,
                Err(error) if error.is_damage() || matches!(error, ArchiveError::Missing { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        // Parts are stored out of order, so that there may be later ones, and these may be half a part too.
        self.delete_parts(self.parts.len()).await
    }

    async fn delete_parts(&self, first: usize) -> Result<()> {
        let id = self.request.id;
        let catalog = self.archive.catalog().await?;
        let parts = catalog.bases.get(&id).map(|base| base.parts.clone()).unwrap_or_default();
        for part in parts.into_iter().filter(|part| usize::from(*part) >= first) {
            self.archive.delete(Object::Part(id, part)).await?;
        }
        Ok(())
    }

    /// Removes what a write of other content left.
    async fn discard(&mut self, source: &Source) -> Result<()> {
        let id = self.request.id;
        // The identity last: until it is gone, the next attempt discards again.
        self.delete_parts(0).await?;
        self.archive.delete(Object::Source(id)).await?;
        match self.archive.create_document(Object::Source(id), source).await? {
            None => Ok(()),
            Some(_) => Err(ArchiveError::Forked { object: self.archive.name(Object::Source(id)) }),
        }
    }
}

/// A part that the store has.
struct Stored {
    content: Bytes,
    part: Part,
}

async fn store(archive: &Archive, object: Object, content: Bytes) -> Result<Stored> {
    let stored = archive.create(object, Vec::new(), content.clone()).await?;
    let part = Part::of(&content, &stored).await?;
    Ok(Stored { content, part })
}

/// Reads `part_bytes` of the source, less at its end.
async fn read_part(source: &mut (impl AsyncRead + Unpin), part_bytes: usize) -> Result<Bytes> {
    let mut part = Vec::with_capacity(part_bytes);
    let mut limited = source.take(part_bytes as u64);
    while limited.limit() > 0 && limited.read_buf(&mut part).await? > 0 {}
    Ok(part.into())
}
