//! Requests of the client: which of them a member gets, and what the sidecar answers itself.

use std::time::Instant;

use bytes::Bytes;
use helios_redis::codec::DecodeLimits;
use helios_redis::frame::Frame;

use super::{Connection, MAX_REQUESTS, MAX_REQUESTS_BYTES};
use crate::queue::{Entry, after_loss, protocol};
use crate::replica::Reason;
use crate::request::{self, Kind, Silence};
use crate::session::{Transaction, Watch};

const IN_TRANSACTION: &str =
    "ERR AUTH, HELLO and CLIENT REPLY are not available through the sidecar inside MULTI";
const LAST_WRITE_LOST: &str = "ERR the member that took the last write of this connection is lost: what depends on that write is not known";
const LOCAL_READS: &str = "ERR HELIOS.TOKEN SEEN is not available in Replica mode: no member knows what the sidecar has answered itself";
const HTTP: &str = "ERR this port speaks the Redis protocol, not HTTP";

impl Connection {
    /// Decodes requests as far as there is room; returns whether there was one.
    pub(super) fn decode(&mut self) -> bool {
        let mut has_decoded = false;
        self.is_within_request = false;
        while self.may_accept() {
            let limits = DecodeLimits { request_bytes: self.shared.max_request_bytes, authenticated: true };
            match self.decoder.decode(&mut self.input, limits) {
                Ok(None) => {
                    self.is_within_request = !self.input.is_empty() || self.decoder.is_within_request();
                    break;
                }
                Ok(Some(words)) => self.admit(words),
                Err(error) => {
                    self.shared.metrics.rejections.count("protocol_error");
                    self.close_with(&format!("ERR {error}"));
                }
            }
            has_decoded = true;
            self.request_began = None;
        }
        has_decoded
    }

    fn may_accept(&self) -> bool {
        !self.is_closing
            && !self.shared.stop.is_cancelled()
            && !self.queue.is_held()
            && self.waiting.is_none()
            && self.queue.len() < MAX_REQUESTS
            && self.queue.bytes() < MAX_REQUESTS_BYTES
            && self.output.len() < self.window
    }

    fn close_with(&mut self, error: &str) {
        self.answer(Kind::Quit, Frame::error(error.to_owned()), false);
        (self.is_closing, self.lingers) = (true, true);
    }

    pub(super) fn answer(&mut self, kind: Kind, reply: Frame, is_silent: bool) {
        self.shared.metrics.local.inc();
        let mut entry = Entry::answered(kind, &reply, protocol(&self.session));
        if is_silent {
            entry.silence();
        }
        self.queue.push(entry);
    }

    fn admit(&mut self, words: Vec<Bytes>) {
        self.last_request = Instant::now();
        let kind = request::kind(&words);
        let is_silent = self.session.next_is_silent();
        if let Some(reply) = after_loss(kind, &mut self.session) {
            return self.answer(kind, reply, is_silent);
        }
        if matches!(kind, Kind::Reset | Kind::Quit) {
            self.ask_position();
        }
        if let Some(reply) = self.own_reply(kind) {
            return self.answer(kind, reply, is_silent);
        }
        match kind {
            Kind::Silence(silence) => return self.set_silence(silence),
            Kind::Http => return self.close_with(HTTP),
            Kind::Quit => {
                self.is_closing = true;
                return self.answer(kind, Frame::OK, is_silent);
            }
            _ => {}
        }
        match self.read_here(kind, &words, self.received_us) {
            Ok(reply) => self.answer(kind, reply, is_silent),
            Err(Reason::Behind) => self.wait_for_replica(words, is_silent),
            Err(reason) => self.forward(kind, words, is_silent, reason),
        }
    }

    /// Queues a request for a member.
    pub(super) fn forward(&mut self, kind: Kind, words: Vec<Bytes>, is_silent: bool, reason: Reason) {
        if matches!(kind, Kind::Multi | Kind::Subscribe) || request::may_wait(&words, kind) {
            self.ask_position();
        }
        let words = if kind == Kind::Hello { request::without_credentials(&words) } else { words };
        let mut entry = Entry::new(kind, words, self.last_request);
        (entry.is_silent, entry.reason) = (is_silent, reason);
        self.track(kind, &mut entry);
        self.mark_observed(&mut entry);
        self.queue.push(entry);
    }

    /// Returns the reply that the sidecar gives instead of a member.
    fn own_reply(&self, kind: Kind) -> Option<Frame> {
        let is_in_transaction = self.session.transaction == Transaction::Open;
        match kind {
            Kind::Auth | Kind::Hello | Kind::Silence(_) if is_in_transaction => {
                Some(Frame::error(IN_TRANSACTION))
            }
            // The sidecar has authenticated; an application with a password keeps working.
            Kind::Auth => Some(Frame::OK),
            Kind::Reset => Some(Frame::Simple("RESET".into())),
            Kind::Level if !is_in_transaction && !self.queue.chooses_level() => {
                let level = self.level()?;
                Some(Frame::bulk(level.name()))
            }
            Kind::OwnInfo if !is_in_transaction => Some(Frame::verbatim(
                self.shared.metrics.info(&self.shared.members, self.shared.replica.as_deref()),
            )),
            Kind::Seen if self.shared.replica.is_some() => Some(Frame::error(LOCAL_READS)),
            Kind::LastWrite | Kind::Seen if self.session.last_write_lost && !is_in_transaction => {
                Some(Frame::error(LAST_WRITE_LOST))
            }
            _ => None,
        }
    }

    fn set_silence(&mut self, silence: Silence) {
        match silence {
            Silence::On => self.session.is_silent = false,
            Silence::Off => self.session.is_silent = true,
            Silence::Skip => self.session.skipped = 1,
        }
        self.answer(Kind::Read, Frame::OK, silence != Silence::On);
    }

    /// Follows the transaction and the watches of the client.
    fn track(&mut self, kind: Kind, entry: &mut Entry) {
        let session = &mut self.session;
        match kind {
            Kind::Multi => session.transaction = Transaction::Open,
            Kind::Watch if session.transaction == Transaction::None && session.watch == Watch::None => {
                session.watch = Watch::Held;
            }
            _ => {}
        }
        entry.in_transaction = session.transaction == Transaction::Open;
        if kind == Kind::Exec && session.watch == Watch::Lost {
            entry.is_void = true;
        }
        let ends_watch = matches!(kind, Kind::Exec | Kind::Discard)
            || kind == Kind::Unwatch && session.transaction == Transaction::None;
        if ends_watch {
            session.watch = Watch::None;
        }
        if matches!(kind, Kind::Exec | Kind::Discard) {
            session.transaction = Transaction::None;
        }
    }
}
