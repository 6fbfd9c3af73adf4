//! A backup of a running node, and the client of a restore.

use std::collections::BTreeMap;

use helios_proto::v1::restore_client::RestoreClient;
use helios_proto::v1::restore_request::Kind;
use helios_proto::v1::restore_response::Kind as Answer;
use helios_proto::v1::{
    ArchivedEntry, BaseHeader, BaseRequest, HoldRequest, LogChunk, LogRequest, RestoreData, RestoreEnd,
    RestoreEntries, RestoreHeader, RestoreRequest, RestoreResponse, Restored, base_chunk,
};
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::common::{Cluster, Node, Operator, eventually};

const DATA_BYTES: usize = 64 << 10;
const ENTRIES: usize = 50;

/// Each key with its value, as DUMP encodes it, and its expiry.
pub type Content = BTreeMap<Vec<u8>, (Vec<u8>, i64)>;

pub async fn content(client: &mut MultiplexedConnection) -> Content {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(client).await.unwrap();
    let mut content = Content::new();
    for key in keys {
        let mut pipeline = redis::pipe();
        pipeline.cmd("DUMP").arg(&key).cmd("PEXPIRETIME").arg(&key);
        content.insert(key, pipeline.query_async(client).await.unwrap());
    }
    content
}

/// A base and the log after it, to `last_index`.
pub struct Backup {
    pub base: BaseHeader,
    pub bytes: Vec<u8>,
    pub entries: Vec<ArchivedEntry>,
    pub last_index: u64,
    /// Content of the source at `last_index`.
    pub content: Content,
}

/// Writes keys of every type; `round` changes some of them.
async fn write(client: &mut MultiplexedConnection, round: usize) {
    let mut pipeline = redis::pipe();
    let value = |number: usize| format!("{round} {number} ").repeat(40);
    for number in 0..400 {
        pipeline.cmd("SET").arg(format!("string {}", number + round * 100)).arg(value(number)).ignore();
        pipeline.cmd("HSET").arg("hash").arg(number % 300).arg(value(number)).ignore();
        pipeline.cmd("RPUSH").arg("list").arg(number + round).ignore();
        pipeline.cmd("SADD").arg("set").arg(number * (round + 1)).ignore();
        pipeline.cmd("ZADD").arg("board").arg(number % 7).arg(number + round).ignore();
    }
    pipeline.cmd("DEL").arg("string 5").arg(format!("string {}", 200 + round)).ignore();
    pipeline.cmd("SET").arg("expires").arg("late").arg("PX").arg(100_000_000 + round).ignore();
    pipeline.cmd("SET").arg(format!("expired {round}")).arg("soon").arg("PX").arg(1).ignore();
    pipeline.cmd("LPOP").arg("list").arg(20).ignore();
    pipeline.cmd("EVAL").arg("return redis.call('INCRBY', 'counter', 3)").arg(1).arg("counter").ignore();
    let () = pipeline.query_async(client).await.unwrap();
}

pub async fn applied(node: &Node) -> u64 {
    eventually("the source is idle", async || {
        let status = node.try_status().await?;
        (status.applied_index == status.commit_index).then_some(status.applied_index)
    })
    .await
}

impl Backup {
    /// Backup of a cluster of one node with `engine`. More was written to it after `last_index`.
    pub async fn of(engine: &str) -> Self {
        let mut cluster = Cluster::blank(1);
        cluster[0].config_mut().push_str(&format!("state: {{engine: {engine}}}\n"));
        cluster.start_all();
        Operator::initialize(&cluster[0]).await;
        let mut client = cluster[0].redis().await;
        write(&mut client, 0).await;
        let (base, bytes) = take_base(&cluster[0]).await;
        let log = log_after(&cluster[0], &base).await;
        write(&mut client, 1).await;
        let last_index = applied(&cluster[0]).await;
        let content = content(&mut client).await;
        write(&mut client, 2).await;
        let entries = take_log(log, last_index).await;
        Self { base, bytes, entries, last_index, content }
    }

    pub fn header(&self) -> RestoreHeader {
        RestoreHeader {
            cluster_id: "restored".into(),
            base: Some(self.base.clone()),
            last_index: self.last_index,
            ..RestoreHeader::default()
        }
    }

    /// Returns the messages with the base from `held_bytes` on.
    pub fn data(&self, held_bytes: u64) -> Vec<Kind> {
        self.bytes[held_bytes as usize..].chunks(DATA_BYTES).map(data).collect()
    }

    pub fn entries(&self) -> Vec<Kind> {
        let parts = self.entries.chunks(ENTRIES);
        parts.map(|entries| Kind::Entries(RestoreEntries { entries: entries.to_vec() })).collect()
    }

    /// Restores the backup into `node`.
    pub async fn restore(&self, node: &Node) -> Result<Restored, Status> {
        let (call, held_bytes) = Call::begin(node, self.header()).await?;
        let messages = self.data(held_bytes).into_iter().chain(self.entries());
        call.complete(messages.chain([Kind::End(RestoreEnd {})])).await
    }
}

pub fn data(bytes: &[u8]) -> Kind {
    Kind::Data(RestoreData { crc32c: crc32c::crc32c(bytes), data: bytes.to_vec().into() })
}

pub async fn take_base(node: &Node) -> (BaseHeader, Vec<u8>) {
    let request = BaseRequest { with_digest: true, ..BaseRequest::default() };
    let mut stream = node.archive().base(request).await.unwrap().into_inner();
    let mut next = async || stream.message().await.unwrap().map(|chunk| chunk.kind.expect("a known kind"));
    let Some(base_chunk::Kind::Header(header)) = next().await else { panic!("it begins without a header") };
    let mut bytes = Vec::new();
    while let Some(base_chunk::Kind::Data(data)) = next().await {
        bytes.extend_from_slice(&data);
    }
    assert_eq!(bytes.len() as u64, header.size_bytes);
    (header, bytes)
}

/// Begins to read the log after the base; the node keeps it.
pub async fn log_after(node: &Node, base: &BaseHeader) -> Streaming<LogChunk> {
    let hold = HoldRequest {
        holder: "the test".into(),
        from_index: base.index + 1,
        cluster_id: base.cluster_id.clone(),
        incarnation: base.incarnation,
        report: None,
    };
    node.archive().hold(hold).await.unwrap();
    let request = LogRequest {
        from_index: base.index + 1,
        cluster_id: base.cluster_id.clone(),
        incarnation: base.incarnation,
    };
    node.archive().log(request).await.unwrap().into_inner()
}

pub async fn take_log(mut log: Streaming<LogChunk>, last: u64) -> Vec<ArchivedEntry> {
    let mut entries: Vec<ArchivedEntry> = Vec::new();
    while entries.last().is_none_or(|entry| entry.index < last) {
        entries.extend(log.message().await.unwrap().expect("the log ended").entries);
    }
    entries.retain(|entry| entry.index <= last);
    entries
}

/// A restore that is under way.
pub struct Call {
    requests: mpsc::Sender<RestoreRequest>,
    answers: Streaming<RestoreResponse>,
}

impl Call {
    /// Sends the header; returns the number of bytes that the node has.
    pub async fn begin(node: &Node, header: RestoreHeader) -> Result<(Self, u64), Status> {
        let mut call = Self::open(node).await;
        call.send(Kind::Header(header)).await;
        match call.answer().await? {
            Answer::HeldBytes(held_bytes) => Ok((call, held_bytes)),
            Answer::Restored(_) => panic!("it was restored before"),
        }
    }

    pub async fn open(node: &Node) -> Self {
        node.status().await;
        let (requests, stream) = mpsc::channel(8);
        let mut client = RestoreClient::new(node.peer_channel());
        let answers = client.restore(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    pub async fn send(&self, kind: Kind) {
        // The node may have ended the call; the answer says why.
        drop(self.requests.send(RestoreRequest { kind: Some(kind) }).await);
    }

    pub async fn answer(&mut self) -> Result<Answer, Status> {
        let answer = self.answers.message().await?.expect("an answer");
        Ok(answer.kind.expect("an answer of a known kind"))
    }

    /// Sends the remaining messages and the end of the stream; returns the answer.
    pub async fn complete(self, messages: impl IntoIterator<Item = Kind>) -> Result<Restored, Status> {
        let Self { requests, mut answers } = self;
        for kind in messages {
            if requests.send(RestoreRequest { kind: Some(kind) }).await.is_err() {
                break;
            }
        }
        drop(requests);
        match answers.message().await?.expect("an answer").kind {
            Some(Answer::Restored(restored)) => Ok(restored),
            answer => panic!("{answer:?}"),
        }
    }
}
