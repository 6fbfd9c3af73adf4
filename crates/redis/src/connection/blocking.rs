//! Blocking commands of a connection: waiting for a key to hold an element.

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

/// Reason for which a blocked client wakes up.
enum Woken {
    /// One of its keys may hold an element.
    Called,
    TimedOut,
    Unblocked(Unblock),
    /// The client is gone, or the connection is to be closed.
    Closed,
}

impl<D: Database> Connection<D> {
    /// Executes a blocking command; `None` if the connection is to end without a reply.
    pub(super) async fn block(&mut self, blocking: Blocking, round: &mut Round) -> io::Result<Option<Frame>> {
        let waiting = self.shared.waiting.clone();
        let place = waiting.enter(&blocking.keys, self.db.store());
        // The place in the queue is taken first, so that a change after this read is notified.
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
                // The user may have been removed while it waited.
                Woken::Called if self.recognise() => match self.ready(&blocking).await {
                    Ok(ready) => keys = ready,
                    Err(error) => return Ok(Some(self.failure(error))),
                },
                Woken::TimedOut | Woken::Unblocked(Unblock::Timeout) => {
                    return Ok(Some(Frame::NullArray));
                }
                Woken::Unblocked(Unblock::Error) => {
                    let text = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
                    return Ok(Some(Frame::error(text)));
                }
                Woken::Called | Woken::Closed => {
                    self.session.closing = true;
                    return Ok(None);
                }
            }
        }
    }

    /// Returns all keys if one of them exists, of whatever type: a key of the wrong type is an error when the
    /// command arrives, as in Redis.
    async fn present(&self, blocking: &Blocking) -> Result<Vec<Bytes>, Error> {
        let any = self.kinds(&blocking.keys).await?.iter().any(Option::is_some);
        Ok(if any { blocking.keys.clone() } else { Vec::new() })
    }

    /// Returns the keys that hold the wanted type. A client that waits already ignores other types, as in
    /// Redis.
    async fn ready(&self, blocking: &Blocking) -> Result<Vec<Bytes>, Error> {
        let kinds = self.kinds(&blocking.keys).await?;
        let ready = blocking.keys.iter().zip(kinds).filter(|(_, kind)| *kind == Some(blocking.kind));
        Ok(ready.map(|(key, _)| key.clone()).collect())
    }

    /// Reads the types of `keys`, as a long read: a command may name very many keys.
    async fn kinds(&self, keys: &[Bytes]) -> Result<Vec<Option<Kind>>, Error> {
        let (keys, now_ms) = (keys.to_vec(), self.db.now_ms());
        let read = move |store: &Store, limits| store.kinds(&keys, now_ms, limits);
        helios_service::long_reads::run(self.db.store(), read).await
    }

    /// Tries to take an element through the log; returns the reply, or `None` if there was none.
    async fn take(&mut self, blocking: &Blocking, keys: &[Bytes], round: &mut Round) -> Option<Frame> {
        match self.submit_one(blocking.op(keys), round).await {
            Ok(Reply { kind: Some(Answered::Nil(_) | Answered::NilList(_)), .. }) => None,
            Ok(reply) => Some(blocking.answer.frame(reply)),
            Err(error) => Some(self.failure(error)),
        }
    }

    /// Waits until the client is to look at its keys again, or its wait ends. Input that arrives meanwhile is
    /// kept for later.
    async fn wait_for(
        &mut self,
        place: &Place,
        deadline: Option<Instant>,
        round: &Round,
    ) -> io::Result<Woken> {
        self.flush().await?;
        let unblocked = self.client.wait();
        tokio::pin!(unblocked);
        let timed_out = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timed_out);
        loop {
            let has_room = self.wire.input.len() < self.shared.limits.max_request_bytes;
            let may_deliver = self.wire.output.len() < UNSENT_BYTES;
            self.charge_input();
            tokio::select! {
                biased;
                () = round.shutdown.cancelled() => return Ok(Woken::Closed),
                () = self.client.cut.cancelled() => return Ok(Woken::Closed),
                () = place.called() => return Ok(Woken::Called),
                unblock = &mut unblocked => return Ok(unblock.map_or(Woken::TimedOut, Woken::Unblocked)),
                () = &mut timed_out => return Ok(Woken::TimedOut),
                delivery = next_message(&mut self.session.subscriber), if may_deliver => {
                    if !self.recognise() {
                        return Ok(Woken::Closed);
                    }
                    self.hear(delivery).await?;
                }
                moved = self.wire.moved(has_room) => {
                    if moved? == Moved::Received(0) {
                        return Ok(Woken::Closed);
                    }
                }
            }
        }
    }
}
