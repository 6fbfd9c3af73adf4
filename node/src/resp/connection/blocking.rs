//! A connection that waits for a key to hold something.

use std::io;

use bytes::Bytes;
use helios_proto::v1::Reply;
use helios_proto::v1::reply::Kind as Answered;
use tokio::time::Instant;

use super::super::clients::Unblock;
use super::super::commands::blocking::Blocking;
use super::super::frame::Frame;
use super::super::waiting::Place;
use super::subscriptions::next_message;
use super::{Connection, READ_CHUNK_BYTES, Round};
use crate::database::{Database, Freshness};

/// Why a client stops waiting for its turn.
enum Woken {
    /// There may be something to take.
    Called,
    TimeIsUp,
    Unblocked(Unblock),
    /// The client is gone, or has to go.
    Over,
}

impl<D: Database> Connection<D> {
    /// `None`: the connection ends, nothing is to be said.
    pub(super) async fn block(&mut self, blocking: Blocking, round: &mut Round) -> io::Result<Option<Frame>> {
        let waiting = self.shared.waiting.clone();
        let place = waiting.enter(&blocking.keys, self.db.store());
        // From then on the place in the line tells of what it misses.
        if let Err(error) = self.db.await_fresh(Freshness::Linearizable, self.session.after.as_ref()).await {
            return Ok(Some(self.failure(error)));
        }
        let deadline = blocking.timeout.map(|timeout| Instant::now() + timeout);
        let mut keys = if place.is_first() { self.present(&blocking) } else { Vec::new() };
        loop {
            if !keys.is_empty()
                && let Some(frame) = self.take(&blocking, &keys, round).await
            {
                return Ok(Some(frame));
            }
            match self.wait_for(&place, deadline, round).await? {
                // Its user may have been taken away while it waited.
                Woken::Called if self.recognise() => keys = self.ready(&blocking),
                Woken::TimeIsUp | Woken::Unblocked(Unblock::AsIfTimeWereUp) => {
                    return Ok(Some(Frame::NullArray));
                }
                Woken::Unblocked(Unblock::WithError) => {
                    let text = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
                    return Ok(Some(Frame::error(text)));
                }
                Woken::Called | Woken::Over => {
                    self.session.closing = true;
                    return Ok(None);
                }
            }
        }
    }

    /// All keys, if one of them exists, of whatever type: the client is told of a wrong one when it comes.
    fn present(&self, blocking: &Blocking) -> Vec<Bytes> {
        let now_ms = self.db.now_ms();
        let exists = |key: &Bytes| !matches!(self.db.store().get(key, now_ms), Ok(None));
        if blocking.keys.iter().any(exists) { blocking.keys.clone() } else { Vec::new() }
    }

    /// The keys that can be taken from. Whoever waits takes no notice of other types.
    fn ready(&self, blocking: &Blocking) -> Vec<Bytes> {
        let now_ms = self.db.now_ms();
        let is_ready = |key: &&Bytes| {
            self.db
                .store()
                .get(key, now_ms)
                .is_ok_and(|value| value.is_some_and(|value| value.kind == blocking.kind))
        };
        blocking.keys.iter().filter(is_ready).cloned().collect()
    }

    /// The answer, if there was something to take.
    async fn take(&mut self, blocking: &Blocking, keys: &[Bytes], round: &mut Round) -> Option<Frame> {
        match self.submit_one(blocking.op(keys), round).await {
            Ok(Reply { kind: Some(Answered::Nil(_) | Answered::NilList(_)), .. }) => None,
            Ok(reply) => Some(blocking.answer.frame(reply)),
            Err(error) => Some(self.failure(error)),
        }
    }

    /// Input that comes meanwhile is kept for later.
    async fn wait_for(
        &mut self,
        place: &Place,
        deadline: Option<Instant>,
        round: &Round,
    ) -> io::Result<Woken> {
        self.flush().await?;
        let unblocked = self.client.wait();
        tokio::pin!(unblocked);
        let time_is_up = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(time_is_up);
        loop {
            let has_room = self.input.len() < self.shared.limits.max_request_bytes;
            tokio::select! {
                biased;
                () = round.shutdown.cancelled() => return Ok(Woken::Over),
                () = self.client.cut.cancelled() => return Ok(Woken::Over),
                () = place.called() => return Ok(Woken::Called),
                unblock = &mut unblocked => return Ok(unblock.map_or(Woken::TimeIsUp, Woken::Unblocked)),
                () = &mut time_is_up => return Ok(Woken::TimeIsUp),
                delivery = next_message(&mut self.session.subscriber) => {
                    if !self.recognise() {
                        return Ok(Woken::Over);
                    }
                    self.hear(delivery).await?;
                }
                received = self.stream.receive(&mut self.input, READ_CHUNK_BYTES), if has_room => {
                    if received? == 0 {
                        return Ok(Woken::Over);
                    }
                }
            }
        }
    }
}
