//! Outgoing links: one task per peer that dials, shakes hands and pumps Raft messages in order.
//! A full queue drops messages and reports the peer unreachable; Raft probes again later, so a
//! slow peer never grows this node's memory (node.md, pitfall 28).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{ErrorCode, Handshake, Member, Membership, PeerFrame, RaftBatch, peer_frame::Kind};
use prost_raft::Message as _;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::{MAX_MESSAGE_BYTES, snapshot};
use crate::error::Error;
use crate::raft::membership::was_removed;
use crate::raft::{Outbound, RaftHandle, Snapshots};

/// Messages waiting for one peer.
const QUEUE: usize = 4_096;
/// Frames encoded ahead of the connection.
const FRAMES: usize = 4;
const MAX_BATCH: usize = 128;
const MAX_BATCH_BYTES: usize = 1 << 20;
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A peer that refuses us for a lasting reason is asked again this often.
const BACKOFF_REFUSED: Duration = Duration::from_secs(2);

/// Who dials, and whom it tells what it finds out.
pub struct LinkOptions {
    pub cluster_id: String,
    pub member_id: u64,
    pub name: String,
    /// host:port at which peers reach this member.
    pub addr: String,
    pub disk_id: String,
    pub boot_epoch: u64,
    pub initial_members_digest: String,
    /// This member never serves reads by a lease.
    pub no_leases: bool,
    pub raft: RaftHandle,
    pub snapshots: Arc<Snapshots>,
    /// Called when a peer says that this member was removed.
    pub on_removed: Box<dyn Fn(&str) + Send + Sync>,
    pub runtime: tokio::runtime::Handle,
}

impl LinkOptions {
    pub(super) fn handshake(&self, target: &Target) -> Handshake {
        Handshake {
            cluster_id: self.cluster_id.clone(),
            from_id: self.member_id,
            from_name: self.name.clone(),
            from_disk_id: self.disk_id.clone(),
            from_boot_epoch: self.boot_epoch,
            to_id: target.id,
            to_disk_id: target.disk_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            initial_members_digest: self.initial_members_digest.clone(),
            from_addr: self.addr.clone(),
            no_leases: self.no_leases,
            incarnation: 0,
        }
    }
}

/// Whom a link reaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub id: u64,
    pub name: String,
    pub addr: String,
    pub disk_id: String,
}

impl From<&Member> for Target {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id,
            name: member.name.clone(),
            addr: member.peer_addr.clone(),
            disk_id: member.disk_id.clone(),
        }
    }
}

impl From<&Handshake> for Target {
    fn from(handshake: &Handshake) -> Self {
        Self {
            id: handshake.from_id,
            name: handshake.from_name.clone(),
            addr: handshake.from_addr.clone(),
            disk_id: handshake.from_disk_id.clone(),
        }
    }
}

pub struct Links {
    options: Arc<LinkOptions>,
    links: Mutex<HashMap<u64, Link>>,
}

struct Link {
    queue: mpsc::Sender<Message>,
    target: watch::Sender<Target>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    pub fn new(options: LinkOptions) -> Self {
        Self { options: Arc::new(options), links: Mutex::default() }
    }

    /// Ends all links.
    pub fn close(&self) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Links to the sender of a handshake before the membership lists it, so that a member that
    /// has just joined, or lags, can answer its leader.
    pub fn introduce(&self, handshake: &Handshake) {
        let target = Target::from(handshake);
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.entry(target.id).or_insert_with(|| self.open(target));
    }

    fn open(&self, target: Target) -> Link {
        let (queue, messages) = mpsc::channel(QUEUE);
        let (target, watched) = watch::channel(target);
        let task = self.options.runtime.spawn(run(Arc::clone(&self.options), watched, messages));
        Link { queue, target, task: task.abort_handle() }
    }
}

impl Outbound for Links {
    fn send(&self, messages: Vec<Message>) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            let to = message.to;
            let Some(link) = links.get(&to) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let target = link.target.borrow().clone();
                self.options.runtime.spawn(snapshot::send(Arc::clone(&self.options), target, message));
            } else if link.queue.try_send(message).is_err() {
                self.options.raft.unreachable(to);
            }
        }
    }

    fn set_membership(&self, membership: Arc<Membership>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|id, _| !was_removed(&membership, *id));
        for member in membership.members.iter().filter(|member| member.id != self.options.member_id) {
            let target = Target::from(member);
            match links.get(&member.id) {
                Some(link) => drop(link.target.send_if_modified(|current| {
                    let changed = *current != target;
                    *current = target.clone();
                    changed
                })),
                None => drop(links.insert(member.id, self.open(target))),
            }
        }
    }
}

async fn run(
    options: Arc<LinkOptions>,
    target: watch::Receiver<Target>,
    mut messages: mpsc::Receiver<Message>,
) {
    let mut backoff = BACKOFF_MIN;
    let mut last_reason = String::new();
    loop {
        let peer = target.borrow().clone();
        let reason = match pump(&options, &peer, &mut messages).await {
            Ended::QueueClosed => return,
            Ended::Lost { connected, reason } => {
                if connected {
                    backoff = BACKOFF_MIN;
                }
                reason
            }
            Ended::Refused(error) => {
                if error.code == ErrorCode::MemberRemoved {
                    (options.on_removed)(&error.message);
                }
                if !error.is_retryable() {
                    backoff = BACKOFF_REFUSED;
                }
                error.message
            }
        };
        if reason != last_reason {
            tracing::warn!(peer = %peer.name, addr = %peer.addr, %reason, "no link to peer");
            last_reason = reason;
        }
        options.raft.unreachable(peer.id);
        tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.5))).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
        while messages.try_recv().is_ok() {}
    }
}

enum Ended {
    QueueClosed,
    Lost { connected: bool, reason: String },
    Refused(Error),
}

impl Ended {
    /// What carries no detail of ours is a connection that broke: the peer may be back at once.
    fn by(status: &tonic::Status, connected: bool) -> Self {
        if status.details().is_empty() {
            return Self::Lost { connected, reason: status.message().to_owned() };
        }
        Self::Refused(helios_proto::detail_of(status).into())
    }
}

/// One connection, from dialling to its end.
async fn pump(options: &LinkOptions, peer: &Target, messages: &mut mpsc::Receiver<Message>) -> Ended {
    let channel = match super::connect(&peer.addr).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Lost { connected: false, reason: reason_of(&error) },
    };
    let (frames, stream) = mpsc::channel(FRAMES);
    let hello = PeerFrame { kind: Some(Kind::Handshake(options.handshake(peer))) };
    if frames.send(hello).await.is_err() {
        return Ended::QueueClosed;
    }
    let mut client = PeerClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut receipts = match client.messages(ReceiverStream::new(stream)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ended::by(&status, false),
    };
    match receipts.message().await {
        Ok(Some(_)) => tracing::info!(peer = %peer.name, addr = %peer.addr, "linked to peer"),
        Ok(None) => return Ended::Lost { connected: false, reason: "closed by peer".into() },
        Err(status) => return Ended::by(&status, false),
    }
    let mut batch = Vec::with_capacity(MAX_BATCH);
    loop {
        tokio::select! {
            received = messages.recv_many(&mut batch, MAX_BATCH) => {
                if received == 0 {
                    return Ended::QueueClosed;
                }
                let disk_full = options.raft.status().log_is_short;
                for frame in encode(batch.drain(..), disk_full) {
                    if frames.send(frame).await.is_err() {
                        return Ended::Lost { connected: true, reason: "connection closed".into() };
                    }
                }
            }
            receipt = receipts.message() => return match receipt {
                Err(status) => Ended::by(&status, true),
                Ok(_) => Ended::Lost { connected: true, reason: "closed by peer".into() },
            },
        }
    }
}

fn encode(messages: impl Iterator<Item = Message>, disk_full: bool) -> Vec<PeerFrame> {
    let mut frames = Vec::new();
    let empty = || RaftBatch { messages: Vec::new(), disk_full };
    let (mut batch, mut bytes) = (empty(), 0);
    for message in messages {
        let encoded = message.encode_to_vec();
        if bytes + encoded.len() > MAX_BATCH_BYTES && !batch.messages.is_empty() {
            frames.push(PeerFrame { kind: Some(Kind::Batch(std::mem::replace(&mut batch, empty()))) });
            bytes = 0;
        }
        bytes += encoded.len();
        batch.messages.push(encoded.into());
    }
    frames.push(PeerFrame { kind: Some(Kind::Batch(batch)) });
    frames
}

/// The innermost cause: "Connection refused" says more than "transport error".
pub(super) fn reason_of(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
