//! Replies of the member: which request each answers, and whether the client gets it.

use std::io;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use helios_proto::v1::Token;
use helios_redis::frame::Frame;
use helios_service::token;

use super::{Connection, REFUSED_PAUSE};
use crate::level::{LINEARIZABLE, is_session};
use crate::queue::{Entry, Queue, State, is_refusal, protocol};
use crate::reply::{Prelude, Scanner, prelude};
use crate::request::Kind;
use crate::session::Session;

const SUBSCRIPTION_WORDS: [&[u8]; 4] = [b"subscribe", b"psubscribe", b"unsubscribe", b"punsubscribe"];

/// A reply that has begun to arrive.
pub struct Incoming {
    scanner: Scanner,
    target: Target,
    is_error: bool,
    /// Bytes that the client got.
    forwarded: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// The reply to the request at the head.
    Client,
    /// The same, for a request without a reply or with another one.
    Nowhere,
    /// A message, which answers no request.
    Message,
    /// A part of the reply to SUBSCRIBE, with the number of subscriptions.
    Subscription,
    /// The end of the reply to SUBSCRIBE.
    Fence,
    /// An error that says that the request at the head was not executed.
    Refusal(BytesMut),
    /// The index of what was read or written so far; `None`: the member does not know it.
    Position(Option<Token>),
}

/// Returns where a reply goes; `None` if it answers nothing.
fn target(begin: Prelude<'_>, queue: &Queue, session: &Session, fence: &str) -> Option<Target> {
    let is_subscription = SUBSCRIPTION_WORDS.contains(&begin.word);
    let head = queue.head().filter(|head| matches!(head.state, State::Sent { .. }));
    let is_subscribing = head.is_some_and(|head| head.kind == Kind::Subscribe && !head.in_transaction);
    if begin.kind == b'>' {
        return Some(if is_subscription && is_subscribing { Target::Subscription } else { Target::Message });
    }
    let is_message = matches!(begin.word, b"message" | b"pmessage");
    if begin.kind == b'*' && is_message && !session.is_resp3 && session.subscriptions > 0 {
        return Some(Target::Message);
    }
    let head = head?;
    if is_subscribing {
        return match begin.kind {
            b'-' if begin.word.starts_with(b"NOAUTH ") => None,
            b'*' if is_subscription => Some(Target::Subscription),
            // In RESP2, a client with subscriptions gets the PONG as a message.
            b'*' if begin.word == b"pong" => Some(Target::Fence),
            b'$' if begin.word == fence.as_bytes() => Some(Target::Fence),
            _ => Some(Target::Message),
        };
    }
    if begin.is_error() && head.may_be_refused() && !head.in_transaction && is_refusal(begin.word) {
        return Some(Target::Refusal(BytesMut::new()));
    }
    if head.kind == Kind::Position {
        let text = (begin.kind == b'$').then(|| std::str::from_utf8(begin.word).ok()).flatten();
        return Some(Target::Position(text.and_then(token::parse)));
    }
    let is_hidden = head.kind == Kind::Internal || head.is_void || head.is_silent;
    Some(if is_hidden { Target::Nowhere } else { Target::Client })
}

impl Connection {
    /// Passes the replies on that have arrived; returns whether there was one.
    pub(super) fn receive(&mut self) -> io::Result<bool> {
        let mut has_received = false;
        loop {
            has_received |= self.answer_ready();
            match self.receive_part() {
                Ok(true) => has_received = true,
                Ok(false) => break,
                Err(reason) => {
                    self.lost = Some(reason);
                    break;
                }
            }
        }
        if let Some(reason) = self.lost.take() {
            self.lose(&reason)?;
            has_received = true;
        }
        Ok(has_received)
    }

    /// Passes a part of a reply on; returns whether it was completed. An error: the connection is of no use.
    fn receive_part(&mut self) -> Result<bool, String> {
        let malformed = |_| "the member's bytes are no replies".to_owned();
        if self.incoming.is_none() {
            self.deliver_refused_before_own();
            let Some(upstream) = &mut self.upstream else { return Ok(false) };
            let Some(begin) = prelude(&upstream.input).map_err(malformed)? else { return Ok(false) };
            let is_error = begin.is_error();
            let is_certain = !is_error || begin.word.starts_with(b"WRONGTYPE ");
            let target = target(begin, &self.queue, &self.session, &self.shared.fence)
                .ok_or_else(|| String::from_utf8_lossy(begin.word).into_owned())?;
            match target {
                Target::Client | Target::Nowhere => self.observe(is_certain),
                Target::Message => self.observe_unknown(),
                _ => {}
            }
            self.incoming = Some(Incoming { scanner: Scanner::default(), target, is_error, forwarded: 0 });
            self.deliver_refused_before();
        }
        let (Some(upstream), Some(incoming)) = (&mut self.upstream, &mut self.incoming) else {
            return Ok(false);
        };
        let (taken, is_done) = incoming.scanner.advance(&upstream.input).map_err(malformed)?;
        let bytes = &upstream.input[..taken];
        match &mut incoming.target {
            Target::Client | Target::Message | Target::Subscription => {
                incoming.forwarded += taken;
                self.output.put(bytes);
            }
            Target::Refusal(error) => error.extend_from_slice(bytes),
            Target::Nowhere | Target::Fence | Target::Position(_) => {}
        }
        upstream.input.advance(taken);
        if is_done && let Some(incoming) = self.incoming.take() {
            self.completed(incoming);
        }
        Ok(is_done)
    }

    /// Answers earlier requests that the member refused, when a later one was executed.
    fn deliver_refused_before(&mut self) {
        // A request of the sidecar executes nothing of the client.
        if self.queue.head().is_some_and(Entry::is_own) {
            return;
        }
        let answers = self.incoming.as_ref().map(|incoming| &incoming.target);
        if matches!(answers, Some(Target::Client | Target::Nowhere | Target::Subscription | Target::Fence)) {
            self.queue.deliver_refused();
            self.answer_ready();
        }
    }

    /// As [`Self::deliver_refused_before`], when the sidecar answers the request between the two.
    fn deliver_refused_before_own(&mut self) {
        let has_input = self.upstream.as_ref().is_some_and(|upstream| !upstream.input.is_empty());
        if has_input && self.queue.head().is_some_and(|head| matches!(head.state, State::Ready(_))) {
            self.queue.deliver_refused();
            self.answer_ready();
        }
    }

    fn completed(&mut self, incoming: Incoming) {
        let Incoming { scanner, target, is_error, .. } = incoming;
        match target {
            Target::Message => {}
            Target::Subscription => self.session.subscriptions = scanner.last_integer,
            Target::Fence => drop(self.queue.pop()),
            Target::Refusal(error) => self.queue.refuse(error.freeze()),
            Target::Position(token) => {
                drop(self.queue.pop());
                self.positioned(token.as_ref());
            }
            Target::Client | Target::Nowhere => {
                if let Some(entry) = self.queue.pop() {
                    self.record(&entry, is_error);
                }
            }
        }
    }

    /// Follows the state of the connection by the reply to a request.
    fn record(&mut self, entry: &Entry, is_error: bool) {
        let is_executed = !is_error && (!entry.in_transaction || entry.kind == Kind::Exec);
        match entry.kind {
            Kind::Internal if is_error => {
                tracing::warn!(
                    "the member does not accept the changed user or password; its connection stays as it was"
                );
            }
            Kind::Setting(setting) if is_executed => self.session.record(setting, &entry.words),
            Kind::Hello if is_executed => self.session.record_hello(&entry.words),
            Kind::Write | Kind::Script if is_executed => self.record_write(),
            Kind::Exec if entry.is_void => {
                let reply = if is_error { Frame::error("ERR EXEC without MULTI") } else { Frame::NullArray };
                if !entry.is_silent {
                    self.output.reply(reply, protocol(&self.session));
                }
            }
            Kind::Exec if is_executed => self.record_write(),
            _ => {}
        }
    }

    fn record_write(&mut self) {
        (self.session.has_written, self.session.last_write_lost) = (true, false);
    }

    /// Gives the client the replies at the head that the sidecar gives; returns whether there was one.
    pub(super) fn answer_ready(&mut self) -> bool {
        let mut has_answered = false;
        while let Some((kind, reply)) = self.queue.take_ready() {
            self.output.put(&reply);
            has_answered = true;
            if kind == Kind::Reset {
                self.session.reset();
                self.observe_lost();
                self.upstream = None;
                self.incoming = None;
            }
        }
        has_answered
    }

    /// Sends requests to the member.
    pub(super) fn send(&mut self) {
        let Some(upstream) = &mut self.upstream else { return };
        if self.retry_at.is_some() {
            return;
        }
        for entry in self.queue.unsent() {
            let mut end = if entry.is_void {
                upstream.send(&["DISCARD"])
            } else if self.observed.is_some() && is_session(&entry.words) {
                upstream.send(&LINEARIZABLE)
            } else {
                upstream.send(&entry.words)
            };
            if entry.kind == Kind::Subscribe && !entry.in_transaction {
                end = upstream.send(&["PING", &self.shared.fence]);
            }
            entry.state = State::Sent { end };
            entry.tries = entry.tries.saturating_add(1);
            if entry.kind != Kind::Position {
                self.shared.metrics.forwarded(entry.reason);
            }
        }
    }

    /// Once the member has answered everything: sends what it refused to another member, if there is time, or gives the
    /// client its errors.
    pub(super) fn settle_refused(&mut self) {
        let Some(first) = self.queue.refused() else { return };
        if self.queue.has_sent() || self.incoming.is_some() {
            return;
        }
        let Some(upstream) = &self.upstream else { return self.queue.deliver_refused() };
        let is_in_time = first.arrived.elapsed() < self.shared.members.cut_off_after;
        let pause = REFUSED_PAUSE * u32::from(first.tries);
        self.shared.members.avoid(&upstream.member);
        if is_in_time && self.session.can_move() && self.queue.retry_refused() {
            self.shared.metrics.retries.inc();
            self.session.lose();
            self.observe_lost();
            self.must_ask_position();
            self.upstream = None;
            self.retry_at = Some(Instant::now() + pause);
        } else {
            self.read_offline();
            self.queue.deliver_refused();
            self.must_leave = true;
        }
    }

    /// Handles the loss of the connection to the member.
    fn lose(&mut self, reason: &str) -> io::Result<()> {
        let Some(upstream) = self.upstream.take() else { return Ok(()) };
        let is_cut = self.incoming.take().is_some_and(|incoming| incoming.forwarded > 0);
        let subscriptions = self.session.subscriptions;
        self.observe_lost();
        let lost = self.queue.lose(upstream.written, &mut self.session);
        if lost.unknown > 0 {
            self.observe_unknown();
        }
        self.must_ask_position();
        tracing::debug!(member = %upstream.member.address, reason, ?lost, "the connection to the member is lost");
        if !self.is_half_closed {
            self.shared.metrics.lost(lost);
        }
        if is_cut {
            // The client has a part of the reply, and no other member has the rest.
            self.shared.metrics.error("reply_cut", 1);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the rest of a reply is lost"));
        }
        if subscriptions > 0 {
            // Messages may be lost: as with a Redis that restarts, the client connects and subscribes again.
            self.shared.metrics.error("subscription_lost", 1);
            self.is_closing = true;
            self.queue.clear();
        }
        Ok(())
    }
}
