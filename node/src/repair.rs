//! Repair of a member whose state is damaged and whose log does not reach back to the beginning: the state comes from
//! another member. The log, and with it everything that this member acknowledged, is whole: once a snapshot is here the
//! member starts as after any other start (`helios_raft::find_gap`).
//!
//! The members dial each other all the time, so that this one knows their addresses from their handshakes, whether its
//! own record of the membership can be read or not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use helios_proto::v1::{ErrorCode, Handshake};
use tokio::sync::Notify;

use crate::error::Error;
use crate::lifecycle::Belonging;
use crate::node::Node;
use crate::peer::{Fetcher, Target};
use crate::raft::Gap;

/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(2);

/// The repair of a member's state, while it is not a member yet.
pub(crate) struct Repair {
    pub belonging: Belonging,
    gap: Gap,
    /// Other members that dialled this one, by id.
    callers: Mutex<BTreeMap<u64, Target>>,
    called: Notify,
    /// Bytes that are here, of all bytes.
    progress: Arc<(AtomicU64, AtomicU64)>,
    /// Reason why the last attempt failed; empty before the first.
    failure: Mutex<String>,
}

impl Repair {
    /// Records a member that dialled this one and was accepted.
    pub fn heard(&self, handshake: &Handshake) {
        lock(&self.callers).insert(handshake.from_id, Target::from(handshake));
        self.called.notify_one();
    }

    /// Returns the state of the repair, for the reason why this node is not ready.
    pub fn describe(&self) -> String {
        let (here, all) = (self.progress.0.load(Ordering::Relaxed), self.progress.1.load(Ordering::Relaxed));
        let failure = lock(&self.failure).clone();
        if !failure.is_empty() {
            format!(
                "has a damaged state and fetches that of another member; the last attempt failed: {failure}"
            )
        } else if all > 0 {
            format!("has a damaged state and fetches that of another member: {here} of {all} bytes")
        } else {
            "has a damaged state and waits for another member that has a whole one".to_owned()
        }
    }

    pub fn error(&self) -> Error {
        Error::new(ErrorCode::NotStarted, format!("this member {}", self.describe()))
    }

    /// Removes the damaged states that were set aside, if the volume is too small for them and a whole one.
    fn make_room(&self, node: &Node) {
        let needed_bytes = self.progress.1.load(Ordering::Relaxed).saturating_mul(5) / 2;
        if node.free_bytes().is_some_and(|free_bytes| free_bytes < needed_bytes) {
            tracing::warn!("removing the damaged state that was set aside: the volume has no room for two");
            node.inner().store.remove_set_aside();
        }
    }

    /// Returns the known member after `last`, in the order of their ids; waits for one.
    async fn next_caller(&self, last: u64) -> Target {
        loop {
            let found = {
                let callers = lock(&self.callers);
                let next = callers.range(last + 1..).next().or_else(|| callers.iter().next());
                next.map(|(_, target)| target.clone())
            };
            match found {
                Some(target) => return target,
                None => self.called.notified().await,
            }
        }
    }
}

/// Begins the repair of `node`, which is not a member before its end.
pub(crate) fn begin(node: &Node, belonging: Belonging, gap: Gap) {
    tracing::error!(
        applied = gap.applied,
        log_begins_after = gap.base.index,
        "the state is lost and the log does not reach back to it: fetching the state of another member"
    );
    let repair = Arc::new(Repair {
        belonging,
        gap,
        callers: Mutex::default(),
        called: Notify::new(),
        progress: Arc::default(),
        failure: Mutex::default(),
    });
    if node.inner().repair.set(Arc::clone(&repair)).is_ok() {
        node.inner().runtime.spawn(run(node.clone(), repair));
    }
}

async fn run(node: Node, repair: Arc<Repair>) {
    let inner = node.inner();
    let fetcher = Fetcher {
        dialer: inner.dialer.clone(),
        snapshots: Arc::clone(&inner.snapshots),
        metrics: Arc::clone(&inner.metrics),
        progress: Arc::clone(&repair.progress),
    };
    let mut last = 0;
    loop {
        let from = repair.next_caller(last).await;
        last = from.id;
        let handshake = node.identity_in(&repair.belonging).handshake(&from);
        match fetcher.fetch(handshake, &from.addr, repair.gap.base).await {
            Ok(index) => {
                tracing::info!(from = %from.name, index, "fetched the state of another member");
                break;
            }
            Err(error) if error.code == ErrorCode::MemberRemoved => {
                return node.decommission(&error.message);
            }
            Err(error) => {
                tracing::warn!(from = %from.name, %error, "the state was not fetched; trying again");
                *lock(&repair.failure) = format!("{}: {}", from.name, error.message);
                repair.make_room(&node);
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    let (starting, belonging) = (node.clone(), repair.belonging.clone());
    let started = tokio::task::spawn_blocking(move || starting.start_member(&belonging, None)).await;
    match started {
        Ok(Ok(())) => {}
        Ok(Err(error)) => inner.fatal.raise(format!("starting with the fetched state: {error}")),
        Err(error) => inner.fatal.raise(format!("starting with the fetched state: {error}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
