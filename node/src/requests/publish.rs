//! Publication of messages to the subscribers on all members: this member delivers to its own clients, and sends to the
//! other members over the peer service. At most once, and in order from one member to another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::peer_client::PeerClient;
use helios_proto::v1::{Publication, PublishRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::Error;
use crate::node::Node;
use crate::peer::{MAX_MESSAGE_BYTES, MAX_PUBLICATIONS};

/// Limit of messages that wait for one member; further ones are lost, as they are for a client that is not connected.
const MAX_WAITING: usize = 1_024;
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Time that a publisher waits for the counts of the other members.
const COUNT_TIMEOUT: Duration = Duration::from_millis(100);
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a message after which the task of a member ends.
const IDLE: Duration = Duration::from_secs(60);

/// A message that waits for one member.
struct Letter {
    publication: Publication,
    /// Receives the number of clients that the message reached.
    count: oneshot::Sender<u64>,
}

/// Queue of messages to one other member.
struct Courier {
    letters: mpsc::Sender<Letter>,
    /// Whether the member answered the last call; publishers do not wait for the count of one that did not.
    answers: Arc<AtomicBool>,
}

/// Queues of messages to the other members, by id.
#[derive(Default)]
pub struct Couriers(Mutex<HashMap<u64, Courier>>);

impl Node {
    /// Publishes a message on all members; returns the number of clients that it is known to have reached within
    /// `COUNT_TIMEOUT`.
    pub(super) async fn publish_to_all(&self, channel: Bytes, payload: Bytes) -> u64 {
        let mut count = self.inner().broker.publish(&channel, &payload);
        let Some(member) = self.member() else { return count };
        let status = member.raft.status();
        let publication = Publication { channel, payload };
        let others = status.membership.members.iter().map(|other| other.id).filter(|id| *id != member.id);
        let waiting: Vec<_> = others.filter_map(|id| self.send_letter(id, publication.clone())).collect();
        let deadline = Instant::now() + COUNT_TIMEOUT;
        for answer in waiting {
            if let Ok(Ok(reached)) = timeout_at(deadline, answer).await {
                count += reached;
            }
        }
        count
    }

    /// Queues a message for a member; returns the receiver of its count, or `None` if there is no point in waiting.
    fn send_letter(&self, id: u64, publication: Publication) -> Option<oneshot::Receiver<u64>> {
        let (count, answer) = oneshot::channel();
        let mut couriers = self.inner().couriers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if couriers.get(&id).is_none_or(|courier| courier.letters.is_closed()) {
            // Also drops the queues of removed members.
            couriers.retain(|_, courier| !courier.letters.is_closed());
            couriers.insert(id, self.start_courier(id));
        }
        let courier = couriers.get(&id)?;
        let is_sent = courier.letters.try_send(Letter { publication, count }).is_ok();
        (is_sent && courier.answers.load(Ordering::Relaxed)).then_some(answer)
    }

    fn start_courier(&self, id: u64) -> Courier {
        let (sender, letters) = mpsc::channel(MAX_WAITING);
        let answers = Arc::new(AtomicBool::new(true));
        tokio::spawn(self.clone().deliver(id, letters, answers.clone()));
        Courier { letters: sender, answers }
    }

    async fn deliver(self, id: u64, mut letters: mpsc::Receiver<Letter>, answers: Arc<AtomicBool>) {
        while let Ok(Some(first)) = timeout(IDLE, letters.recv()).await {
            let (publications, counts) = batch(first, &mut letters);
            let sent = timeout(SEND_TIMEOUT, self.send_publications(id, publications)).await;
            answers.store(matches!(sent, Ok(Ok(_))), Ordering::Relaxed);
            // No retry: a failed call may have been delivered.
            let Ok(Ok(reached)) = sent else { continue };
            for (count, reached) in counts.into_iter().zip(reached) {
                // The publisher may have given up waiting.
                let _ = count.send(reached);
            }
        }
    }

    async fn send_publications(&self, id: u64, publications: Vec<Publication>) -> Result<Vec<u64>, Error> {
        let member = self.active()?;
        let status = member.raft.status();
        let channel = self.channel_to(&status, id)?;
        let mut peer = PeerClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
        let from = self.handshake_to(&status, id);
        let request = PublishRequest { cluster_id: member.cluster_id.clone(), publications, from };
        let answer = peer.publish(request).await.map_err(|status| helios_proto::detail_of(&status))?;
        Ok(answer.into_inner().reached)
    }

    /// Delivers messages from another member to this member's subscribers; never forwards them.
    pub(crate) fn take_publications(&self, request: &PublishRequest) -> Result<Vec<u64>, Error> {
        self.active_in(&request.cluster_id)?;
        let publish = |publication: &Publication| {
            self.inner().broker.publish(&publication.channel, &publication.payload)
        };
        Ok(request.publications.iter().map(publish).collect())
    }
}

/// Takes the waiting messages, up to the limits of one call.
fn batch(
    first: Letter,
    letters: &mut mpsc::Receiver<Letter>,
) -> (Vec<Publication>, Vec<oneshot::Sender<u64>>) {
    let (mut publications, mut counts, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut next = Some(first);
    while let Some(Letter { publication, count }) = next {
        bytes += publication.channel.len() + publication.payload.len();
        publications.push(publication);
        counts.push(count);
        let has_room = publications.len() < MAX_PUBLICATIONS && bytes < MAX_BATCH_BYTES;
        next = if has_room { letters.try_recv().ok() } else { None };
    }
    (publications, counts)
}
