//! The restore at the node: the base from the byte on that the node does not have, then the entries.

use bytes::Bytes;
use helios_archive::ArchiveError;
use helios_archive::base::BaseReader;
use helios_archive::segments::Entry;
use helios_proto::detail_of;
use helios_proto::tls::why;
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::restore_client::RestoreClient;
use helios_proto::v1::{
    ArchivedEntry, ErrorCode, RestoreData, RestoreEnd, RestoreEntries, RestoreHeader, RestoreRequest,
    RestoreResponse, Restored, StatusRequest, restore_request, restore_response,
};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::plan::Prepared;
use crate::Failure;
use crate::pace::backoff;

const ATTEMPTS: u32 = 6;
const CHUNK_BYTES: usize = 1 << 20;
/// Messages on their way to the node.
const QUEUE: usize = 2;

/// The blank node.
pub struct Node {
    pub address: String,
    pub channel: Channel,
    pub expected_disk_id: Option<String>,
}

enum PushError {
    Node(Status),
    Archive(ArchiveError),
    /// The node ended the call; the reason is in its answer.
    Closed,
}

impl From<ArchiveError> for PushError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl Node {
    fn failure(&self, status: &Status) -> Failure {
        let detail = detail_of(status);
        let address = &self.address;
        match detail.code() {
            ErrorCode::PeerUnreachable => {
                let advice = "check that the node runs and that this is its peer address (port 7000)";
                Failure::new("NodeUnreachable", format!("{address}: {}; {advice}", why(status)))
            }
            _ => Failure::new("NodeRefused", format!("{address}: {}", detail.message)),
        }
    }

    /// The disk of the node, which has to be blank, or a member of the new cluster by an earlier call.
    async fn disk_id(&self, cluster_id: &str) -> Result<String, Failure> {
        if let Some(disk_id) = &self.expected_disk_id {
            return Ok(disk_id.clone());
        }
        let answer = ClusterClient::new(self.channel.clone()).status(StatusRequest {}).await;
        let status = answer.map_err(|status| self.failure(&status))?.into_inner();
        if status.cluster_id.is_empty() || status.cluster_id == cluster_id {
            return Ok(status.disk_id);
        }
        let text = format!(
            "{} belongs to cluster {}; a restore needs a blank node, one with an empty data directory",
            self.address, status.cluster_id
        );
        Err(Failure::new("NodeNotBlank", text))
    }
}

/// Restores at the node; after a broken connection the call is repeated and continues.
pub async fn push(
    node: &Node,
    cluster_id: &str,
    fencing_token: u64,
    prepared: &Prepared,
) -> Result<Restored, Failure> {
    let header = RestoreHeader {
        cluster_id: cluster_id.to_owned(),
        expected_disk_id: node.disk_id(cluster_id).await?,
        fencing_token,
        base: Some(super::header(prepared)),
        last_index: prepared.last_index,
        compare_index: prepared.compare.as_ref().map(|base| base.index).unwrap_or_default(),
    };
    for attempt in 1.. {
        let failure = match call(node, header.clone(), prepared).await {
            Ok(restored) => return Ok(restored),
            Err(PushError::Archive(error)) if attempt < ATTEMPTS && error.is_transient() => {
                Failure::from(error)
            }
            Err(PushError::Node(status)) if attempt < ATTEMPTS && is_transient(&status) => {
                node.failure(&status)
            }
            Err(PushError::Archive(error)) => return Err(error.into()),
            Err(PushError::Node(status)) => return Err(node.failure(&status)),
            Err(PushError::Closed) => {
                Failure::new("NodeUnreachable", "the node ended the restore without a reason")
            }
        };
        if attempt == ATTEMPTS {
            return Err(failure);
        }
        tracing::warn!(attempt, "the restore was interrupted and continues: {failure}");
        sleep(backoff(attempt, rand::random())).await;
    }
    unreachable!("the loop returns at its last attempt")
}

fn is_transient(status: &Status) -> bool {
    let detail = detail_of(status);
    detail.retryable
        || matches!(detail.code(), ErrorCode::PeerUnreachable | ErrorCode::DeadlineExceeded)
        || matches!(status.code(), tonic::Code::Unknown | tonic::Code::Cancelled)
}

fn message(kind: restore_request::Kind) -> RestoreRequest {
    RestoreRequest { kind: Some(kind) }
}

async fn call(node: &Node, header: RestoreHeader, prepared: &Prepared) -> Result<Restored, PushError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let send = async |kind| sender.send(message(kind)).await.map_err(|_| PushError::Closed);
    send(restore_request::Kind::Header(header)).await?;
    let answer = RestoreClient::new(node.channel.clone()).restore(ReceiverStream::new(receiver)).await;
    let mut answers = answer.map_err(PushError::Node)?.into_inner();
    let held = match next(&mut answers).await? {
        restore_response::Kind::Restored(restored) => return Ok(restored),
        restore_response::Kind::HeldBytes(held) => held,
    };
    let sending = async {
        match send_all(&sender, held, prepared).await {
            // The answer has the reason.
            Ok(()) | Err(PushError::Closed) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        error = sending => Err(error),
        answer = next(&mut answers) => match answer? {
            restore_response::Kind::Restored(restored) => Ok(restored),
            restore_response::Kind::HeldBytes(_) => Err(PushError::Closed),
        },
    }
}

async fn next(answers: &mut Streaming<RestoreResponse>) -> Result<restore_response::Kind, PushError> {
    let answer = answers.message().await.map_err(PushError::Node)?;
    answer.and_then(|answer| answer.kind).ok_or(PushError::Closed)
}

async fn send_all(
    sender: &mpsc::Sender<RestoreRequest>,
    held: u64,
    prepared: &Prepared,
) -> Result<(), PushError> {
    let send = async |kind| sender.send(message(kind)).await.map_err(|_| PushError::Closed);
    let Prepared { archive, plan, .. } = prepared;
    let mut base = BaseReader::open_at(archive, plan.base, held).await?;
    while let Some(mut content) = base.next().await? {
        while !content.is_empty() {
            let data: Bytes = content.split_to(content.len().min(CHUNK_BYTES));
            let crc32c = crc32c::crc32c(&data);
            send(restore_request::Kind::Data(RestoreData { data, crc32c })).await?;
        }
    }
    let mut reader = plan.entries(archive);
    while let Some(entries) = reader.next().await? {
        for entries in batches(entries) {
            send(restore_request::Kind::Entries(RestoreEntries { entries })).await?;
        }
    }
    send(restore_request::Kind::End(RestoreEnd {})).await
}

/// Entries in messages of about a chunk; a larger entry has a message alone.
fn batches(entries: Vec<Entry>) -> Vec<Vec<ArchivedEntry>> {
    let mut batches: Vec<Vec<ArchivedEntry>> = Vec::new();
    let mut bytes = 0;
    for Entry { index, term, now_ms, payload } in entries {
        let length = payload.len() + 32;
        let entry = ArchivedEntry { index, term, now_ms, payload };
        match batches.last_mut().filter(|_| bytes + length <= CHUNK_BYTES) {
            Some(batch) => {
                batch.push(entry);
                bytes += length;
            }
            None => {
                batches.push(vec![entry]);
                bytes = length;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sent_in_messages_of_bounded_size_in_order() {
        let entry =
            |index: u64, bytes: usize| Entry { index, term: 1, now_ms: 1, payload: vec![0; bytes].into() };
        let sizes = [10, CHUNK_BYTES - 100, 5, CHUNK_BYTES * 3, 7, 8];
        let entries = sizes.iter().zip(1..).map(|(bytes, index)| entry(index, *bytes)).collect();
        let found: Vec<Vec<u64>> =
            batches(entries).iter().map(|batch| batch.iter().map(|entry| entry.index).collect()).collect();
        assert_eq!(found, [vec![1, 2], vec![3], vec![4], vec![5, 6]]);
        assert!(batches(Vec::new()).is_empty());
    }
}
