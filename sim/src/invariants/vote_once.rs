//! One vote for each term (Raft paper, 5.2): a member votes for at most one candidate in a term, itself included, before
//! and after restarts.

use std::collections::BTreeMap;

use raft::eraftpb::{Message, MessageType};

use super::violated;
use crate::Violation;

#[derive(Default)]
pub struct VoteOnce {
    /// Candidate by voter and term.
    votes: BTreeMap<(u64, u64), u64>,
}

impl VoteOnce {
    pub fn on_send(&mut self, message: &Message) -> Result<(), Violation> {
        let (voter, candidate) = match message.get_msg_type() {
            MessageType::MsgRequestVote => (message.from, message.from),
            MessageType::MsgRequestVoteResponse if !message.reject => (message.from, message.to),
            _ => return Ok(()),
        };
        let term = message.term;
        match self.votes.insert((voter, term), candidate) {
            Some(earlier) if earlier != candidate => Err(violated(
                "one vote for each term",
                format!("member {voter} voted for {earlier} and for {candidate} in term {term}"),
            )),
            _ => Ok(()),
        }
    }

    pub fn forget_from(&mut self, term: u64) {
        self.votes.retain(|(_, voted), _| *voted < term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
        let mut message = Message { from, to, term, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn second_vote_of_a_member_in_a_term_is_a_violation() {
        let mut votes = VoteOnce::default();
        let granted = |to, term| vote(MessageType::MsgRequestVoteResponse, 1, to, term);
        votes.on_send(&granted(2, 5)).unwrap();
        votes.on_send(&granted(2, 5)).unwrap();
        votes.on_send(&granted(3, 6)).unwrap();
        votes.on_send(&Message { reject: true, ..granted(3, 5) }).unwrap();
        votes.on_send(&granted(3, 5)).unwrap_err();
    }

    #[test]
    fn candidate_that_votes_for_another_is_a_violation() {
        let mut votes = VoteOnce::default();
        votes.on_send(&vote(MessageType::MsgRequestVote, 1, 2, 5)).unwrap();
        votes.on_send(&vote(MessageType::MsgRequestVoteResponse, 1, 3, 5)).unwrap_err();
    }
}
