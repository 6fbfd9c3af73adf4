//! Outgoing links: two connections per peer ([`super::lanes`]), each with a task that dials, performs the handshake and
//! sends Raft messages in order. A full queue drops messages and reports the peer unreachable; Raft probes again later,
//! so a slow peer never grows this node's memory (docs/design/node.md, pitfall 28).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use helios_proto::tls::why;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{ErrorCode, Handshake, Member, Membership, PeerFrame, RaftBatch, peer_frame::Kind};
use prost_raft::Message as _;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::backoff::Backoff;
use super::lanes::{Lane, Pulse};
use super::{Bandwidth, Dialer, MAX_MESSAGE_BYTES, snapshot};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::raft::format::FORMAT;
use crate::raft::membership::was_removed;
use crate::raft::{Outbound, RaftHandle, Snapshots};

/// Limit of log messages that wait for one peer.
const QUEUE: usize = 4_096;
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Identity of the dialling member.
pub struct Identity {
    pub cluster_id: String,
    pub member_id: u64,
    pub name: String,
    /// host:port at which peers reach this member.
    pub addr: String,
    pub disk_id: String,
    pub boot_epoch: u64,
    pub incarnation: u64,
    pub priority: u32,
    pub initial_members_digest: String,
    /// Whether this member never serves lease reads.
    pub no_leases: bool,
}

/// The dialling member, and the receivers of its observations.
pub struct LinkOptions {
    pub identity: Identity,
    pub dialer: Dialer,
    pub raft: RaftHandle,
    pub snapshots: Arc<Snapshots>,
    /// Bandwidth limit of all snapshots together.
    pub bandwidth: Arc<Bandwidth>,
    pub metrics: Arc<Metrics>,
    /// Called when a peer reports that this member was removed.
    pub on_removed: Box<dyn Fn() + Send + Sync>,
    pub runtime: tokio::runtime::Handle,
}

impl Identity {
    /// Returns the handshake of this member to `target`.
    pub fn handshake(&self, target: &Target) -> Handshake {
        Handshake {
            cluster_id: self.cluster_id.clone(),
            from_id: self.member_id,
            from_name: self.name.clone(),
            from_disk_id: self.disk_id.clone(),
            from_boot_epoch: self.boot_epoch,
            to_id: target.id,
            to_disk_id: target.disk_id.clone(),
            to_boot_epoch: target.boot_epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            initial_members_digest: self.initial_members_digest.clone(),
            from_addr: self.addr.clone(),
            no_leases: self.no_leases,
            incarnation: self.incarnation,
            lane: helios_proto::v1::Lane::All.into(),
            format: FORMAT,
            priority: self.priority,
        }
    }
}

/// Peer that a link connects to.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub id: u64,
    pub name: String,
    pub addr: String,
    pub disk_id: String,
    /// Registered boot epoch; 0 if unknown.
    pub boot_epoch: u64,
}

impl From<&Member> for Target {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id,
            name: member.name.clone(),
            addr: member.peer_addr.clone(),
            disk_id: member.disk_id.clone(),
            boot_epoch: member.boot_epoch,
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
            boot_epoch: 0,
        }
    }
}

pub struct Links {
    options: Arc<LinkOptions>,
    links: Mutex<HashMap<u64, Link>>,
}

struct Link {
    queue: mpsc::Sender<Message>,
    pulse: Arc<Pulse>,
    target: watch::Sender<Target>,
    tasks: [AbortHandle; 2],
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Links {
    pub fn new(options: LinkOptions) -> Self {
        Self { options: Arc::new(options), links: Mutex::default() }
    }

    /// Returns the handshake of the member that owns these links to `member`.
    pub fn handshake_to(&self, member: &Member) -> Handshake {
        self.options.identity.handshake(&Target::from(member))
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
        let pulse = Arc::new(Pulse::default());
        let target = watch::Sender::new(target);
        let tasks = [Lane::Log(messages), Lane::Pulse(Arc::clone(&pulse))].map(|lane| {
            let task = run(Arc::clone(&self.options), target.subscribe(), lane);
            self.options.runtime.spawn(task).abort_handle()
        });
        Link { queue, pulse, target, tasks }
    }
}

impl Outbound for Links {
    fn send(&self, messages: Vec<Message>) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for message in messages {
            let to = message.to;
            self.options.metrics.contacts.sent(&message, now);
            let Some(link) = links.get(&to) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let target = link.target.borrow().clone();
                self.options.runtime.spawn(snapshot::send(Arc::clone(&self.options), target, message));
            } else if Pulse::carries(&message) {
                link.pulse.push(message);
            } else if link.queue.try_send(message).is_err() {
                self.options.raft.unreachable(to);
            }
        }
    }

    fn set_membership(&self, membership: Arc<Membership>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|id, _| !was_removed(&membership, *id));
        for member in membership.members.iter().filter(|member| member.id != self.options.identity.member_id)
        {
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

/// Keeps one lane of a link connected. Aborted when the link is dropped.
async fn run(options: Arc<LinkOptions>, target: watch::Receiver<Target>, mut lane: Lane) {
    let mut backoff = Backoff::default();
    let mut last_reason = String::new();
    loop {
        let peer = target.borrow().clone();
        let reason = match pump(&options, &peer, &mut lane).await {
            Ended::Lost { connected, reason } => {
                if connected {
                    backoff.reset();
                } else {
                    count_failure(&options, &peer, &lane);
                }
                reason
            }
            Ended::Refused(error) => {
                if error.code == ErrorCode::MemberRemoved {
                    (options.on_removed)();
                }
                count_failure(&options, &peer, &lane);
                if !error.is_retryable() {
                    backoff.refused();
                }
                error.message
            }
        };
        if reason != last_reason {
            let lane = lane.name();
            tracing::warn!(peer = %peer.name, addr = %peer.addr, lane, %reason, "no link to peer");
            last_reason = reason;
        }
        if matches!(lane, Lane::Log(_)) {
            options.raft.unreachable(peer.id);
        }
        tokio::time::sleep(backoff.pause(rand::random())).await;
        lane.clear();
    }
}

/// Counts a failed connection attempt, for the log lane only: both lanes of a peer usually fail together.
fn count_failure(options: &LinkOptions, peer: &Target, lane: &Lane) {
    if matches!(lane, Lane::Log(_)) {
        options.metrics.contacts.failed(peer.id);
    }
}

enum Ended {
    Lost { connected: bool, reason: String },
    Refused(Error),
}

impl Ended {
    /// Classifies the end of a connection. A status without our error detail means a broken connection: the peer may
    /// return at once.
    fn from_status(status: &Status, connected: bool) -> Self {
        if status.details().is_empty() {
            return Self::Lost { connected, reason: why(status) };
        }
        Self::Refused(helios_proto::detail_of(status).into())
    }
}

/// Runs one connection, from dialling to its end.
async fn pump(options: &LinkOptions, peer: &Target, lane: &mut Lane) -> Ended {
    let lost = |connected, reason: &str| Ended::Lost { connected, reason: reason.to_owned() };
    let channel = match options.dialer.connect(&peer.addr).await {
        Ok(channel) => channel,
        Err(error) => return lost(false, &error.0),
    };
    let (frames, stream) = mpsc::channel(lane.frames_ahead());
    let handshake = Handshake { lane: lane.kind().into(), ..options.identity.handshake(peer) };
    let hello = PeerFrame { kind: Some(Kind::Handshake(handshake)) };
    // Cannot fail: the channel is empty, and `stream` is alive.
    drop(frames.try_send(hello));
    let mut client = PeerClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut receipts = match client.messages(ReceiverStream::new(stream)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ended::from_status(&status, false),
    };
    match receipts.message().await {
        Ok(Some(_)) => {
            if matches!(lane, Lane::Log(_)) {
                options.metrics.contacts.linked(peer.id);
            }
            let lane = lane.name();
            tracing::info!(peer = %peer.name, addr = %peer.addr, lane, "linked to peer");
        }
        Ok(None) => return lost(false, "closed by peer"),
        Err(status) => return Ended::from_status(&status, false),
    }
    let ended = |receipt: Result<_, Status>| match receipt {
        Err(status) => Ended::from_status(&status, true),
        Ok(_) => lost(true, "closed by peer"),
    };
    loop {
        let messages = tokio::select! {
            messages = lane.next() => messages,
            receipt = receipts.message() => return ended(receipt),
        };
        let disk_bad = options.raft.status().disk_is_bad;
        for frame in encode(messages, disk_bad) {
            tokio::select! {
                sent = frames.send(frame) => if sent.is_err() {
                    return lost(true, "connection closed");
                },
                receipt = receipts.message() => return ended(receipt),
            }
        }
    }
}

fn encode(messages: Vec<Message>, disk_bad: bool) -> Vec<PeerFrame> {
    let mut frames = Vec::new();
    let wall_ms = Some(helios_service::time::wall_ms());
    let empty = || RaftBatch { messages: Vec::new(), disk_bad, wall_ms, group: 0 };
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

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    #[test]
    fn a_frame_holds_messages_up_to_the_limit_and_at_least_one() {
        let message = |bytes| {
            let entry = Entry { data: vec![7; bytes], ..Entry::default() };
            Message { entries: vec![entry], ..Message::default() }
        };
        let sizes = |messages: &[usize]| {
            let frames = encode(messages.iter().copied().map(message).collect(), false);
            let count = |frame: &PeerFrame| match &frame.kind {
                Some(Kind::Batch(batch)) => batch.messages.len(),
                _ => 0,
            };
            frames.iter().map(count).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[300 << 10; 7]), [3, 3, 1]);
        assert_eq!(sizes(&[8 << 20, 10, 10]), [1, 2]);
        const { assert!(MAX_BATCH_BYTES < MAX_MESSAGE_BYTES) };
    }
}
