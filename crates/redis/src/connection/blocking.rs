//! A connection that waits for a key to hold something.

use std::io;

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::Reply;
use helios_proto::v1::reply::Kind as Answered;
use helios_service::database::{Database, Freshness};
use helios_state::{Kind, Store};
use tokio::time::Instant;

use super::super::clients::Unblock;
use super::super::commands::blocking::Blocking;
use super::super::frame::Frame;
use super::super::waiting::Place;
use super::super::wire::Moved;
use super::subscriptions::next_message;
use super::{Connection, Round, UNSENT_BYTES};

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
        let fresh = self.db.await_fresh(Freshness::Linearizable, self.session.after.as_ref());
        if let Err(error) = self.wire.alongside(fresh).await {
            return Ok(Some(self.failure(error)));
        }
        let deadline = blocking.timeout.map(|timeout| Instant::now() + timeout);
        let mut keys = Vec::new();
        if place.is_first() {
            match self.present(&blocking).await {
                Ok(present) => keys = present,
                Err(error) => return Ok(Some(self.failure(error))),
            }
        }
        loop {
            if !keys.is_empty()
                && let Some(frame) = self.take(&blocking, &keys, round).await
            {
                return Ok(Some(frame));
            }
            match self.wait_for(&place, deadline, round).await? {
                // Its user may have been taken away while it waited.
                Woken::Called if self.recognise() => match self.ready(&blocking).await {
                    Ok(ready) => keys = ready,
                    Err(error) => return Ok(Some(self.failure(error))),
                },
                Woken::TimeIsUp | Woken::Unblocked(Unblock::Timeout) => {
                    return Ok(Some(Frame::NullArray));
                }
                Woken::Unblocked(Unblock::Error) => {
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

    /// All keys, if one of them exists, of whatever type: a wrong one is an error when its turn comes.
    async fn present(&self, blocking: &Blocking) -> Result<Vec<Bytes>, Error> {
        let any = self.kinds(&blocking.keys).await?.iter().any(Option::is_some);
        Ok(if any { blocking.keys.clone() } else { Vec::new() })
    }

    /// The keys that can be taken from. A waiter takes no notice of other types.
    async fn ready(&self, blocking: &Blocking) -> Result<Vec<Bytes>, Error> {
        let kinds = self.kinds(&blocking.keys).await?;
        let ready = blocking.keys.iter().zip(kinds).filter(|(_, kind)| *kind == Some(blocking.kind));
        Ok(ready.map(|(key, _)| key.clone()).collect())
    }

    /// A command may name very many keys.
    async fn kinds(&self, keys: &[Bytes]) -> Result<Vec<Option<Kind>>, Error> {
        let (keys, now_ms) = (keys.to_vec(), self.db.now_ms());
        let read = move |store: &Store, limits| store.kinds(&keys, now_ms, limits);
        helios_service::long_reads::run(self.db.store(), read).await
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
            let has_room = self.wire.input.len() < self.shared.limits.max_request_bytes;
            let hears = self.wire.output.len() < UNSENT_BYTES;
            self.charge_input();
            tokio::select! {
                biased;
                () = round.shutdown.cancelled() => return Ok(Woken::Over),
                () = self.client.cut.cancelled() => return Ok(Woken::Over),
                () = place.called() => return Ok(Woken::Called),
                unblock = &mut unblocked => return Ok(unblock.map_or(Woken::TimeIsUp, Woken::Unblocked)),
                () = &mut time_is_up => return Ok(Woken::TimeIsUp),
                delivery = next_message(&mut self.session.subscriber), if hears => {
                    if !self.recognise() {
                        return Ok(Woken::Over);
                    }
                    self.hear(delivery).await?;
                }
                moved = self.wire.moved(has_room) => {
                    if moved? == Moved::Received(0) {
                        return Ok(Woken::Over);
                    }
                }
            }
        }
    }
}
