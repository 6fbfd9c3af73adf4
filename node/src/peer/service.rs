//! The peer service: incoming traffic of other members. A stream starts with a handshake that has to be accepted, and
//! ends as soon as its sender is no longer a member.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use helios_proto::v1::peer_server::Peer;
use helios_proto::v1::{
    AwaitReplicasRequest, AwaitReplicasResponse, ErrorCode, FetchSnapshotRequest, ForwardRequest,
    ForwardResponse, Handshake, Lane, PeerFrame, PeerReceipt, PublishRequest, PublishResponse, Reply,
    SnapshotChunk, SnapshotHeader, SnapshotPrefix, SnapshotReceipt, WriteResult, peer_frame, snapshot_chunk,
    write_result,
};
use helios_service::rejections::Rejections;
use prost_raft::Message as _;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::fetch::{self, MAX_FETCHES};
use super::turns::Turns;
use super::{Bandwidth, MAX_FORWARDED, MAX_PUBLICATIONS, snapshot};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::raft::{RaftHandle, Snapshots};
use crate::wal::Base;

/// Time for the handshake of a stream.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The node as the peer service uses it.
pub trait PeerHost: Send + Sync + 'static {
    /// Checks a handshake and returns the Raft handle. A blank node that is addressed as a member becomes one here.
    fn admit(&self, handshake: &Handshake) -> Result<RaftHandle, Error>;

    /// Checks the handshake of a unary call.
    fn check_call(&self, from: Option<&Handshake>) -> Result<(), Error>;

    /// Records the wall clock that a member reports, ms since the Unix epoch; `None`: its build does not report it.
    fn heard_clock(&self, from: u64, wall_ms: Option<u64>);

    /// Returns the response to a handshake.
    fn receipt(&self) -> PeerReceipt;

    /// Handles the end of the newest heartbeat stream of a member, which may mean that its process died.
    fn link_ended(&self, from: &Handshake);

    fn is_member(&self, id: u64) -> bool;

    fn snapshots(&self) -> &Arc<Snapshots>;

    fn metrics(&self) -> &Metrics;

    /// Returns the bandwidth limit of all snapshots that this member sends.
    fn bandwidth(&self) -> &Arc<Bandwidth>;

    /// Records that the entry at `known` is committed.
    fn learn_commit(&self, known: Base);

    /// Takes a snapshot of everything applied here so far; returns its index.
    fn take_snapshot(&self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Executes writes that a follower forwarded; never forwards them again.
    fn write_forwarded(
        &self,
        request: ForwardRequest,
    ) -> impl Future<Output = Result<Vec<Result<Reply, Error>>, Error>> + Send;

    /// Delivers messages that clients of another member published to this member's subscribers; returns the number of
    /// receivers of each.
    fn publish(&self, request: &PublishRequest) -> Result<Vec<u64>, Error>;

    /// On the leader, waits until the requested number of other voters hold an entry on disk; returns the number that
    /// do.
    fn await_replicas(
        &self,
        request: AwaitReplicasRequest,
    ) -> impl Future<Output = Result<u64, Error>> + Send;
}

pub struct PeerService<H> {
    host: Arc<H>,
    rejections: Rejections,
    streams: Arc<Streams>,
    snapshot_turns: Turns,
    fetches: Arc<Semaphore>,
}

impl<H: PeerHost> PeerService<H> {
    pub fn new(host: Arc<H>, rejections: Rejections) -> Self {
        let fetches = Arc::new(Semaphore::new(MAX_FETCHES));
        Self { host, rejections, streams: Arc::default(), snapshot_turns: Turns::default(), fetches }
    }

    /// Returns the Raft handle if the handshake is accepted; a rejection is logged and counted.
    fn admit(&self, handshake: &Handshake) -> Result<RaftHandle, Error> {
        self.host.admit(handshake).inspect_err(|error| {
            self.rejections.report("peer", reason_for(error.code), &handshake.from_name, error);
        })
    }

    /// Checks the handshake of a unary call; a rejection is logged and counted.
    fn check_call(&self, from: Option<&Handshake>) -> Result<(), Error> {
        self.host.check_call(from).inspect_err(|error| {
            let name = from.map_or("a peer", |handshake| &handshake.from_name);
            self.rejections.report("peer", reason_for(error.code), name, error);
        })
    }
}

/// Checks the Raft group of messages or of a call: there is one, 0.
fn check_group(group: u64) -> Result<(), Error> {
    match group {
        0 => Ok(()),
        _ => {
            Err(Error::invalid(format!("Raft group {group} is not known to this build: upgrade this member")))
        }
    }
}

/// Checks the number of items in one call. Members never exceed the limit.
fn check_count(what: &str, count: usize, limit: usize) -> Result<(), Error> {
    match count > limit {
        true => Err(Error::invalid(format!("{count} {what} in one call; the limit is {limit} (fixed)"))),
        false => Ok(()),
    }
}

/// Newest heartbeat stream of each member: its number, and the boot epoch of the process that opened it. A member that
/// has reconnected does not count as lost when its old connection ends.
#[derive(Default)]
struct Streams(Mutex<HashMap<u64, (u64, u64)>>);

impl Streams {
    /// Registers a new stream; returns its number, and whether the same process had one before.
    fn begin(&self, from: &Handshake) -> (u64, bool) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, epoch) = newest.entry(from.from_id).or_default();
        *number += 1;
        let earlier = std::mem::replace(epoch, from.from_boot_epoch);
        (*number, *number > 1 && earlier == from.from_boot_epoch)
    }

    /// Whether this is the newest stream of the member.
    fn is_newest(&self, from: u64, number: u64) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&from)
            .is_some_and(|(newest, _)| *newest == number)
    }
}

type ChunkStream = Pin<Box<dyn Stream<Item = Result<SnapshotChunk, Status>> + Send>>;
type ReceiptStream = Pin<Box<dyn Stream<Item = Result<PeerReceipt, Status>> + Send>>;

#[tonic::async_trait]
impl<H: PeerHost> Peer for PeerService<H> {
    type MessagesStream = ReceiptStream;
    type FetchSnapshotStream = ChunkStream;

    async fn messages(
        &self,
        request: Request<Streaming<PeerFrame>>,
    ) -> Result<Response<Self::MessagesStream>, Status> {
        let mut stream = request.into_inner();
        let handshake = match first(&mut stream, &self.rejections).await?.kind {
            Some(peer_frame::Kind::Handshake(handshake)) => handshake,
            _ => return Err(Error::invalid("the first frame must be a handshake").into()),
        };
        let raft = self.admit(&handshake)?;
        let (receipts, answers) = tokio::sync::mpsc::channel(1);
        let (host, streams) = (Arc::clone(&self.host), Arc::clone(&self.streams));
        raft.peer_format(handshake.from_id, handshake.format);
        raft.peer_priority(handshake.from_id, handshake.priority);
        let has_heartbeats = handshake.lane() != Lane::Log;
        let (number, is_renewed) = if has_heartbeats { streams.begin(&handshake) } else { (0, false) };
        if is_renewed {
            raft.link_found(handshake.from_id);
        }
        tokio::spawn(async move {
            let outcome = match receipts.send(Ok(host.receipt())).await {
                Ok(()) => take_messages(&*host, &raft, &handshake, stream).await,
                Err(_) => Ok(()),
            };
            let was_newest = has_heartbeats && streams.is_newest(handshake.from_id, number);
            match outcome {
                Ok(()) if was_newest => host.link_ended(&handshake),
                Ok(()) => {}
                Err(error) => drop(receipts.send(Err(error.into())).await),
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn held_snapshot(
        &self,
        request: Request<SnapshotHeader>,
    ) -> Result<Response<SnapshotPrefix>, Status> {
        let header = request.into_inner();
        check_group(header.group)?;
        self.admit(&header.handshake.clone().unwrap_or_default())?;
        // With the turn, no transfer writes to the files that are being measured.
        let _turn = self.snapshot_turns.take().await;
        Ok(Response::new(snapshot::held(self.host.snapshots(), &header).await?))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotReceipt>, Status> {
        let mut stream = request.into_inner();
        let Some(snapshot_chunk::Kind::Header(header)) = first(&mut stream, &self.rejections).await?.kind
        else {
            return Err(Error::invalid("the first chunk must be the header").into());
        };
        check_group(header.group)?;
        let handshake = header.handshake.clone().unwrap_or_default();
        let raft = self.admit(&handshake)?;
        let message = decode(&header.message)?;
        check_announcement(&message, &header, &handshake)?;
        let term = raft.status().term;
        if message.term < term {
            // Raft would ignore it, and the current leader may be sending a snapshot.
            let reason = format!("a snapshot of term {}, this member is at term {term}", message.term);
            return Err(Error::new(ErrorCode::StaleTerm, reason).into());
        }
        let mut turn = self.snapshot_turns.take().await;
        let (snapshots, metrics) = (self.host.snapshots(), self.host.metrics());
        snapshot::receive(snapshots, metrics, &header, &mut stream, &mut turn).await?;
        raft.messages(vec![message]);
        Ok(Response::new(SnapshotReceipt {}))
    }

    async fn fetch_snapshot(
        &self,
        request: Request<FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let request = request.into_inner();
        if request.from.is_none() {
            return Err(Error::invalid("this call does not say which member it is from").into());
        }
        check_group(request.group)?;
        self.check_call(request.from.as_ref())?;
        let busy = |_| {
            let message = format!("this member sends {MAX_FETCHES} snapshots already; try again");
            Error::new(ErrorCode::Overloaded, message)
        };
        let permit = Arc::clone(&self.fetches).try_acquire_owned().map_err(busy)?;
        let chunks = fetch::offer(Arc::clone(&self.host), request, permit).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks).map(Ok))))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        let request = request.into_inner();
        check_group(request.group)?;
        self.check_call(request.from.as_ref())?;
        check_count("writes", request.commands.len(), MAX_FORWARDED)?;
        let outcomes = self.host.write_forwarded(request).await?;
        let results = outcomes.into_iter().map(|outcome| WriteResult {
            kind: Some(match outcome {
                Ok(reply) => write_result::Kind::Reply(reply),
                Err(error) => write_result::Kind::Error(error.into()),
            }),
        });
        Ok(Response::new(ForwardResponse { results: results.collect() }))
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let request = request.into_inner();
        self.check_call(request.from.as_ref())?;
        check_count("messages", request.publications.len(), MAX_PUBLICATIONS)?;
        let reached = self.host.publish(&request)?;
        Ok(Response::new(PublishResponse { reached }))
    }

    async fn await_replicas(
        &self,
        request: Request<AwaitReplicasRequest>,
    ) -> Result<Response<AwaitReplicasResponse>, Status> {
        let request = request.into_inner();
        check_group(request.group)?;
        self.check_call(request.from.as_ref())?;
        let replicas = self.host.await_replicas(request).await?;
        Ok(Response::new(AwaitReplicasResponse { replicas }))
    }
}

/// Returns the `reason` label of the metric.
fn reason_for(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::WrongCluster => "wrong_cluster",
        ErrorCode::MemberRemoved => "removed_member",
        _ => "not_member",
    }
}

async fn first<T>(stream: &mut Streaming<T>, rejections: &Rejections) -> Result<T, Status> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.message()).await {
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(Ok(None)) => Err(Error::invalid("the stream ended before its handshake").into()),
        Ok(Err(status)) => {
            if status.code() == Code::OutOfRange {
                rejections.report("peer", "too_large", "a peer", status.message());
            }
            Err(status)
        }
        Err(_) => {
            let error = Error::new(ErrorCode::DeadlineExceeded, "no handshake in time");
            rejections.report("peer", "slow_handshake", "a peer", &error);
            Err(error.into())
        }
    }
}

async fn take_messages<H: PeerHost>(
    host: &H,
    raft: &RaftHandle,
    peer: &Handshake,
    mut stream: Streaming<PeerFrame>,
) -> Result<(), Error> {
    let from = peer.from_id;
    let mut was_bad = None;
    // A broken stream is not an error: the peer reconnects.
    while let Ok(Some(frame)) = stream.message().await {
        let Some(peer_frame::Kind::Batch(batch)) = frame.kind else {
            return Err(Error::invalid("a second handshake"));
        };
        if !host.is_member(from) {
            return Err(Error::new(
                ErrorCode::MemberRemoved,
                format!("member {from} was removed from the cluster"),
            ));
        }
        check_group(batch.group)?;
        let messages = batch.messages.iter().map(|bytes| decode(bytes)).collect::<Result<Vec<_>, _>>()?;
        messages.iter().try_for_each(|message| check_message(message, peer))?;
        host.heard_clock(from, batch.wall_ms);
        if let Some(took) = host.metrics().contacts.heard(from, &messages, Instant::now()) {
            host.metrics().round_trip(&peer.from_name, took);
        }
        raft.messages(messages);
        if was_bad.replace(batch.disk_bad) != Some(batch.disk_bad) {
            raft.peer_disk(from, batch.disk_bad);
        }
    }
    Ok(())
}

/// Checks that a message may arrive on a stream: from its sender to this member, and not of a local type. Snapshots
/// come with their file instead.
fn check_message(message: &Message, peer: &Handshake) -> Result<(), Error> {
    if message.from != peer.from_id {
        return Err(Error::invalid("a message in another member's name"));
    }
    if message.to != peer.to_id {
        return Err(Error::invalid("a message to another member"));
    }
    use MessageType::*;
    match message.get_msg_type() {
        kind @ (MsgHup | MsgBeat | MsgPropose | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum
        | MsgSnapshot) => Err(Error::invalid(format!("{kind:?} is not a message between members"))),
        _ => Ok(()),
    }
}

/// Checks that the Raft message that announces a snapshot file is of the same sender, receiver and snapshot.
fn check_announcement(message: &Message, header: &SnapshotHeader, peer: &Handshake) -> Result<(), Error> {
    let of = message.get_snapshot().get_metadata();
    let fits = message.get_msg_type() == MessageType::MsgSnapshot
        && (message.from, message.to) == (peer.from_id, peer.to_id)
        && (of.index, of.term) == (header.index, header.term)
        && header.offset <= header.size_bytes;
    match fits {
        true => Ok(()),
        false => {
            Err(Error::invalid("the message of a snapshot is not of this sender, receiver and snapshot"))
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Message, Error> {
    Message::decode(bytes).map_err(|error| Error::invalid(format!("malformed raft message: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Handshake {
        Handshake { from_id: 1, to_id: 2, ..Handshake::default() }
    }

    fn message(kind: MessageType) -> Message {
        let mut message = Message { from: 1, to: 2, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn a_stream_accepts_only_non_local_messages_of_its_sender_to_this_member() {
        use MessageType::*;
        for kind in [MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgRequestVote, MsgTimeoutNow, MsgReadIndex]
        {
            assert_eq!(check_message(&message(kind), &peer()), Ok(()), "{kind:?}");
        }
        for kind in [MsgHup, MsgBeat, MsgPropose, MsgUnreachable, MsgSnapStatus, MsgCheckQuorum, MsgSnapshot]
        {
            assert!(check_message(&message(kind), &peer()).is_err(), "{kind:?}");
        }
        assert!(check_message(&Message { from: 3, ..message(MsgAppend) }, &peer()).is_err());
        assert!(check_message(&Message { to: 3, ..message(MsgAppend) }, &peer()).is_err());
    }

    #[test]
    fn messages_of_another_raft_group_are_rejected() {
        assert_eq!(check_group(0), Ok(()));
        let refused = check_group(7).unwrap_err();
        assert!(refused.message.contains("Raft group 7") && !refused.is_retryable(), "{refused}");
    }

    #[test]
    fn an_announcement_has_to_match_sender_receiver_and_snapshot() {
        let header = SnapshotHeader { index: 7, term: 3, size_bytes: 100, ..SnapshotHeader::default() };
        let mut announced = message(MessageType::MsgSnapshot);
        announced.mut_snapshot().mut_metadata().index = 7;
        announced.mut_snapshot().mut_metadata().term = 3;
        let refused = |message: &Message, header: &SnapshotHeader| {
            check_announcement(message, header, &peer()).is_err()
        };
        assert!(!refused(&announced, &header));
        assert!(refused(&Message { from: 3, ..announced.clone() }, &header));
        assert!(refused(&Message { to: 3, ..announced.clone() }, &header));
        assert!(refused(&message(MessageType::MsgAppend), &header), "another message");
        assert!(refused(&announced, &SnapshotHeader { index: 8, ..header.clone() }));
        assert!(refused(&announced, &SnapshotHeader { term: 4, ..header.clone() }));
        assert!(refused(&announced, &SnapshotHeader { offset: 101, ..header }));
    }
}
