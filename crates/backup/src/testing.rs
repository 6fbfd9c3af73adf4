//! A member for tests: the services ClusterInfo and Archive over a log in memory, on a port of loopback.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use helios_proto::status_of;
use helios_proto::v1::archive_server::{Archive, ArchiveServer};
use helios_proto::v1::base_chunk::Kind;
use helios_proto::v1::cluster_info_server::{ClusterInfo, ClusterInfoServer};
use helios_proto::v1::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::members::{Connection, Members};

const BASE_BYTES: usize = 300_000;

/// State of a member, and its faults.
#[derive(Debug, Clone)]
pub struct Facts {
    pub cluster_id: String,
    pub incarnation: u64,
    pub name: String,
    pub role: Role,
    /// Entry `index` is at `index - 1`.
    pub log: Vec<ArchivedEntry>,
    pub first_index: u64,
    /// The holds that were requested.
    pub holds: Vec<u64>,
    /// The last report beside a hold.
    pub report: Option<ArchiverReport>,
    /// Number of streams of bases that end after half of the bytes.
    pub broken_bases: usize,
    pub digest: Digest,
    /// Offsets at which streams of bases began.
    pub offsets: Vec<u64>,
    /// Authorization of the last call.
    pub authorization: Option<String>,
    /// Number of calls before the one at which the process ends.
    pub calls_left: Option<usize>,
    /// The process ended: all calls fail.
    pub is_dead: bool,
}

impl Facts {
    /// Begins a call.
    fn called(&mut self) -> Result<(), Status> {
        match &mut self.calls_left {
            Some(0) => self.is_dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        match self.is_dead {
            true => Err(error(ErrorCode::PeerUnreachable, "the process ended")),
            false => Ok(()),
        }
    }
}

/// How a member sends the digest of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    AtEnd,
    /// As a member of a build without `BaseRequest.digest_at_end`.
    InHeader,
    /// The snapshot is found to be damaged when all of it was sent.
    Damaged,
}

/// A handle on a member that runs until it is dropped.
pub struct Member {
    pub address: String,
    facts: Arc<Mutex<Facts>>,
    server: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // The server's connections outlive it.
        self.facts().is_dead = true;
        self.server.abort();
    }
}

pub fn entry(index: u64) -> ArchivedEntry {
    ArchivedEntry { index, term: 2, now_ms: 1_000_000 + 10 * index, payload: format!("entry {index}").into() }
}

impl Member {
    pub async fn start(name: &str, role: Role, entries: u64) -> Self {
        let facts = Facts {
            cluster_id: "a".to_owned(),
            incarnation: 1,
            name: name.to_owned(),
            role,
            log: (1..=entries).map(entry).collect(),
            first_index: 1,
            holds: Vec::new(),
            report: None,
            broken_bases: 0,
            digest: Digest::AtEnd,
            offsets: Vec::new(),
            authorization: None,
            calls_left: None,
            is_dead: false,
        };
        let facts = Arc::new(Mutex::new(facts));
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = incoming.local_addr().unwrap().to_string();
        let service = Service(Arc::clone(&facts));
        let server = Server::builder()
            .add_service(ClusterInfoServer::new(service.clone()))
            .add_service(ArchiveServer::new(service))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, facts, server }
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    /// Appends entries up to `index`.
    pub fn write(&self, index: u64) {
        let mut facts = self.facts();
        let next = facts.log.len() as u64 + 1;
        facts.log.extend((next..=index).map(entry));
    }
}

pub fn members<'a>(all: impl IntoIterator<Item = &'a Member>) -> Members {
    let addresses: Vec<_> = all.into_iter().map(|member| member.address.clone()).collect();
    Members::new(&addresses, Connection::default()).unwrap()
}

#[derive(Clone)]
struct Service(Arc<Mutex<Facts>>);

/// Content of the base at an index: different for each, and for each member only in its order.
pub fn base_content(index: u64) -> Bytes {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..BASE_BYTES).map(next).collect()
}

#[tonic::async_trait]
impl ClusterInfo for Service {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let mut facts = self.0.lock().unwrap();
        facts.authorization =
            request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        facts.called()?;
        let last = facts.log.len() as u64;
        Ok(Response::new(StatusResponse {
            name: facts.name.clone(),
            cluster_id: facts.cluster_id.clone(),
            incarnation: facts.incarnation,
            disk_id: format!("disk of {}", facts.name),
            role: facts.role.into(),
            term: 2,
            last_index: last,
            commit_index: last,
            applied_index: last,
            first_index: facts.first_index,
            ready: true,
            ..StatusResponse::default()
        }))
    }
}

type Chunks<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn error(code: ErrorCode, message: &str) -> Status {
    let retryable = code.is_retryable();
    status_of(&ErrorDetail {
        code: code.into(),
        message: message.to_owned(),
        retryable,
        ..Default::default()
    })
}

#[tonic::async_trait]
impl Archive for Service {
    type BaseStream = Chunks<BaseChunk>;
    type LogStream = Chunks<LogChunk>;

    async fn base(&self, request: Request<BaseRequest>) -> Result<Response<Self::BaseStream>, Status> {
        let mut facts = self.0.lock().unwrap();
        facts.called()?;
        let last = facts.log.last().unwrap().clone();
        let BaseRequest { resume, with_digest, digest_at_end, .. } = request.into_inner();
        let has_end = with_digest && digest_at_end && facts.digest != Digest::InHeader;
        // The snapshot is kept for a resumed transfer.
        let index = resume.as_ref().map_or(last.index, |header| header.index);
        let content = base_content(index);
        let header = BaseHeader {
            cluster_id: facts.cluster_id.clone(),
            incarnation: facts.incarnation,
            member: facts.name.clone(),
            disk_id: format!("disk of {}", facts.name),
            index,
            term: last.term,
            now_ms: facts.log[index as usize - 1].now_ms,
            keys: index,
            version: 1,
            size_bytes: content.len() as u64,
            crc32c: crc32c::crc32c(&content),
            state_digest: match with_digest && !has_end && resume.is_none() {
                true => format!("{index:016x}"),
                false => String::new(),
            },
            offset: resume.map(|header| header.offset).unwrap_or_default(),
        };
        facts.offsets.push(header.offset);
        let mut rest = content.slice(header.offset as usize..);
        let is_broken = facts.broken_bases > 0;
        if is_broken {
            facts.broken_bases -= 1;
            rest.truncate(rest.len() / 2);
        }
        let mut chunks = vec![Ok(BaseChunk { kind: Some(Kind::Header(header)), crc32c: None })];
        while !rest.is_empty() {
            let data = rest.split_to(rest.len().min(10_000));
            let crc32c = Some(crc32c::crc32c(&data));
            chunks.push(Ok(BaseChunk { kind: Some(Kind::Data(data)), crc32c }));
        }
        if is_broken {
            chunks.push(Err(error(ErrorCode::PeerUnreachable, "the process ended")));
        } else if facts.digest == Digest::Damaged {
            chunks.push(Err(error(ErrorCode::Corruption, "the snapshot is damaged")));
        } else if has_end {
            let end = BaseEnd { state_digest: format!("{index:016x}") };
            chunks.push(Ok(BaseChunk { kind: Some(Kind::End(end)), crc32c: None }));
        }
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        let LogRequest { from_index, cluster_id, incarnation } = request.into_inner();
        let facts = Arc::clone(&self.0);
        let is_ours = {
            let mut facts = facts.lock().unwrap();
            facts.called()?;
            facts.cluster_id == cluster_id && facts.incarnation == incarnation
        };
        if !is_ours {
            return Err(error(ErrorCode::WrongCluster, "another history"));
        }
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut next = from_index;
            loop {
                let sent = {
                    let facts = facts.lock().unwrap();
                    if facts.is_dead {
                        Err(error(ErrorCode::PeerUnreachable, "the process ended"))
                    } else if (&facts.cluster_id, facts.incarnation) != (&cluster_id, incarnation) {
                        Err(error(ErrorCode::WrongCluster, "another history"))
                    } else if next < facts.first_index {
                        Err(error(ErrorCode::LogPurged, "the log begins later"))
                    } else {
                        let from = (next as usize - 1).min(facts.log.len());
                        Ok(LogChunk {
                            entries: facts.log[from..].to_vec(),
                            applied_index: facts.log.len() as u64,
                            wall_ms: 1,
                        })
                    }
                };
                let is_error = sent.is_err();
                next = sent
                    .as_ref()
                    .ok()
                    .and_then(|chunk| chunk.entries.last())
                    .map_or(next, |last| last.index + 1);
                if sender.send(sent).await.is_err() || is_error {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        let mut facts = self.0.lock().unwrap();
        facts.called()?;
        let HoldRequest { from_index, report, .. } = request.into_inner();
        facts.holds.push(from_index);
        facts.report = report;
        Ok(Response::new(HoldResponse { first_index: facts.first_index }))
    }
}
