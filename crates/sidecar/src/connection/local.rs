//! Replica mode: reads that the replica answers, and the index of what members answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use helios_proto::v1::Token;
use helios_redis::frame::Frame;
use helios_service::idle::until;
use tokio::sync::watch;

use super::Connection;
use crate::level::Level;
use crate::queue::{Entry, protocol};
use crate::replica::gate::Observation;
use crate::replica::{Asked, Reason, Replica};
use crate::request::{Kind, POSITION};
use crate::session::Transaction;

/// Time for which a read waits for the replica to have what the application has observed.
const BEHIND_LIMIT: Duration = Duration::from_millis(20);

/// A read that waits for the replica.
pub struct Waiting {
    words: Vec<Bytes>,
    is_silent: bool,
    received_us: u64,
    deadline: Instant,
    progress: watch::Receiver<()>,
}

/// A receiver of the replica's progress, and the end of the wait.
pub type Woken = (watch::Receiver<()>, Instant);

impl Waiting {
    pub fn woken(&self) -> Woken {
        (self.progress.clone(), self.deadline)
    }

    /// Waits until the read may be answered, or is not to wait any longer.
    pub async fn over(woken: &mut Option<Woken>) {
        let Some((progress, deadline)) = woken else { return std::future::pending().await };
        tokio::select! {
            _ = progress.changed() => {}
            () = until(Some(*deadline)) => {}
        }
    }
}

/// Observations of a connection's client.
pub struct Observed {
    replica: Arc<Replica>,
    observation: Observation,
    /// Whether a request whose reply shows state was queued after the last [`Kind::Position`].
    must_ask: bool,
}

impl Observed {
    pub fn new(replica: &Arc<Replica>) -> Self {
        let observation = Observation::new(Arc::clone(&replica.gate));
        Self { replica: Arc::clone(replica), observation, must_ask: false }
    }
}

impl Connection {
    /// Returns the reply of the replica.
    ///
    /// # Errors
    /// A member has to answer the request.
    pub(super) fn read_here(
        &mut self,
        kind: Kind,
        words: &[Bytes],
        received_us: u64,
    ) -> Result<Frame, Reason> {
        let is_plain = self.session.transaction == Transaction::None
            && self.session.subscriptions == 0
            && self.queue.is_answered();
        let level = self.level().filter(|_| is_plain);
        let Some(Observed { replica, observation, .. }) = &mut self.observed else {
            return Err(Reason::ProxyMode);
        };
        if kind != Kind::Read {
            return Err(Reason::Command);
        }
        let asked =
            Asked { level: level.ok_or(Reason::Connection)?, now_us: replica.gate.now_us(), received_us };
        replica.read(words, asked, observation).or_else(|reason| {
            let has_contact = !self.shared.members.patience().is_zero();
            replica.read_offline(words, asked, has_contact, observation).ok_or(reason)
        })
    }

    /// Returns what reads see in Replica mode; `None`: only members know it.
    pub(super) fn level(&self) -> Option<Level> {
        self.session.level(self.observed.as_ref()?.replica.rules.level)
    }

    /// Answers the reads that no member has answered, as far as they are answered in a cut.
    pub(super) fn read_offline(&mut self) {
        let Some(level) = self.level().filter(|_| self.session.subscriptions == 0) else { return };
        let Some(Observed { replica, observation, .. }) = &mut self.observed else { return };
        let asked = Asked { level, now_us: replica.gate.now_us(), received_us: self.received_us };
        let has_contact = !self.shared.members.patience().is_zero();
        let read = |words: &[Bytes]| replica.read_offline(words, asked, has_contact, observation);
        self.queue.answer_unanswered(protocol(&self.session), read);
    }

    pub(super) fn wait_for_replica(&mut self, words: Vec<Bytes>, is_silent: bool) {
        let Some(observed) = &self.observed else { return };
        // Words of a large chunk are kept for milliseconds only.
        let deadline = Instant::now() + BEHIND_LIMIT;
        let (received_us, progress) = (self.received_us, observed.replica.progress());
        self.waiting = Some(Waiting { words, is_silent, received_us, deadline, progress });
        // It may have advanced before the receiver existed.
        self.settle_waiting();
    }

    /// Answers or forwards the read that waits for the replica; returns whether it did.
    pub(super) fn settle_waiting(&mut self) -> bool {
        let Some(mut waiting) = self.waiting.take() else { return false };
        waiting.progress.mark_unchanged();
        match self.read_here(Kind::Read, &waiting.words, waiting.received_us) {
            Ok(reply) => self.answer(Kind::Read, reply, waiting.is_silent),
            Err(Reason::Behind) if Instant::now() < waiting.deadline => {
                self.waiting = Some(waiting);
                return false;
            }
            Err(reason) => self.forward(Kind::Read, waiting.words, waiting.is_silent, reason),
        }
        true
    }

    /// Marks a request whose reply shows state.
    pub(super) fn mark_observed(&mut self, entry: &mut Entry) {
        let is_subscribed = self.is_subscribed();
        if let Some(observed) = &mut self.observed {
            entry.is_observed = entry.shows_state() && !is_subscribed;
            observed.must_ask |= entry.is_observed;
        }
    }

    /// Whether the member refuses commands because of subscriptions: it would refuse [`POSITION`] as well.
    fn is_subscribed(&self) -> bool {
        self.session.subscriptions > 0 && !self.session.is_resp3
    }

    /// Queues the request for the index of what was read and written, if there was anything.
    pub(super) fn ask_position(&mut self) {
        if self.is_subscribed() {
            // The index of what was answered before cannot be asked for any more.
            return self.observe_lost();
        }
        let may_ask =
            self.session.transaction != Transaction::Open && !self.queue.is_held() && self.waiting.is_none();
        if let Some(observed) = self.observed.as_mut().filter(|observed| observed.must_ask && may_ask) {
            observed.must_ask = false;
            let words = POSITION.map(Bytes::from_static).to_vec();
            self.queue.push(Entry::new(Kind::Position, words, Instant::now()));
        }
    }

    /// Makes the index be asked for again: requests are sent to another member, without those of the sidecar.
    pub(super) fn must_ask_position(&mut self) {
        let is_observed = !self.queue.is_empty();
        if let Some(observed) = &mut self.observed {
            observed.must_ask |= is_observed;
        }
    }

    /// Records that the client gets the reply to the request at the head. If it is not `is_certain`, the request may have
    /// an effect nonetheless.
    pub(super) fn observe(&mut self, is_certain: bool) {
        let Some((observed, head)) = self.observed.as_mut().zip(self.queue.head()) else { return };
        if !head.is_observed {
            return;
        }
        observed.observation.begin();
        if !is_certain && matches!(head.kind, Kind::Write | Kind::Script | Kind::Exec) {
            observed.observation.unknown();
        }
    }

    /// Records that the client gets what has an index that will not be known.
    pub(super) fn observe_unknown(&mut self) {
        if let Some(observed) = &mut self.observed {
            observed.observation.end(None);
            observed.replica.wake();
        }
    }

    /// Records that the connection to the member ends: no other member knows the index of what this one answered.
    pub(super) fn observe_lost(&mut self) {
        if self.observed.as_ref().is_some_and(|observed| observed.observation.is_open()) {
            self.observe_unknown();
        }
    }

    /// Records the index of all that the client has observed.
    pub(super) fn positioned(&mut self, token: Option<&Token>) {
        if let Some(observed) = &mut self.observed {
            observed.observation.end(token.and_then(|token| observed.replica.index_of(token)));
            observed.replica.wake();
        }
    }
}
