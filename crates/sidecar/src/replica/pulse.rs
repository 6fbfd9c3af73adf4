//! How old the state of the replica may be: a linearizable read, again and again, and the index that it saw. A state at
//! that index has all that was acknowledged when the read was sent, by this process's clock alone; a delayed message
//! makes the state look older, never younger.

use std::sync::Arc;
use std::time::Duration;

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
    loop {
        ticks.tick().await;
        let Some(key) = replica.any_key() else { continue };
        let opened = match connection.take() {
            Some(open) => Some(open),
            None => open(&dialer, failures).await,
        };
        let Some(mut open) = opened else {
            failures += 1;
            continue;
        };
        let at_us = replica.gate.now_us();
        match timeout(LIMIT, open.position_after_read(&key)).await {
            Ok(Ok(Some(token))) => {
                dialer.members.contact();
                replica.confirm(at_us, &token);
                connection = dialer.members.is_listed(&open.member).then_some(open);
            }
            _ => failures += 1,
        }
    }
}

async fn open(dialer: &Dialer, failures: usize) -> Option<Upstream> {
    let members = dialer.members.in_order();
    let member = members.get(failures.checked_rem(members.len())?)?;
    dialer.open_apart(member).await
}
