//! Contacts with each peer: time of its last message, round trips of heartbeats, and failed connects.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft::eraftpb::{Message, MessageType};

/// Longest round trip. An answer that arrives later belongs to a later heartbeat than the oldest unanswered one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Contacts by member id, of each member that this process has sent to or received from.
#[derive(Debug, Default)]
pub struct Contacts(Mutex<HashMap<u64, Contact>>);

#[derive(Debug, Default)]
struct Contact {
    heard: Option<Instant>,
    /// Time of the oldest unanswered heartbeat. Later ones are not recorded, so that a round trip is never too short.
    asked: Option<Instant>,
    failures: u64,
}

/// State of the connection to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub id: u64,
    /// Time since its last message; `None`: there was none yet.
    pub silence: Option<Duration>,
    /// Failed attempts to connect since the last success.
    pub consecutive_errors: u64,
}

impl Contacts {
    /// Records a message that is sent to member `message.to`.
    pub fn sent(&self, message: &Message, now: Instant) {
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            let mut contacts = self.lock();
            let contact = contacts.entry(message.to).or_default();
            if contact.asked.is_none_or(|asked| now.duration_since(asked) > FORGOTTEN_AFTER) {
                contact.asked = Some(now);
            }
        }
    }

    /// Records messages from member `from`. Returns the round trip of a heartbeat, if they contain an answer to one.
    pub fn heard(&self, from: u64, messages: &[Message], now: Instant) -> Option<Duration> {
        let mut contacts = self.lock();
        let contact = contacts.entry(from).or_default();
        contact.heard = Some(now);
        let is_answer = |message: &Message| message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        let asked = messages.iter().any(is_answer).then(|| contact.asked.take()).flatten()?;
        Some(now.duration_since(asked)).filter(|took| *took <= FORGOTTEN_AFTER)
    }

    /// Records a failed attempt to connect to `peer`.
    pub fn failed(&self, peer: u64) {
        self.lock().entry(peer).or_default().failures += 1;
    }

    /// Records a connection to `peer`.
    pub fn linked(&self, peer: u64) {
        self.lock().entry(peer).or_default().failures = 0;
    }

    pub fn heard_of(&self) -> Vec<Heard> {
        let of = |(id, contact): (&u64, &Contact)| Heard {
            id: *id,
            silence: contact.heard.map(|heard| heard.elapsed()),
            consecutive_errors: contact.failures,
        };
        self.lock().iter().map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Contact>> {
        // A panic in a critical section leaves the map consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType) -> Message {
        let mut message = Message { to: 2, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn an_answer_is_timed_from_the_oldest_heartbeat_that_waits_for_one() {
        let (contacts, start) = (Contacts::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        contacts.sent(&message(MessageType::MsgHeartbeat), at(0));
        contacts.sent(&message(MessageType::MsgHeartbeat), at(100));
        assert_eq!(contacts.heard(2, &[message(MessageType::MsgAppendResponse)], at(120)), None);
        let answer = [message(MessageType::MsgHeartbeatResponse)];
        assert_eq!(contacts.heard(2, &answer, at(130)), Some(Duration::from_millis(130)));
        assert_eq!(contacts.heard(2, &answer, at(140)), None, "the answer to the second");
        contacts.sent(&message(MessageType::MsgHeartbeat), at(200));
        assert_eq!(contacts.heard(2, &answer, at(20_000)), None, "after a break of the link");
        assert_eq!(contacts.heard_of().len(), 1);
    }

    #[test]
    fn failures_in_a_row_are_counted_until_one_attempt_succeeds() {
        let contacts = Contacts::default();
        let errors = || contacts.heard_of().first().map(|heard| heard.consecutive_errors);
        contacts.failed(2);
        contacts.failed(2);
        assert_eq!(errors(), Some(2));
        contacts.linked(2);
        assert_eq!(errors(), Some(0));
        assert_eq!(contacts.heard_of()[0].silence, None, "a peer without a message has no last contact");
    }
}
