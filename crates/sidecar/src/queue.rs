//! The requests of one client that are not answered yet, in their order, and what becomes of them when the connection to
//! the member is lost (pure).

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use helios_proto::Error;
use helios_redis::frame::{Frame, Protocol};

use crate::replica::Reason;
use crate::request::{Kind, Setting};
use crate::session::{Session, Transaction};

/// Number of connections that a request is sent on, at most.
const MAX_TRIES: u8 = 32;
/// Bytes charged for a request beside its words.
const ENTRY_BYTES: usize = size_of::<Entry>();

pub const TRANSACTION_LOST: &str =
    "TRYAGAIN the connection to the member was lost within the transaction: nothing of it is executed";
const EXEC_ABORT: &str = "EXECABORT Transaction discarded because of previous errors.";
const READ_LOST: &str = "TRYAGAIN the connection to the member was lost before the reply";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No member has got it.
    Unsent,
    /// Handed to the socket up to this offset of the connection's bytes.
    Sent { end: u64 },
    /// The reply, which the sidecar gives itself.
    Ready(Bytes),
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub words: Vec<Bytes>,
    pub kind: Kind,
    /// Whether it is within a transaction, `MULTI` and `EXEC` included.
    pub in_transaction: bool,
    pub is_silent: bool,
    /// `EXEC` after a lost watch: a member gets `DISCARD`, and the client the reply of a transaction that did not execute.
    pub is_void: bool,
    /// Whether the sidecar requests the log index of its reply; in Replica mode only.
    pub is_observed: bool,
    /// Why a member answers it.
    pub reason: Reason,
    pub state: State,
    pub arrived: Instant,
    pub tries: u8,
}

impl Entry {
    pub fn new(kind: Kind, words: Vec<Bytes>, arrived: Instant) -> Self {
        Self {
            words,
            kind,
            in_transaction: false,
            is_silent: false,
            is_void: false,
            is_observed: false,
            reason: Reason::ProxyMode,
            state: State::Unsent,
            arrived,
            tries: 0,
        }
    }

    /// Returns a request that the sidecar answers itself.
    pub fn answered(kind: Kind, reply: &Frame, protocol: Protocol) -> Self {
        let mut entry = Self::new(kind, Vec::new(), Instant::now());
        entry.answer(reply, protocol);
        entry
    }

    pub fn answer(&mut self, reply: &Frame, protocol: Protocol) {
        let mut text = BytesMut::new();
        if !self.is_silent {
            reply.encode(protocol, &mut text);
        }
        self.words = Vec::new();
        self.state = State::Ready(text.freeze());
    }

    /// Suppresses the reply that the sidecar gives.
    pub fn silence(&mut self) {
        self.is_silent = true;
        self.state = State::Ready(Bytes::new());
    }

    /// Whether an error that says that nothing was executed can be trusted: a script chooses its own errors.
    pub fn may_be_refused(&self) -> bool {
        !matches!(self.kind, Kind::Script | Kind::Internal | Kind::Position | Kind::Subscribe)
    }

    /// Whether its reply shows the state of keys.
    pub fn shows_state(&self) -> bool {
        match self.kind {
            Kind::Exec => true,
            Kind::Read | Kind::Write | Kind::Script | Kind::Watch | Kind::Setting(Setting::Token) => {
                !self.in_transaction
            }
            _ => false,
        }
    }

    /// Whether the sidecar sends it for itself.
    pub fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Internal | Kind::Position)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.words.iter().map(|word| word.len() + size_of::<Bytes>()).sum::<usize>()
    }
}

/// Errors that a member answers with when it has not executed the request and another member may.
pub fn is_refusal(error: &[u8]) -> bool {
    const WORDS: [&[u8]; 5] = [b"LOADING ", b"CLUSTERDOWN ", b"TRYAGAIN ", b"READONLY ", b"NOAUTH "];
    WORDS.iter().any(|word| error.starts_with(word))
}

/// Number of requests by what became of them when the member was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    pub unknown: u64,
    pub repeated: u64,
    pub transactions: u64,
}

#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    /// Leading requests that the member refused, with its errors, while a later one may still be executed.
    refused: VecDeque<(Entry, Bytes)>,
    bytes: usize,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.entries.len() + self.refused.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes that the requests hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Whether nothing waits for a member.
    pub fn is_answered(&self) -> bool {
        self.refused.is_empty() && self.entries.iter().all(|entry| matches!(entry.state, State::Ready(_)))
    }

    /// Whether a member has not answered yet to a request that chooses what reads see.
    pub fn chooses_level(&self) -> bool {
        let is_unanswered = |entry: &Entry| !matches!(entry.state, State::Ready(_));
        let entries = self.refused.iter().map(|(entry, _)| entry).chain(&self.entries);
        entries
            .filter(|entry| is_unanswered(entry))
            .any(|entry| entry.kind == Kind::Setting(Setting::Freshness))
    }

    /// Whether the last request must be answered before another one is accepted.
    pub fn is_held(&self) -> bool {
        self.entries.back().is_some_and(|entry| matches!(entry.kind, Kind::Subscribe | Kind::Reset))
    }

    pub fn head(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Takes the request at the head with its reply, if the sidecar gives it and no refused request waits before it.
    pub fn take_ready(&mut self) -> Option<(Kind, Bytes)> {
        if !self.refused.is_empty() || !matches!(self.head()?.state, State::Ready(_)) {
            return None;
        }
        let entry = self.pop()?;
        match entry.state {
            State::Ready(reply) => Some((entry.kind, reply)),
            State::Unsent | State::Sent { .. } => None,
        }
    }

    /// Returns the requests to send, if no refused one has to be sent first.
    pub fn unsent(&mut self) -> impl Iterator<Item = &mut Entry> {
        let begin = if self.refused.is_empty() { self.first_unsent() } else { self.entries.len() };
        self.entries.range_mut(begin..).filter(|entry| entry.state == State::Unsent)
    }

    pub fn has_unsent(&self) -> bool {
        self.refused.is_empty()
            && self.entries.range(self.first_unsent()..).any(|entry| entry.state == State::Unsent)
    }

    /// Requests are sent in order, so that none before the last one that was sent is unsent.
    fn first_unsent(&self) -> usize {
        let is_sent = |entry: &Entry| matches!(entry.state, State::Sent { .. });
        self.entries.iter().rposition(is_sent).map_or(0, |at| at + 1)
    }

    pub fn has_sent(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Sent { .. }))
    }

    /// Records that the member refused the request at the head.
    pub fn refuse(&mut self, error: Bytes) {
        if let Some(entry) = self.entries.pop_front() {
            self.refused.push_back((entry, error));
        }
    }

    pub fn refused(&self) -> Option<&Entry> {
        self.refused.front().map(|(entry, _)| entry)
    }

    /// Gives the client the errors of the refused requests: a later one was executed, or there is no time for a retry.
    pub fn deliver_refused(&mut self) {
        while let Some((mut entry, error)) = self.refused.pop_back() {
            self.bytes -= entry.bytes();
            entry.words = Vec::new();
            entry.state = State::Ready(if entry.is_silent { Bytes::new() } else { error });
            self.bytes += entry.bytes();
            self.entries.push_front(entry);
        }
    }

    /// Makes the refused requests the next to be sent; returns false, and delivers the errors, if they were sent too
    /// often.
    pub fn retry_refused(&mut self) -> bool {
        if self.refused.iter().any(|(entry, _)| entry.tries >= MAX_TRIES) {
            self.deliver_refused();
            return false;
        }
        while let Some((mut entry, _)) = self.refused.pop_back() {
            entry.state = State::Unsent;
            self.entries.push_front(entry);
        }
        true
    }

    /// Decides about each request when the connection is lost whose socket took `written` bytes: what was not sent
    /// completely, and reads, are sent to another member; a write of unknown fate is answered so.
    pub fn lose(&mut self, written: u64, session: &mut Session) -> Lost {
        self.deliver_refused();
        self.entries.retain(|entry| !entry.is_own());
        let protocol = protocol(session);
        let mut lost = Lost::default();
        let mut unknown_follows = false;
        // Whether the EXEC of the transaction that the next entries are in, from the last one on, was sent.
        let mut exec_sent = false;
        for entry in self.entries.iter_mut().rev() {
            let State::Sent { end } = entry.state else { continue };
            let is_sent = end <= written;
            if entry.in_transaction {
                if matches!(entry.kind, Kind::Exec | Kind::Discard) {
                    exec_sent = is_sent && entry.kind == Kind::Exec && !entry.is_void;
                    lost.transactions += u64::from(!exec_sent);
                    lost.unknown += u64::from(exec_sent);
                    unknown_follows |= exec_sent;
                }
                entry.answer(&in_lost_transaction(entry, exec_sent), protocol);
                if entry.kind == Kind::Multi {
                    exec_sent = false;
                }
                continue;
            }
            let may_repeat = match entry.kind {
                Kind::Write | Kind::Script => false,
                // Its reply would depend on writes that the new member does not know.
                Kind::LastWrite | Kind::Seen => !is_sent,
                _ => !unknown_follows,
            };
            if !is_sent || may_repeat && entry.tries < MAX_TRIES {
                entry.state = State::Unsent;
                lost.repeated += u64::from(is_sent);
            } else if matches!(entry.kind, Kind::Write | Kind::Script) {
                unknown_follows = true;
                lost.unknown += 1;
                entry.answer(&Error::outcome_unknown().into(), protocol);
            } else {
                entry.answer(&Frame::error(READ_LOST), protocol);
            }
        }
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        lost.transactions += u64::from(session.transaction == Transaction::Open);
        session.lose();
        lost
    }

    /// Answers the reads that were refused, or that no member has got, with what `read` returns for their words.
    pub fn answer_unanswered(&mut self, protocol: Protocol, mut read: impl FnMut(&[Bytes]) -> Option<Frame>) {
        let is_read = |entry: &Entry| entry.kind == Kind::Read && !entry.in_transaction;
        for (entry, reply) in self.refused.iter_mut().filter(|(entry, _)| is_read(entry)) {
            if let Some(frame) = read(&entry.words) {
                let mut text = BytesMut::new();
                frame.encode(protocol, &mut text);
                *reply = text.freeze();
            }
        }
        let unsent = self.entries.iter_mut().filter(|entry| entry.state == State::Unsent);
        for entry in unsent.filter(|entry| is_read(entry)) {
            if let Some(frame) = read(&entry.words) {
                entry.answer(&frame, protocol);
            }
        }
        self.bytes = self.refused.iter().map(|(entry, _)| entry).chain(&self.entries).map(Entry::bytes).sum();
    }

    /// Answers the requests that no member has got with an error; returns their number.
    pub fn fail_unsent(&mut self, error: &Frame, session: &mut Session) -> u64 {
        let protocol = protocol(session);
        let mut count = 0;
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Unsent) {
            entry.answer(error, protocol);
            count += 1;
        }
        self.entries.retain(|entry| !entry.is_own());
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        session.lose();
        count
    }
}

pub fn protocol(session: &Session) -> Protocol {
    if session.is_resp3 { Protocol::Resp3 } else { Protocol::Resp2 }
}

fn in_lost_transaction(entry: &Entry, exec_sent: bool) -> Frame {
    match entry.kind {
        Kind::Multi | Kind::Discard => Frame::OK,
        _ if exec_sent => Error::outcome_unknown().into(),
        Kind::Exec => Frame::error(EXEC_ABORT),
        _ => Frame::error(TRANSACTION_LOST),
    }
}

/// Returns the reply to a request within a transaction whose member is lost; `None`: a member gets the request.
pub fn after_loss(kind: Kind, session: &mut Session) -> Option<Frame> {
    if session.transaction != Transaction::Lost {
        return None;
    }
    let reply = match kind {
        Kind::Reset | Kind::Quit | Kind::Http => return None,
        Kind::Exec => Frame::error(EXEC_ABORT),
        Kind::Discard => Frame::OK,
        Kind::Multi => return Some(Frame::error("ERR MULTI calls can not be nested")),
        _ => return Some(Frame::error(TRANSACTION_LOST)),
    };
    session.transaction = Transaction::None;
    session.watch = crate::session::Watch::None;
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a queue of requests of one byte each, in a transaction if so marked.
    fn queue(entries: &[(Kind, bool)]) -> Queue {
        let mut queue = Queue::default();
        for (at, (kind, in_transaction)) in entries.iter().enumerate() {
            let mut entry = Entry::new(*kind, vec!["x".into()], Instant::now());
            (entry.in_transaction, entry.state) = (*in_transaction, State::Sent { end: at as u64 + 1 });
            queue.push(entry);
        }
        queue
    }

    fn states(queue: &mut Queue) -> Vec<String> {
        let shown = |entry: &Entry| match &entry.state {
            State::Unsent => "unsent".to_owned(),
            State::Sent { .. } => "sent".to_owned(),
            State::Ready(reply) => {
                String::from_utf8_lossy(reply).split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ")
            }
        };
        queue.entries.iter().map(shown).collect()
    }

    const UNKNOWN: &str = "-ERR outcome";

    #[test]
    fn only_what_was_not_sent_and_reads_are_sent_again() {
        let mut queue = queue(&[(Kind::Write, false), (Kind::Read, false), (Kind::Write, false)]);
        let lost = queue.lose(2, &mut Session::default());
        assert_eq!(states(&mut queue), [UNKNOWN, "unsent", "unsent"]);
        assert_eq!(lost, Lost { unknown: 1, repeated: 1, transactions: 0 });
    }

    #[test]
    fn a_read_before_a_write_of_unknown_fate_is_not_repeated() {
        let mut queue = queue(&[(Kind::Read, false), (Kind::Script, false), (Kind::Read, false)]);
        queue.lose(3, &mut Session::default());
        assert_eq!(states(&mut queue), ["-TRYAGAIN the", UNKNOWN, "unsent"]);
    }

    #[test]
    fn a_transaction_is_unknown_if_its_exec_was_sent_and_else_discarded() {
        let whole = [(Kind::Multi, true), (Kind::Write, true), (Kind::Exec, true)];
        let mut sent = queue(&whole);
        assert_eq!(sent.lose(3, &mut Session::default()).unknown, 1);
        assert_eq!(states(&mut sent), ["+OK", UNKNOWN, UNKNOWN]);
        let mut partly = queue(&whole);
        assert_eq!(partly.lose(2, &mut Session::default()).unknown, 0);
        assert_eq!(states(&mut partly), ["+OK", "-TRYAGAIN the", "-EXECABORT Transaction"]);
        let mut session = Session { transaction: Transaction::Open, ..Session::default() };
        let mut open = queue(&[&whole[..], &whole[..2]].concat());
        open.lose(9, &mut session);
        assert_eq!(states(&mut open), ["+OK", UNKNOWN, UNKNOWN, "+OK", "-TRYAGAIN the"]);
        assert!(after_loss(Kind::Read, &mut session).is_some());
        assert_eq!(after_loss(Kind::Exec, &mut session), Some(Frame::error(EXEC_ABORT)));
        assert_eq!(after_loss(Kind::Exec, &mut session), None);
    }

    #[test]
    fn refused_requests_are_sent_again_only_if_no_later_one_was_executed() {
        let error = || Bytes::from_static(b"-LOADING x\r\n");
        let mut refused = queue(&[(Kind::Write, false), (Kind::Write, false)]);
        refused.refuse(error());
        refused.refuse(error());
        assert!(refused.retry_refused());
        assert_eq!(states(&mut refused), ["unsent", "unsent"]);
        let mut mixed = queue(&[(Kind::Write, false), (Kind::Write, false)]);
        mixed.refuse(error());
        assert!(mixed.unsent().next().is_none() && mixed.take_ready().is_none());
        mixed.deliver_refused();
        assert_eq!(mixed.take_ready(), Some((Kind::Write, error())));
        assert!(mixed.bytes() > 0);
        mixed.pop();
        assert_eq!((mixed.bytes(), mixed.len()), (0, 0));
    }

    #[test]
    fn reads_that_no_member_answered_may_be_answered_here_and_nothing_else() {
        let error = || Bytes::from_static(b"-CLUSTERDOWN x\r\n");
        let mut queue =
            queue(&[(Kind::Read, false), (Kind::Write, false), (Kind::Read, false), (Kind::Read, true)]);
        queue.refuse(error());
        queue.refuse(error());
        queue.entries.iter_mut().for_each(|entry| entry.state = State::Unsent);
        let mut count = 0;
        queue.answer_unanswered(Protocol::Resp2, |_| {
            count += 1;
            Some(Frame::OK)
        });
        queue.deliver_refused();
        assert_eq!(
            (count, states(&mut queue)),
            (2, ["+OK", "-CLUSTERDOWN x", "+OK", "unsent"].map(str::to_owned).to_vec())
        );
        while queue.pop().is_some() {}
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_request_moves_a_limited_number_of_times() {
        let mut queue = queue(&[(Kind::Read, false)]);
        queue.entries[0].tries = MAX_TRIES;
        queue.lose(1, &mut Session::default());
        assert_eq!(states(&mut queue), ["-TRYAGAIN the"]);
    }

    #[test]
    fn errors_of_requests_that_were_not_executed_are_recognised() {
        assert!(is_refusal(b"LOADING wait") && is_refusal(b"CLUSTERDOWN x") && is_refusal(b"READONLY You"));
        assert!(
            !is_refusal(b"ERR outcome unknown: x") && !is_refusal(b"LOADINGS x") && !is_refusal(b"BUSY x")
        );
    }
}
