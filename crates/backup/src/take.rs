//! A base: the stream of a member into the store.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use helios_archive::base::{self, BaseWriter, Begun, Manifest, Options};
use helios_archive::{Archive, ArchiveError, BaseId};
use helios_proto::v1::base_chunk::Kind;
use helios_proto::v1::{BaseChunk, BaseEnd, BaseHeader, BaseRequest, ErrorCode, ErrorDetail};
use tokio::time::sleep;
use tokio_util::io::StreamReader;

use crate::Failure;
use crate::failure::reason_of;
use crate::members::{Chunks, Member, MemberError};
use crate::pace::backoff;
use crate::time::{millis, wall_ms};

/// Attempts at one member; each continues where the one before it ended, if the member still has the snapshot.
const ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl TakeError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Member(_) => "Member",
            Self::Archive(error) => reason_of(error),
        }
    }
}

impl From<TakeError> for Failure {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Member(error) => error.into(),
            TakeError::Archive(error) => error.into(),
        }
    }
}

/// Takes a base from a member. `on_header` is called with the header of each snapshot that the member sends.
pub async fn take(
    archive: &Archive,
    member: &Member,
    max_bytes_per_second: u64,
    on_header: impl Fn(&BaseHeader),
) -> Result<Manifest, TakeError> {
    let mut transfer = Transfer { archive, member, max_bytes_per_second, started_ms: wall_ms(), begun: None };
    for attempt in 1.. {
        match transfer.attempt(&on_header).await {
            Ok(manifest) => return Ok(manifest),
            Err(error) if attempt < ATTEMPTS && is_worth_another(&error) => {
                tracing::warn!(member = member.address(), attempt, "the base was interrupted: {error}");
                sleep(backoff(attempt, rand::random())).await;
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop returns at its last attempt")
}

fn is_worth_another(error: &TakeError) -> bool {
    match error {
        TakeError::Member(error) => error.is_transient(),
        TakeError::Archive(error) => error.is_transient(),
    }
}

struct Transfer<'a> {
    archive: &'a Archive,
    member: &'a Member,
    max_bytes_per_second: u64,
    started_ms: u64,
    /// The snapshot of the attempts so far.
    begun: Option<(BaseHeader, Box<BaseWriter>)>,
}

impl Transfer<'_> {
    async fn attempt(&mut self, on_header: &impl Fn(&BaseHeader)) -> Result<Manifest, TakeError> {
        let started = Instant::now();
        let resume = self.begun.as_ref().map(|(header, writer)| {
            let offset = writer.offset();
            BaseHeader { offset, ..header.clone() }
        });
        let base = BaseRequest {
            resume,
            max_bytes_per_second: self.max_bytes_per_second,
            with_digest: true,
            digest_at_end: true,
        };
        let mut chunks = self.member.base(base).await?;
        let header = match chunks.next().await?.and_then(|chunk| chunk.kind) {
            Some(Kind::Header(header)) => header,
            _ => return Err(self.broken("the stream of the base does not begin with its header").into()),
        };
        let begun = Instant::now();
        let history = self.archive.history();
        if header.cluster_id != history.cluster_id() || header.incarnation != history.incarnation() {
            return Err(self.broken("the member sent a base of another history").into());
        }
        let is_same = self.begun.as_ref().is_some_and(|(begun, _)| source(begun) == source(&header));
        if !is_same {
            on_header(&header);
            let request = request(&header, self.started_ms);
            match BaseWriter::begin(self.archive, request, options(&header)).await? {
                Begun::Complete(manifest) => return Ok(*manifest),
                Begun::Writer(writer) => self.begun = Some((header.clone(), writer)),
            }
        }
        let Some((_, writer)) = &mut self.begun else {
            return Err(self.broken("the base has no writer").into());
        };
        let skip = writer.offset().checked_sub(header.offset);
        let Some(skip) = skip else {
            return Err(self.broken("the member begins after the bytes that are there").into());
        };
        let missing = header.size_bytes.saturating_sub(header.offset);
        writer.write(&mut StreamReader::new(content(&mut chunks, skip, missing))).await?;
        let stored = Instant::now();
        if writer.offset() != header.size_bytes {
            let have = writer.offset();
            let text = format!("the base ends at byte {have}, its header says {}", header.size_bytes);
            return Err(self.broken(&text).into());
        }
        let digest = match chunks.next().await? {
            None => None,
            Some(BaseChunk { kind: Some(Kind::End(BaseEnd { state_digest })), .. }) => Some(state_digest),
            Some(_) => return Err(self.broken("the base is longer than its header says").into()),
        };
        tracing::info!(
            index = header.index,
            bytes = header.size_bytes,
            header_ms = millis(begun - started),
            content_ms = millis(stored - begun),
            digest_ms = millis(stored.elapsed()),
            "all bytes of the base are in the store, and its digest is here"
        );
        let Some((_, mut writer)) = self.begun.take() else {
            return Err(self.broken("the base has no writer").into());
        };
        if let Some(digest) = digest {
            writer.set_state_digest(digest);
        }
        Ok(writer.finish(wall_ms()).await?)
    }

    /// The error of a stream that is not legal; what was received is not resumed.
    fn broken(&mut self, message: &str) -> MemberError {
        self.begun = None;
        self.member_error(message)
    }

    fn member_error(&self, message: &str) -> MemberError {
        let detail = ErrorDetail {
            code: ErrorCode::Corruption.into(),
            message: message.to_owned(),
            ..ErrorDetail::default()
        };
        MemberError { address: self.member.address().to_owned(), detail }
    }
}

/// Parts of 4 MiB, because the process holds ten of them, and larger ones for a base that has too many of these, of which it
/// holds fewer.
fn options(header: &BaseHeader) -> Options {
    const PART_BYTES: u64 = 4 << 20;
    const MAX_PARTS: u64 = 60_000;
    let part_bytes = header.size_bytes.div_ceil(MAX_PARTS).max(PART_BYTES);
    Options { part_bytes: usize::try_from(part_bytes).unwrap_or(usize::MAX) }
}

/// Identity of the bytes of a snapshot: the disk is in it, because they may differ between members.
fn source(header: &BaseHeader) -> String {
    let BaseHeader { disk_id, index, term, version, size_bytes, crc32c, .. } = header;
    format!("{disk_id} {index}-{term} version {version} bytes {size_bytes} crc32c {crc32c:08x}")
}

fn request(header: &BaseHeader, started_ms: u64) -> base::BaseRequest {
    base::BaseRequest {
        id: BaseId { index: header.index, term: header.term },
        now_ms: header.now_ms,
        snapshot_version: header.version,
        snapshot_crc32c: Some(header.crc32c),
        source: source(header),
        member: header.member.clone(),
        started_ms,
        keys: Some(header.keys),
        state_digest: (!header.state_digest.is_empty()).then(|| header.state_digest.clone()),
    }
}

/// The `missing` bytes of the snapshot, each chunk checked, without the first `skip`, which the store has. Ends earlier only if the
/// stream does. The checksum of the header does not cover all bytes of a set of files; a node that restores the snapshot verifies
/// it to its last block.
fn content<'a>(
    chunks: &'a mut Chunks<BaseChunk>,
    skip: u64,
    missing: u64,
) -> BoxStream<'a, io::Result<Bytes>> {
    let next = async |(chunks, skip, missing): (&'a mut Chunks<BaseChunk>, u64, u64)| {
        if missing == 0 {
            return None;
        }
        let bytes = match chunks.next().await {
            Ok(None) => return None,
            Ok(Some(chunk)) => checked(chunk, missing),
            Err(error) => Err(io::Error::other(error)),
        };
        let read = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let skipped = skip.min(read);
        let bytes = bytes.map(|mut bytes| bytes.split_off(skipped as usize));
        Some((bytes, (chunks, skip - skipped, missing - read)))
    };
    let content = futures::stream::unfold((chunks, skip, missing), next);
    content.try_filter(|bytes| std::future::ready(!bytes.is_empty())).boxed()
}

/// Returns the data of a chunk of which `missing` bytes are expected at most.
fn checked(chunk: BaseChunk, missing: u64) -> io::Result<Bytes> {
    let Some(Kind::Data(data)) = chunk.kind else {
        return Err(io::Error::other("the member sent no data within a base"));
    };
    if chunk.crc32c.is_some_and(|sum| sum != crc32c::crc32c(&data)) {
        return Err(io::Error::other(
            "a chunk of the base was changed on its way: its checksum is another one",
        ));
    }
    if data.len() as u64 > missing {
        return Err(io::Error::other("the base is longer than its header says"));
    }
    Ok(data)
}
