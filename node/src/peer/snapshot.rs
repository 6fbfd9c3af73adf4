//! Snapshot transfer, on a separate stream: the content is sent first, and the receiver hands the Raft message that
//! announces it to Raft only once it is complete and durable. An interrupted transfer resumes from the part that the
//! receiver holds.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{ErrorCode, SnapshotChunk, SnapshotHeader, SnapshotPrefix, snapshot_chunk::Kind};
use prometheus_client::metrics::counter::Counter;
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::Bandwidth;
use super::links::{LinkOptions, Target};
use super::turns::Turn;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::raft::{Incoming, Outgoing, Prefix, SnapshotId, Snapshots};
use crate::state::SnapshotMeta;

const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the connection.
pub const CHUNKS: usize = 4;

/// Sends the snapshot that `message` announces, and reports the outcome to Raft, which waits for it.
pub async fn send(options: Arc<LinkOptions>, target: Target, message: Message) {
    let to = message.to;
    let index = message.get_snapshot().get_metadata().index;
    let snapshots = Arc::clone(&options.snapshots);
    let Ok(Some(path)) = blocking(move || Ok(snapshots.begin_sending(to, index))).await else {
        tracing::warn!(peer = %target.name, index, "snapshot not sent: it is no longer on disk; taking another");
        return options.raft.snapshot_gone(to);
    };
    let outcome = try_send(&options, &target, &message, path).await;
    match &outcome {
        Ok(()) => {
            options.snapshots.sent(to);
            tracing::info!(peer = %target.name, index, "snapshot sent");
        }
        Err(error) => tracing::warn!(peer = %target.name, index, %error, "snapshot not sent"),
    }
    options.raft.snapshot_sent(to, outcome.is_ok());
}

async fn try_send(
    options: &Arc<LinkOptions>,
    target: &Target,
    message: &Message,
    path: PathBuf,
) -> Result<(), Error> {
    let (snapshots, from) = (Arc::clone(&options.snapshots), path.clone());
    let (meta, mut outgoing) = blocking(move || {
        Ok((snapshots.read(&from).map_err(failed)?, snapshots.outgoing(&from).map_err(failed)?))
    })
    .await?;
    let mut header = header_of(&meta);
    header.handshake = Some(options.identity.handshake(target));
    let channel = options.dialer.connect(&target.addr).await.map_err(failed)?;
    let mut client = PeerClient::new(channel);
    header.offset = offset_for(&mut client, &header, &options.snapshots, path).await?;
    header.message = message.encode_to_vec().into();
    outgoing.skip(header.offset);
    let (chunks, stream) = mpsc::channel(CHUNKS);
    let pace = Pace::new(&options.bandwidth, &options.metrics);
    let reading = tokio::spawn(read_chunks(outgoing, header, chunks, pace));
    let outcome = client.install_snapshot(ReceiverStream::new(stream)).await;
    reading.abort();
    outcome.map(drop).map_err(|status| helios_proto::detail_of(&status).into())
}

pub fn header_of(meta: &SnapshotMeta) -> SnapshotHeader {
    SnapshotHeader { version: meta.version, ..header_of_id(&SnapshotId::from(meta)) }
}

/// Returns the offset from which the receiver needs the file.
async fn offset_for(
    client: &mut PeerClient<Channel>,
    header: &SnapshotHeader,
    snapshots: &Arc<Snapshots>,
    path: PathBuf,
) -> Result<u64, Error> {
    let SnapshotPrefix { bytes, crc32c } = match client.held_snapshot(header.clone()).await {
        Ok(held) => held.into_inner(),
        // An older build, which cannot resume an interrupted transfer.
        Err(status) if status.code() == Code::Unimplemented => return Ok(0),
        Err(status) => return Err(helios_proto::detail_of(&status).into()),
    };
    if bytes == 0 || bytes > header.size_bytes {
        return Ok(0);
    }
    let snapshots = Arc::clone(snapshots);
    blocking(move || snapshots.resume_at(&path, Prefix { bytes, crc32c }).map_err(failed)).await
}

/// Limits of the rate at which a snapshot is sent, and the counter of its bytes.
pub struct Pace {
    pub limits: Vec<Arc<Bandwidth>>,
    pub sent_bytes: Counter,
}

impl Pace {
    /// Returns the pace of a snapshot for another member.
    pub(super) fn new(bandwidth: &Arc<Bandwidth>, metrics: &Metrics) -> Self {
        Self { limits: vec![Arc::clone(bandwidth)], sent_bytes: metrics.snapshot_sent_bytes.clone() }
    }

    /// Resolves when `bytes` may be sent.
    async fn take(&self, bytes: usize) {
        for limit in &self.limits {
            limit.take(bytes).await;
        }
        self.sent_bytes.inc_by(bytes as u64);
    }
}

/// Reads the snapshot in chunks; returns whether all were sent. Ends early if the connection is lost; a read error also
/// ends the stream, and the receiver detects that the snapshot is incomplete.
pub async fn read_chunks(
    mut outgoing: Outgoing,
    header: SnapshotHeader,
    chunks: mpsc::Sender<SnapshotChunk>,
    pace: Pace,
) -> bool {
    let mut next = SnapshotChunk { kind: Some(Kind::Header(header)), crc32c: None };
    while chunks.send(next).await.is_ok() {
        let read = blocking(move || {
            let mut buffer = vec![0; CHUNK_BYTES];
            let count = outgoing.read(&mut buffer).map_err(failed)?;
            buffer.truncate(count);
            Ok((buffer, outgoing))
        });
        let data = match read.await {
            Ok((data, rest)) => {
                outgoing = rest;
                Bytes::from(data)
            }
            Err(error) => {
                tracing::error!(%error, "the snapshot that is being sent cannot be read");
                return false;
            }
        };
        if data.is_empty() {
            return true;
        }
        pace.take(data.len()).await;
        next = SnapshotChunk { crc32c: Some(crc32c::crc32c(&data)), kind: Some(Kind::Data(data)) };
    }
    false
}

/// Returns the part of the snapshot that this member holds; makes room for the rest.
///
/// # Errors
/// The snapshot cannot be used here; reported before its first byte is sent.
pub async fn held(snapshots: &Arc<Snapshots>, header: &SnapshotHeader) -> Result<SnapshotPrefix, Error> {
    check_version(header)?;
    let (snapshots, id) = (Arc::clone(snapshots), id_of(header));
    let check = move || {
        let held = snapshots.held(&id);
        snapshots.make_room_for(&id, held.bytes).map_err(failed)?;
        Ok(SnapshotPrefix { bytes: held.bytes, crc32c: held.crc32c })
    };
    blocking(check).await
}

/// Appends the stream to the held part of the same snapshot, verifies and syncs the file, and renames it to its final
/// name. If the stream breaks, the received part is kept.
pub async fn receive(
    snapshots: &Arc<Snapshots>,
    metrics: &Metrics,
    header: &SnapshotHeader,
    stream: &mut Streaming<SnapshotChunk>,
    turn: &mut Turn<'_>,
) -> Result<(), Error> {
    let (place, id, offset) = (Arc::clone(snapshots), id_of(header), header.offset);
    let mut incoming = blocking(move || place.incoming(id, offset).map_err(failed)).await?;
    metrics.snapshot_resumed_bytes.inc_by(offset);
    let mut missing = header.size_bytes.saturating_sub(offset);
    loop {
        let chunk = tokio::select! {
            chunk = stream.message() => chunk.map_err(|status| failed(status.message()))?,
            () = turn.over() => return Err(failed("another transfer to this member has started")),
        };
        let Some(chunk) = chunk else { break };
        (incoming, missing) = append(incoming, missing, chunk, metrics).await?;
    }
    let snapshots = Arc::clone(snapshots);
    blocking(move || snapshots.receive(incoming).map_err(failed)).await
}

/// Appends a chunk to a snapshot of which `missing` bytes are to come; returns both as they are then.
pub(super) async fn append(
    mut incoming: Incoming,
    missing: u64,
    chunk: SnapshotChunk,
    metrics: &Metrics,
) -> Result<(Incoming, u64), Error> {
    let data = checked(chunk)?;
    let bytes = data.len() as u64;
    let missing = missing.checked_sub(bytes).ok_or_else(|| failed("it is longer than its header says"))?;
    let written = blocking(move || {
        incoming.write(&data).map_err(failed)?;
        Ok(incoming)
    });
    let incoming = written.await?;
    metrics.snapshot_received_bytes.inc_by(bytes);
    Ok((incoming, missing))
}

/// Returns an error if this build cannot read the snapshot.
pub(super) fn check_version(header: &SnapshotHeader) -> Result<(), Error> {
    const READS: u32 = SnapshotMeta::NEWEST_VERSION;
    match header.version {
        0..=READS => Ok(()),
        version => Err(failed(format!(
            "it has version {version}, the receiver reads up to {READS}: upgrade the receiver"
        ))),
    }
}

fn checked(chunk: SnapshotChunk) -> Result<Bytes, Error> {
    let Some(Kind::Data(data)) = chunk.kind else { return Err(failed("a second header")) };
    match chunk.crc32c {
        Some(crc32c) if crc32c != crc32c::crc32c(&data) => Err(failed("a chunk was corrupted in transit")),
        _ => Ok(data),
    }
}

/// Returns the header of which [`id_of`] returns `id`.
pub(super) fn header_of_id(id: &SnapshotId) -> SnapshotHeader {
    SnapshotHeader {
        index: id.index,
        term: id.term,
        size_bytes: id.size_bytes,
        crc32c: id.crc32c,
        version: if id.is_set { SnapshotMeta::SET_VERSION } else { 0 },
        ..SnapshotHeader::default()
    }
}

pub(super) fn id_of(header: &SnapshotHeader) -> SnapshotId {
    SnapshotId {
        index: header.index,
        term: header.term,
        size_bytes: header.size_bytes,
        crc32c: header.crc32c,
        is_set: header.version == SnapshotMeta::SET_VERSION,
    }
}

pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}

pub(super) fn failed(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::SnapshotFailed, format!("snapshot transfer: {reason}"))
}
