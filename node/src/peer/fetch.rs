//! Transfer of a snapshot on request: a member whose state is damaged fetches that of another one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{
    ErrorCode, FetchSnapshotRequest, Handshake, SnapshotChunk, SnapshotHeader, snapshot_chunk::Kind,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::snapshot::{
    CHUNKS, Pace, append, blocking, check_version, failed, header_of, header_of_id, id_of, read_chunks,
};
use super::{Dialer, PeerHost};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::raft::{Outgoing, Prefix, SnapshotId, Snapshots};
use crate::state::SnapshotMeta;
use crate::wal::Base;

/// Limit of the snapshots that a member sends on request at the same time.
pub const MAX_FETCHES: usize = 2;

/// Time for the sender to take a snapshot: one that writes its whole state may need minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two chunks after which a transfer is given up.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// Begins to send the state of this member as the answer to `request`. `permit` is held until the end.
///
/// # Errors
/// No snapshot can be taken, or its index is too low for the request.
pub async fn offer<H: PeerHost>(
    host: Arc<H>,
    request: FetchSnapshotRequest,
    permit: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<SnapshotChunk>, Error> {
    let to = request.from.as_ref().map_or(0, |from| from.from_id);
    // Without a leader this member may not know yet that entries of its log are committed which the other one needs.
    host.learn_commit(Base { index: request.min_index, term: request.min_term });
    let snapshots = Arc::clone(host.snapshots());
    let (meta, outgoing, offset) = match resumed(&snapshots, &request, to).await {
        Some(found) => found,
        None => {
            let index = host.take_snapshot().await?;
            let place = Arc::clone(&snapshots);
            blocking(move || open(&place, to, index).map(|(_, meta, outgoing)| (meta, outgoing, 0))).await?
        }
    };
    if meta.index < request.min_index {
        let message = format!(
            "the state of this member is at index {}, the log of the member that needs it begins after {}",
            meta.index, request.min_index
        );
        return Err(Error::new(ErrorCode::SnapshotFailed, message));
    }
    tracing::info!(
        to,
        index = meta.index,
        offset,
        bytes = meta.size_bytes,
        "sending the state to a member that repairs its own"
    );
    let (chunks, stream) = mpsc::channel(CHUNKS);
    let header = SnapshotHeader { offset, ..header_of(&meta) };
    let pace = Pace::new(host.bandwidth(), host.metrics());
    tokio::spawn(async move {
        let _permit = permit;
        if read_chunks(outgoing, header, chunks, pace).await {
            snapshots.sent(to);
        }
    });
    Ok(stream)
}

type Found = (SnapshotMeta, Outgoing, u64);

/// Opens the snapshot at `index` for a transfer to member `to`.
fn open(snapshots: &Snapshots, to: u64, index: u64) -> Result<(PathBuf, SnapshotMeta, Outgoing), Error> {
    let gone = || failed("it is no longer on disk; try again");
    let path = snapshots.begin_sending(to, index).ok_or_else(gone)?;
    let (meta, outgoing) =
        (snapshots.read(&path).map_err(failed)?, snapshots.outgoing(&path).map_err(failed)?);
    Ok((path, meta, outgoing))
}

/// Returns the snapshot of which the requester holds a part, after that part.
async fn resumed(snapshots: &Arc<Snapshots>, request: &FetchSnapshotRequest, to: u64) -> Option<Found> {
    let (held, crc32c) = (request.held.clone()?, request.held_crc32c);
    let snapshots = Arc::clone(snapshots);
    let find = move || {
        let (path, meta, mut outgoing) = open(&snapshots, to, held.index)?;
        if SnapshotId::from(&meta) != id_of(&held) {
            return Err(failed("another one"));
        }
        let offset = snapshots.resume_at(&path, Prefix { bytes: held.offset, crc32c }).map_err(failed)?;
        outgoing.skip(offset);
        Ok((meta, outgoing, offset))
    };
    blocking(find).await.ok()
}

/// A member that fetches a snapshot.
pub struct Fetcher {
    pub dialer: Dialer,
    pub snapshots: Arc<Snapshots>,
    pub metrics: Arc<Metrics>,
    /// Bytes that are here, of all bytes.
    pub progress: Arc<(AtomicU64, AtomicU64)>,
}

impl Fetcher {
    /// Fetches a snapshot at `min` or above from the member at `addr`; returns its index. Complete, verified and
    /// durable when it returns. After an error, what arrived is kept for the next attempt.
    pub async fn fetch(&self, handshake: Handshake, addr: &str, min: Base) -> Result<u64, Error> {
        let min_index = min.index;
        let channel = self.dialer.connect(addr).await.map_err(failed)?;
        let snapshots = Arc::clone(&self.snapshots);
        let held =
            blocking(move || Ok(snapshots.interrupted().filter(|(id, _)| id.index >= min_index))).await?;
        let request = FetchSnapshotRequest {
            from: Some(handshake),
            min_index,
            min_term: min.term,
            group: 0,
            held_crc32c: held.as_ref().map_or(0, |(_, prefix)| prefix.crc32c),
            held: held.map(|(id, prefix)| SnapshotHeader { offset: prefix.bytes, ..header_of_id(&id) }),
        };
        let mut client = PeerClient::new(channel);
        let late = |_| failed("no answer in time");
        let answer =
            tokio::time::timeout(ANSWER_TIMEOUT, client.fetch_snapshot(request)).await.map_err(late)?;
        let mut stream = answer.map_err(|status| helios_proto::detail_of(&status))?.into_inner();
        let mut next = async || {
            let chunk = tokio::time::timeout(CHUNK_TIMEOUT, stream.message()).await.map_err(late)?;
            chunk.map_err(|status| failed(status.message()))
        };
        let Some(SnapshotChunk { kind: Some(Kind::Header(header)), .. }) = next().await? else {
            return Err(failed("the first chunk is not the header"));
        };
        check_version(&header)?;
        if header.index < min_index || header.offset > header.size_bytes {
            return Err(failed("its header does not fit the request"));
        }
        self.progress.1.store(header.size_bytes, Ordering::Relaxed);
        let (place, id, offset) = (Arc::clone(&self.snapshots), id_of(&header), header.offset);
        let mut incoming = blocking(move || place.incoming(id, offset).map_err(failed)).await?;
        self.metrics.snapshot_resumed_bytes.inc_by(offset);
        let mut missing = header.size_bytes - offset;
        while missing > 0 {
            self.progress.0.store(header.size_bytes - missing, Ordering::Relaxed);
            let chunk = next().await?.ok_or_else(|| failed("the stream ended early"))?;
            (incoming, missing) = append(incoming, missing, chunk, &self.metrics).await?;
        }
        let snapshots = Arc::clone(&self.snapshots);
        blocking(move || snapshots.receive(incoming).map_err(failed)).await?;
        Ok(header.index)
    }
}
