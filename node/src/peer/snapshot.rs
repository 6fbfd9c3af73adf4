//! Snapshot transfer, beside the log stream: the file goes first, the Raft message that announces
//! it is taken by the receiver only once the file is whole and durable.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{ErrorCode, SnapshotChunk, SnapshotHeader, snapshot_chunk::Kind};
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::links::{LinkOptions, Target};
use crate::error::Error;
use crate::raft::Snapshots;

const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the connection.
const CHUNKS: usize = 4;

/// Sends the snapshot `message` speaks of and reports the outcome to Raft, which waits for it.
pub async fn send(options: Arc<LinkOptions>, target: Target, message: Message) {
    let to = message.to;
    let index = message.get_snapshot().get_metadata().index;
    let outcome = try_send(&options, &target, &message).await;
    match &outcome {
        Ok(()) => tracing::info!(peer = %target.name, index, "snapshot sent"),
        Err(error) => tracing::warn!(peer = %target.name, index, %error, "snapshot not sent"),
    }
    options.raft.snapshot_sent(to, outcome.is_ok());
}

async fn try_send(options: &LinkOptions, target: &Target, message: &Message) -> Result<(), Error> {
    let metadata = message.get_snapshot().get_metadata();
    let (snapshots, index) = (Arc::clone(&options.snapshots), metadata.index);
    let found = tokio::task::spawn_blocking(move || snapshots.whole(index)).await;
    let Some(path) = found.map_err(|error| failed(error.to_string()))? else {
        // Raft goes on offering it until there is another.
        drop(options.raft.build_snapshot());
        return Err(failed(format!("snapshot {index} is not on disk any more; taking another")));
    };
    let meta = options.snapshots.read(&path).map_err(|error| failed(error.to_string()))?;
    let file = File::open(&path).await.map_err(|error| failed(error.to_string()))?;
    let size_bytes = file.metadata().await.map_err(|error| failed(error.to_string()))?.len();
    let header = SnapshotHeader {
        handshake: Some(options.handshake(target)),
        index: meta.index,
        term: meta.term,
        size_bytes,
        crc32c: 0,
        message: message.encode_to_vec().into(),
    };
    let (chunks, stream) = mpsc::channel(CHUNKS);
    let reading = tokio::spawn(read_chunks(file, header, chunks));
    let channel =
        super::connect(&target.addr).await.map_err(|error| failed(super::links::reason_of(&error)))?;
    let mut client = PeerClient::new(channel);
    let outcome = client.install_snapshot(ReceiverStream::new(stream)).await;
    reading.abort();
    outcome.map(drop).map_err(|status| helios_proto::detail_of(&status).into())
}

async fn read_chunks(
    mut file: File,
    header: SnapshotHeader,
    chunks: mpsc::Sender<SnapshotChunk>,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    chunks.send(SnapshotChunk { kind: Some(Kind::Header(header)) }).await.map_err(gone)?;
    loop {
        let mut buffer = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        if file.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        chunks.send(SnapshotChunk { kind: Some(Kind::Data(buffer.freeze())) }).await.map_err(gone)?;
    }
}

/// Writes the stream to a temporary file, verifies and syncs it, and gives it its final name.
pub async fn receive(
    snapshots: &Arc<Snapshots>,
    header: &SnapshotHeader,
    stream: &mut Streaming<SnapshotChunk>,
) -> Result<(), Error> {
    // The file, and the state made from it, which takes somewhat more. A full disk is left to the log.
    let room = snapshots.check_room(header.size_bytes.saturating_mul(5) / 2);
    room.map_err(|error| failed(error.to_string()))?;
    let path = snapshots.incoming();
    let outcome = match write_chunks(&path, header.size_bytes, stream).await {
        Ok(()) => adopt(Arc::clone(snapshots), path.clone(), (header.index, header.term)).await,
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // A leftover is removed at the next start as well.
        drop(tokio::fs::remove_file(&path).await);
    }
    outcome
}

async fn write_chunks(
    path: &Path,
    size_bytes: u64,
    stream: &mut Streaming<SnapshotChunk>,
) -> Result<(), Error> {
    let io = |error: io::Error| failed(error.to_string());
    let mut file = File::create(path).await.map_err(io)?;
    let mut written = 0;
    while let Some(chunk) = stream.message().await.map_err(|status| failed(status.message().to_owned()))? {
        let Some(Kind::Data(data)) = chunk.kind else { return Err(failed("a second header".into())) };
        written += Bytes::len(&data) as u64;
        if written > size_bytes {
            return Err(failed(format!("more than the {size_bytes} bytes announced")));
        }
        file.write_all(&data).await.map_err(io)?;
    }
    if written < size_bytes {
        return Err(failed(format!("ended after {written} of {size_bytes} bytes")));
    }
    file.sync_all().await.map_err(io)
}

async fn adopt(
    snapshots: Arc<Snapshots>,
    path: std::path::PathBuf,
    (index, term): (u64, u64),
) -> Result<(), Error> {
    let adopted = tokio::task::spawn_blocking(move || snapshots.receive(&path, index, term)).await;
    match adopted {
        Ok(adopted) => adopted.map_err(|error| failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn failed(message: String) -> Error {
    Error::new(ErrorCode::SnapshotFailed, format!("snapshot transfer: {message}"))
}
