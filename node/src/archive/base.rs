//! Base of a backup: a snapshot of this member, with the figures by which it is compared with those of other members.

use std::num::NonZeroU64;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, stream};
use helios_proto::v1::{
    BaseChunk, BaseEnd, BaseHeader, BaseRequest, ErrorCode, SnapshotChunk, base_chunk, snapshot_chunk,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;

use super::{Archive, MAX_BASES};
use crate::error::Error;
use crate::node::ActiveMember;
use crate::peer::{Bandwidth, CHUNKS, Pace, PeerHost as _, blocking, header_of, read_chunks};
use crate::raft::{Outgoing, Pinned, SnapshotId, Snapshots, lower_priority};
use crate::state::{SnapshotMeta, SnapshotSummary};

/// Time for which the snapshot of an interrupted transfer stays on disk.
const RESUMABLE_FOR: Duration = Duration::from_secs(600);
/// Interval at which an interrupted transfer is checked for a full disk.
const POLL: Duration = Duration::from_secs(5);
/// Nice value of the thread that computes a digest: everything else goes first.
const NICE: i32 = 19;

/// A snapshot that is open for a transfer.
struct Base {
    pinned: Arc<Pinned>,
    meta: SnapshotMeta,
    summary: SnapshotSummary,
    outgoing: Outgoing,
    state_digest: String,
    offset: u64,
}

impl Archive {
    /// Begins to send a base: a snapshot of everything applied here, or the one that the request resumes.
    ///
    /// # Errors
    /// This node is no member, sends [`MAX_BASES`] already, takes no snapshot, or its files are damaged.
    pub async fn base(
        self: &Arc<Self>,
        request: BaseRequest,
    ) -> Result<impl Stream<Item = Result<BaseChunk, Status>> + use<>, Error> {
        let member = self.node.active()?;
        let slot = self.slot(&self.bases, MAX_BASES, "bases")?;
        self.check_files()?;
        let at_end = request.with_digest && request.digest_at_end;
        let base = match self.resumed(request.resume).await {
            Some(base) => base,
            None if at_end => self.take(member).await?,
            None => self.checked(self.take(member).await?, request.with_digest).await?,
        };
        let digest = match at_end {
            true => Some(digest(self.node.snapshots(), &base.pinned, self.disk_full())?.boxed()),
            false => None,
        };
        let header = self.header(member, &base);
        let Base { pinned, meta, mut outgoing, offset, .. } = base;
        outgoing.skip(offset);
        tracing::info!(index = meta.index, offset, bytes = meta.size_bytes, "sending a base to an archiver");
        let own = NonZeroU64::new(request.max_bytes_per_second);
        let limits = vec![Arc::clone(self.node.bandwidth()), Arc::new(Bandwidth::new(own))];
        let sent_bytes = self.node.inner().metrics.archive_sent_bytes.clone();
        let (chunks, received) = mpsc::channel(CHUNKS);
        let (ended, end) = oneshot::channel();
        let (archive, started) = (Arc::clone(self), Instant::now());
        tokio::spawn(async move {
            let _slot = slot;
            let index = meta.index;
            let is_read = read_chunks(outgoing, header_of(&meta), chunks, Pace { limits, sent_bytes }).await;
            let read_ms = millis(started);
            // The digest may still be computed.
            match end.await {
                Ok(()) if is_read => {
                    tracing::info!(index, read_ms, took_ms = millis(started), "the base is sent");
                }
                _ => archive.keep(pinned),
            }
        });
        let sending = Sending {
            chunks: received,
            missing_bytes: header.size_bytes - offset,
            header: Some(header),
            digest,
            ended: Some(ended),
            disk_full: self.disk_full(),
        };
        Ok(stream::unfold(Some((sending, self.sent(member))), |state| async {
            let (mut sending, sent) = state?;
            match sending.next().await {
                Ok(chunk) => {
                    let chunk = chunk?;
                    if let Some(base_chunk::Kind::Data(data)) = &chunk.kind {
                        sent.count(data.len());
                    }
                    Some((Ok(chunk), Some((sending, sent))))
                }
                Err(error) => Some((Err(error.into()), None)),
            }
        }))
    }

    fn disk_full(&self) -> Gauge {
        self.node.inner().metrics.disk_full.clone()
    }

    /// # Errors
    /// The scrub has found a damaged file of the state.
    fn check_files(&self) -> Result<(), Error> {
        match self.node.inner().metrics.scrub.report().damaged_files.len() {
            0 => Ok(()),
            count => {
                let message =
                    format!("{count} files of this member's state are damaged: back up another member");
                Err(Error::new(ErrorCode::Corruption, message))
            }
        }
    }

    /// Opens the snapshot of which the archiver has a part; `None`: it is no longer here.
    async fn resumed(&self, held: Option<BaseHeader>) -> Option<Base> {
        let held = held.filter(|held| held.disk_id == self.node.identity().0)?;
        let snapshots = Arc::clone(self.node.snapshots());
        blocking(move || {
            let base = open(&snapshots, held.index)?;
            let id = SnapshotId {
                index: held.index,
                term: held.term,
                size_bytes: held.size_bytes,
                crc32c: held.crc32c,
                is_set: held.version == SnapshotMeta::SET_VERSION,
            };
            let is_same = SnapshotId::from(&base.meta) == id && held.offset <= held.size_bytes;
            Ok(is_same.then_some(Base { offset: held.offset, ..base }))
        })
        .await
        .ok()?
    }

    /// Opens a snapshot of everything applied here, an existing one if there is one.
    async fn take(&self, member: &ActiveMember) -> Result<Base, Error> {
        let snapshots = self.node.snapshots();
        let applied = member.raft.applied_index();
        let newest = member.raft.status().snapshot_index;
        let existing = (newest >= applied).then_some(newest);
        let place = Arc::clone(snapshots);
        let existing = blocking(move || Ok(existing.and_then(|index| open(&place, index).ok()))).await?;
        match existing {
            Some(base) => Ok(base),
            None => {
                let (index, place) = (self.node.take_snapshot().await?, Arc::clone(snapshots));
                blocking(move || open(&place, index)).await
            }
        }
    }

    /// Checks the base before its first byte is sent, and computes its digest if it is wanted.
    async fn checked(&self, base: Base, with_digest: bool) -> Result<Base, Error> {
        let snapshots = self.node.snapshots();
        let state_digest = match with_digest {
            true => digest(snapshots, &base.pinned, self.disk_full())?.await?,
            false => check(snapshots, &base).await.map(|()| String::new())?,
        };
        Ok(Base { state_digest, ..base })
    }

    fn header(&self, member: &ActiveMember, base: &Base) -> BaseHeader {
        let Base { meta, summary, state_digest, offset, .. } = base;
        BaseHeader {
            cluster_id: member.cluster_id.clone(),
            incarnation: member.incarnation,
            member: self.node.settings().name.clone(),
            disk_id: self.node.identity().0.to_owned(),
            index: meta.index,
            term: meta.term,
            now_ms: summary.clock_ms,
            keys: summary.keys,
            version: meta.version,
            size_bytes: meta.size_bytes,
            crc32c: meta.crc32c,
            state_digest: state_digest.clone(),
            offset: *offset,
        }
    }

    /// Keeps the snapshot of an interrupted transfer for some time, in place of an earlier one. Its files are released
    /// when the disk is full.
    fn keep(self: &Arc<Self>, pinned: Arc<Pinned>) {
        let (archive, kept, index) = (Arc::downgrade(self), Arc::downgrade(&pinned), pinned.index());
        drop(self.interrupted().replace(pinned));
        tokio::spawn(async move {
            let end = Instant::now() + RESUMABLE_FOR;
            while let Some(archive) = archive.upgrade() {
                let is_full = archive.node.inner().metrics.disk_full.get() != 0;
                let is_kept = |found: &mut Arc<Pinned>| std::ptr::eq(Arc::as_ptr(found), kept.as_ptr());
                if is_full || Instant::now() >= end || kept.strong_count() == 0 {
                    drop(archive.interrupted().take_if(is_kept));
                    if is_full {
                        let snapshots = Arc::clone(archive.node.snapshots());
                        drop(blocking(move || snapshots.discard_set(index).map_err(failed)).await);
                    }
                    return;
                }
                drop(archive);
                tokio::time::sleep(POLL).await;
            }
        });
    }

    fn interrupted(&self) -> MutexGuard<'_, Option<Arc<Pinned>>> {
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(snapshots: &Arc<Snapshots>, index: u64) -> Result<Base, Error> {
    let pinned = snapshots.pin(index).ok_or_else(|| failed("it is no longer on disk; try again"))?;
    let path = pinned.path();
    let meta = snapshots.read(path).map_err(failed)?;
    let summary = snapshots.summary(path).map_err(failed)?;
    let outgoing = snapshots.outgoing(path).map_err(failed)?;
    Ok(Base { pinned: Arc::new(pinned), meta, summary, outgoing, state_digest: String::new(), offset: 0 })
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::SnapshotFailed, format!("snapshot for a base: {reason}"))
}

/// Checks a snapshot that is a file; the blocks of a set are checked by the scrub.
async fn check(snapshots: &Arc<Snapshots>, base: &Base) -> Result<(), Error> {
    if base.meta.is_set() {
        return Ok(());
    }
    let (snapshots, index) = (Arc::clone(snapshots), base.meta.index);
    blocking(move || snapshots.whole(index).map(drop).ok_or_else(|| damaged(index))).await
}

/// Begins to compute the digest of all records of the snapshot, on a separate thread, which ends early if the future is dropped or
/// the disk is full. Returns the digest as a header has it.
fn digest(
    snapshots: &Arc<Snapshots>,
    pinned: &Arc<Pinned>,
    disk_full: Gauge,
) -> Result<impl Future<Output = Result<String, Error>> + Send + use<>, Error> {
    let (sender, receiver) = oneshot::channel();
    let (place, source, is_full) = (Arc::clone(snapshots), Arc::clone(pinned), disk_full.clone());
    let compute = move || {
        lower_priority(NICE);
        let started = Instant::now();
        let digest = place.digest(source.path(), || sender.is_closed() || is_full.get() != 0);
        if matches!(digest, Ok(Some(_))) {
            tracing::info!(
                index = source.index(),
                took_ms = millis(started),
                "the digest of a base is computed"
            );
        }
        // The receiver is gone if the digest is not wanted any more.
        drop(sender.send(digest));
    };
    let thread = std::thread::Builder::new().name("base-digest".to_owned()).spawn(compute);
    thread
        .map_err(|error| Error::new(ErrorCode::Overloaded, format!("no thread for the digest: {error}")))?;
    let (snapshots, pinned) = (Arc::clone(snapshots), Arc::clone(pinned));
    Ok(async move {
        let ended = || Error::new(ErrorCode::Internal, "the digest of the base was not computed");
        match receiver.await.map_err(|_| ended())? {
            Ok(Some(digest)) => Ok(format!("{digest:016x}")),
            Ok(None) => Err(check_disk(&disk_full).err().unwrap_or_else(ended)),
            Err(error) => {
                tracing::error!(%error, "the digest of a base cannot be computed");
                let index = pinned.index();
                // Removes the snapshot if it is damaged, so that it is not used again.
                blocking(move || Err(snapshots.whole(index).map_or_else(|| damaged(index), |_| error.into())))
                    .await
            }
        }
    })
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn damaged(index: u64) -> Error {
    let message = format!(
        "the snapshot at index {index} of this member is damaged and was removed: back up another member"
    );
    Error::new(ErrorCode::Corruption, message)
}

/// The answer, made of the chunks of a snapshot.
struct Sending {
    chunks: mpsc::Receiver<SnapshotChunk>,
    header: Option<BaseHeader>,
    missing_bytes: u64,
    /// The digest, if the end of the stream has to have it.
    digest: Option<BoxFuture<'static, Result<String, Error>>>,
    /// Notified when everything was handed to the connection.
    ended: Option<oneshot::Sender<()>>,
    disk_full: Gauge,
}

impl Sending {
    async fn next(&mut self) -> Result<Option<BaseChunk>, Error> {
        let chunk = match self.chunks.recv().await {
            Some(SnapshotChunk { kind: Some(snapshot_chunk::Kind::Data(data)), crc32c }) => {
                self.missing_bytes = self.missing_bytes.saturating_sub(data.len() as u64);
                Some((base_chunk::Kind::Data(data), crc32c))
            }
            Some(_) => Some((base_chunk::Kind::Header(self.header.take().unwrap_or_default()), None)),
            None if self.missing_bytes > 0 => {
                check_disk(&self.disk_full)?;
                let message = "the snapshot cannot be read to its end; the log of this member says why";
                return Err(Error::new(ErrorCode::SnapshotFailed, message));
            }
            None => match self.digest.take() {
                Some(digest) => {
                    let digest = digest.await;
                    check_disk(&self.disk_full)?;
                    Some((base_chunk::Kind::End(BaseEnd { state_digest: digest? }), None))
                }
                None => None,
            },
        };
        check_disk(&self.disk_full)?;
        let Some((kind, crc32c)) = chunk else {
            if let Some(ended) = self.ended.take() {
                // The receiver is a task, which is gone when the node stops.
                _ = ended.send(());
            }
            return Ok(None);
        };
        Ok(Some(BaseChunk { kind: Some(kind), crc32c }))
    }
}

/// # Errors
/// The disk is full: the files of a pinned snapshot may be all that fills it.
fn check_disk(disk_full: &Gauge) -> Result<(), Error> {
    match disk_full.get() {
        0 => Ok(()),
        _ => {
            let message =
                "the disk of this member is full, so it keeps no snapshot for a base: use another member";
            Err(Error::new(ErrorCode::DiskFull, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use helios_proto::v1::SnapshotHeader;

    use super::*;

    async fn sending(data: &[&'static str], missing_bytes: u64) -> Sending {
        let (sender, chunks) = mpsc::channel(8);
        let header = snapshot_chunk::Kind::Header(SnapshotHeader::default());
        let data = data.iter().map(|text| snapshot_chunk::Kind::Data(Bytes::from_static(text.as_bytes())));
        for kind in std::iter::once(header).chain(data) {
            sender.send(SnapshotChunk { kind: Some(kind), crc32c: None }).await.unwrap();
        }
        let header = Some(BaseHeader { index: 7, ..BaseHeader::default() });
        Sending { chunks, header, missing_bytes, digest: None, ended: None, disk_full: Gauge::default() }
    }

    fn with_digest(sending: Sending, digest: Result<String, Error>) -> (Sending, oneshot::Receiver<()>) {
        let (ended, end) = oneshot::channel();
        let digest = Some(std::future::ready(digest).boxed());
        (Sending { digest, ended: Some(ended), ..sending }, end)
    }

    #[tokio::test]
    async fn digest_is_the_end_of_a_base_of_which_all_bytes_were_sent() {
        let (mut whole, mut end) = with_digest(sending(&["ab"], 2).await, Ok("12".to_owned()));
        for _ in 0..2 {
            whole.next().await.unwrap().unwrap();
        }
        let last = whole.next().await.unwrap().unwrap().kind;
        assert_eq!(last, Some(base_chunk::Kind::End(BaseEnd { state_digest: "12".to_owned() })));
        assert!(end.try_recv().is_err(), "the end is on its way");
        assert_eq!(whole.next().await, Ok(None));
        assert_eq!(end.try_recv(), Ok(()));

        let (mut cut, _end) = with_digest(sending(&["ab"], 3).await, Ok("12".to_owned()));
        for _ in 0..2 {
            cut.next().await.unwrap().unwrap();
        }
        assert_eq!(cut.next().await.map_err(|error| error.code), Err(ErrorCode::SnapshotFailed));
    }

    #[tokio::test]
    async fn base_that_is_found_damaged_while_it_is_sent_has_an_error_in_place_of_its_end() {
        let (mut damaged, mut end) = with_digest(sending(&["ab"], 2).await, Err(damaged(7)));
        for _ in 0..2 {
            damaged.next().await.unwrap().unwrap();
        }
        assert_eq!(damaged.next().await.map_err(|error| error.code), Err(ErrorCode::Corruption));
        drop(damaged);
        assert!(end.try_recv().is_err(), "it did not end");
    }

    #[tokio::test]
    async fn base_begins_with_its_header_and_one_that_is_cut_ends_with_an_error() {
        let mut whole = sending(&["ab", "c"], 3).await;
        let first = whole.next().await.unwrap().unwrap().kind;
        assert!(matches!(first, Some(base_chunk::Kind::Header(BaseHeader { index: 7, .. }))), "{first:?}");
        for _ in 0..2 {
            assert!(whole.next().await.unwrap().is_some());
        }
        assert_eq!(whole.next().await, Ok(None));
        let mut cut = sending(&["ab"], 3).await;
        for _ in 0..2 {
            assert!(cut.next().await.unwrap().is_some());
        }
        assert_eq!(cut.next().await.map_err(|error| error.code), Err(ErrorCode::SnapshotFailed));
    }

    #[tokio::test]
    async fn base_ends_when_the_disk_is_full() {
        let mut sending = sending(&["ab"], 3).await;
        assert!(sending.next().await.unwrap().is_some());
        sending.disk_full.set(1);
        assert_eq!(sending.next().await.map_err(|error| error.code), Err(ErrorCode::DiskFull));
    }
}
