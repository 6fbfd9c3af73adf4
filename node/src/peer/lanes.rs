//! Two connections (lanes) to each peer, so that the messages that keep a leader in office never wait behind
//! replication: heartbeats, votes and read rounds use one, appends and their responses the other.
//!
//! Raft accepts messages in any order, and no heartbeat depends on an append: it lets a follower commit no more than
//! the follower has acknowledged.

use std::sync::{Arc, Mutex, PoisonError};

use helios_proto::v1::Lane as Kind;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{Notify, mpsc};

/// Limit of messages taken from a queue at once.
const MAX_BATCH: usize = 128;

/// Messages that wait for one connection to a peer.
pub enum Lane {
    Log(mpsc::Receiver<Message>),
    Pulse(Arc<Pulse>),
}

impl Lane {
    pub fn kind(&self) -> Kind {
        match self {
            Lane::Log(_) => Kind::Log,
            Lane::Pulse(_) => Kind::Pulse,
        }
    }

    /// Returns the name of the lane for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Lane::Log(_) => "log",
            Lane::Pulse(_) => "heartbeats",
        }
    }

    /// Returns the number of frames encoded ahead of the connection. Few for heartbeats, as one that is not encoded yet
    /// can be replaced by the next.
    pub fn frames_ahead(&self) -> usize {
        match self {
            Lane::Log(_) => 4,
            Lane::Pulse(_) => 1,
        }
    }

    /// Waits for messages and returns those that wait. Cancel safe.
    pub async fn next(&mut self) -> Vec<Message> {
        match self {
            Lane::Log(queue) => {
                let mut batch = Vec::with_capacity(MAX_BATCH);
                if queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                    // The link was dropped, which aborts this task.
                    std::future::pending::<()>().await;
                }
                batch
            }
            Lane::Pulse(pulse) => pulse.next().await,
        }
    }

    /// Drops the waiting messages, which are of no use to a later connection.
    pub fn clear(&mut self) {
        match self {
            Lane::Log(queue) => while queue.try_recv().is_ok() {},
            Lane::Pulse(pulse) => drop(pulse.take()),
        }
    }
}

/// Latest message of each type: a waiting message is replaced by its successor, which supersedes it. So there are never
/// more messages than types.
#[derive(Default)]
pub struct Pulse {
    waiting: Mutex<Vec<Message>>,
    arrived: Notify,
}

impl Pulse {
    /// Whether `message` belongs to the heartbeat lane.
    pub fn carries(message: &Message) -> bool {
        use MessageType::*;
        matches!(
            message.get_msg_type(),
            MsgHeartbeat
                | MsgHeartbeatResponse
                | MsgRequestVote
                | MsgRequestVoteResponse
                | MsgRequestPreVote
                | MsgRequestPreVoteResponse
                | MsgReadIndex
                | MsgReadIndexResp
                | MsgTimeoutNow
        )
    }

    pub fn push(&self, message: Message) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|other| other.msg_type != message.msg_type);
        waiting.push(message);
        drop(waiting);
        self.arrived.notify_one();
    }

    async fn next(&self) -> Vec<Message> {
        loop {
            let found = self.take();
            if !found.is_empty() {
                return found;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, term: u64) -> Message {
        let mut message = Message { term, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[tokio::test]
    async fn a_heartbeat_that_waits_is_replaced_by_its_successor() {
        let pulse = Pulse::default();
        for term in 1..=1_000 {
            pulse.push(message(MessageType::MsgHeartbeat, term));
            pulse.push(message(MessageType::MsgRequestVoteResponse, term));
        }
        let found: Vec<_> =
            pulse.next().await.iter().map(|found| (found.get_msg_type(), found.term)).collect();
        assert_eq!(found, [(MessageType::MsgHeartbeat, 1_000), (MessageType::MsgRequestVoteResponse, 1_000)]);
        assert!(pulse.take().is_empty());
    }

    #[tokio::test]
    async fn a_waiting_lane_is_notified_of_a_new_message() {
        let pulse = Arc::new(Pulse::default());
        let mut lane = Lane::Pulse(Arc::clone(&pulse));
        let waiting = tokio::spawn(async move { lane.next().await });
        tokio::task::yield_now().await;
        pulse.push(message(MessageType::MsgHeartbeat, 1));
        assert_eq!(waiting.await.unwrap().len(), 1);
    }

    #[test]
    fn messages_with_entries_do_not_use_the_heartbeat_lane() {
        for kind in [MessageType::MsgAppend, MessageType::MsgAppendResponse, MessageType::MsgSnapshot] {
            assert!(!Pulse::carries(&message(kind, 1)), "{kind:?}");
        }
    }
}
