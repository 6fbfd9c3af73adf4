//! Messages from peers. Those are dropped at which the raft crate would panic, or which it would accept although this
//! member must not (ADR 0006).

use std::time::Instant;

use raft::eraftpb::{Message, MessageType};

use super::super::{Core, Effect};
use crate::membership;

impl Core {
    pub(in crate::core) fn step_all(&mut self, messages: Vec<Message>, now: Instant) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgAppend
                && !message.entries.is_empty()
                && !self.has_room_for(&message.entries)
            {
                self.admission.dropped = after_entries(message);
                continue;
            }
            if self.breaks_boot_quiet(&message, now) {
                continue;
            }
            if self.pipeline.is_restoring() && message.get_msg_type() == MessageType::MsgTimeoutNow {
                continue;
            }
            if self.contradicts_committed(&message) {
                tracing::error!(
                    from = message.from,
                    "snapshot dropped: it contradicts a committed entry of this member"
                );
                continue;
            }
            self.members.record_message(message.from, now);
            if self.has_lost_entries(&message) {
                return;
            }
            self.elections.record_vote(&self.raft, &message);
            if message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject {
                let Message { from: peer, index: match_index, term, .. } = message;
                tracing::debug!(peer, match_index, term, "log replicated to peer");
            }
            if let Err(error) = self.raft.step(message) {
                tracing::debug!(%error, "message rejected by the raft crate");
            }
        }
    }

    /// Steps an append without entries in place of the ones that were dropped, once there is room again: this member rejects
    /// it, and so reports to the leader which entry it needs. A leader that waits for the acknowledgement of what it has
    /// sent would not notice the loss otherwise.
    pub(in crate::core) fn reject_dropped(&mut self, now: Instant) {
        if self.admission.dropped.is_some()
            && self.has_much_room()
            && let Some(append) = self.admission.dropped.take()
        {
            self.step_all(vec![append], now);
        }
    }

    /// Whether a heartbeat proves that this disk lost entries: a leader sends a follower no commit index above the last
    /// entry that the follower acknowledged. The raft crate would panic; the process ends with the reason instead.
    fn has_lost_entries(&mut self, message: &Message) -> bool {
        let raft = &self.raft;
        let last = raft.last_index();
        let is_lost = message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= raft.term()
            && message.commit > last;
        if is_lost {
            let from = membership::name_of(&self.membership, message.from).unwrap_or_default();
            self.effects.push(Effect::Lost(format!(
                "leader {from} recorded entry {} as acknowledged by this member, but the local log ends at {last}: the disk \
                 lost synced data or is an older copy; remove the member and let it rejoin with an \
                 empty data directory",
                message.commit
            )));
        }
        is_lost
    }

    /// Whether `message` is a snapshot whose last entry differs from the entry committed here at the same index. The
    /// raft crate would install it if that is the commit index (docs/design/node.md, pitfall 13).
    fn contradicts_committed(&self, message: &Message) -> bool {
        let metadata = message.get_snapshot().get_metadata();
        let raft = &self.raft;
        message.get_msg_type() == MessageType::MsgSnapshot
            && metadata.index <= raft.commit_index()
            && raft.term_of(metadata.index).is_some_and(|term| term != metadata.term)
    }
}

/// Returns `append` without its entries, at the position after them.
fn after_entries(mut append: Message) -> Option<Message> {
    let last = append.entries.pop()?;
    append.entries.clear();
    Some(Message { index: last.index, log_term: last.term, ..append })
}
