//! How old the state of the replica may be: a linearizable read, again and again, and the index that it saw. A state at
//! that index has all that was acknowledged when the read was sent, by this process's clock alone; a delayed message
//! makes the state look older, never younger. It also finds out whether any member answers reads.

use std::sync::Arc;
use std::time::Duration;

use helios_proto::v1::Token;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Replica;
use crate::upstream::{Dialer, Upstream};

const LIMIT: Duration = Duration::from_secs(1);

/// Confirms the age of the state until the future is dropped.
pub async fn beat(dialer: Dialer, replica: Arc<Replica>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<Upstream> = None;
    // Number of failures. Each moves this connection to the next member, and none of the application's.
    let mut failures = 0;
    // Those since the last answer.
    let mut failures_in_row = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Not after a failure: members that cannot be reached would be asked again at once.
            () = replica.demanded(), if failures_in_row == 0 => {}
        }
        let Some(key) = replica.any_key() else { continue };
        let opened = match connection.take() {
            Some(open) => Some(open),
            None => timeout(LIMIT, open(&dialer, failures)).await.ok().flatten(),
        };
        let at_us = replica.gate.now_us();
        replica.asks(at_us);
        let answer = match opened {
            Some(open) => position(open, &key).await,
            None => None,
        };
        if let Some((open, token)) = answer {
            dialer.members.contact();
            replica.confirm(at_us, &token);
            replica.answered();
            failures_in_row = 0;
            connection = dialer.members.is_listed(&open.member).then_some(open);
        } else {
            replica.unanswered();
            (failures, failures_in_row) = (failures + 1, failures_in_row + 1);
            if failures_in_row >= dialer.members.in_order().len() {
                replica.has_asked_all();
            }
        }
    }
}

async fn position(mut open: Upstream, key: &[u8]) -> Option<(Upstream, Token)> {
    let token = timeout(LIMIT, open.position_after_read(key)).await.ok()?.ok()??;
    Some((open, token))
}

async fn open(dialer: &Dialer, failures: usize) -> Option<Upstream> {
    let members = dialer.members.in_order();
    let member = members.get(failures.checked_rem(members.len())?)?;
    dialer.open_apart(member).await
}
