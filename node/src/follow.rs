//! Replicas outside of the cluster follow this member (`Follow` in `follow.proto`): groups of streams with the same
//! prefixes, their limits, and the task that keeps the groups up to date. Nothing is recorded or encoded while there is
//! no stream.

mod fresh;
mod group;
mod snapshot;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use helios_proto::v1::{ErrorCode, FollowRequest, FollowResponse, FollowTarget, Membership};
use helios_service::database::{Database as _, Freshness as Level};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tonic::Status;

use self::fresh::Fresh;
#[cfg(test)]
pub(crate) use self::group::{ALL_RINGS_BYTES, RING_BYTES};
use self::group::{Group, ring_limit};
use crate::error::Error;
use crate::node::Node;
use crate::peer::blocking;
use crate::raft::{RaftStatus, membership};
use crate::state::Selection;

/// Limit of the streams of this member.
pub const MAX_STREAMS: usize = 400;
/// Limit of the snapshots that are sent at once.
pub const MAX_SENDS: usize = 8;
/// Limit of the pages of snapshots that are read at once.
pub const MAX_BUILDS: usize = 2;
/// Time in which changes are collected into one frame.
const BATCH: Duration = Duration::from_millis(2);
/// Interval of the progress of a stream, and of the check of its freshness.
const PROGRESS: Duration = Duration::from_millis(100);
/// Time for which changes are recorded after the last stream, so that it can be continued.
const KEEP_RECORDING: Duration = Duration::from_secs(60);

pub struct Followers {
    node: Node,
    streams: Arc<Semaphore>,
    sends: Arc<Semaphore>,
    builds: Arc<Semaphore>,
    /// Room for the parts of snapshots that several streams send.
    room: Arc<Semaphore>,
    open: Mutex<Open>,
    /// The last moment at which the state of this member was fresh.
    fresh: watch::Sender<Option<Fresh>>,
}

#[derive(Default)]
struct Open {
    groups: HashMap<Selection, Weak<Group>>,
    /// Whether [`Followers::tend`] runs.
    is_tended: bool,
}

impl Followers {
    pub fn new(node: Node) -> Self {
        Self {
            node,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            sends: Arc::new(Semaphore::new(MAX_SENDS)),
            builds: Arc::new(Semaphore::new(MAX_BUILDS)),
            room: snapshot::room(),
            open: Mutex::default(),
            fresh: watch::Sender::new(None),
        }
    }

    /// Begins a stream of the selected keys.
    ///
    /// # Errors
    /// This node is no member, or has [`MAX_STREAMS`] already.
    pub async fn follow(
        self: &Arc<Self>,
        request: FollowRequest,
        selection: Selection,
    ) -> Result<mpsc::Receiver<Result<FollowResponse, Status>>, Error> {
        let member = self.node.active()?;
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let message = format!("this member has {MAX_STREAMS} followers (fixed): use another member");
            Error::new(ErrorCode::Overloaded, message)
        })?;
        let targets = match request.any_member {
            true => Vec::new(),
            false => other_members(&member.raft.status()),
        };
        // One message waits while the transport sends another.
        let (sender, receiver) = mpsc::channel(1);
        if !targets.is_empty() {
            // The channel is empty, so that it has room.
            drop(sender.try_send(Ok(stream::go_to(targets))));
            return Ok(receiver);
        }
        let group = self.join(selection, member.raft.watch_applied()).await?;
        let after = request.after.filter(|after| {
            after.cluster_id == member.cluster_id && request.incarnation == member.incarnation
        });
        let hello = stream::hello(member, &self.node.settings().name);
        let followers = Arc::clone(self);
        tokio::spawn(async move {
            let _open = OpenStream::new(&followers, permit);
            stream::Stream::new(followers, group, sender).run(hello, after, request.snapshot_ok).await;
        });
        Ok(receiver)
    }

    /// Returns the group of a selection, which is created if there is none. The caller has a permit of `streams`.
    async fn join(
        self: &Arc<Self>,
        selection: Selection,
        applied: watch::Receiver<u64>,
    ) -> Result<Arc<Group>, Error> {
        // Before the recording is turned on, so that it is turned off again if this call is cancelled.
        self.begin_tending();
        let store = self.node.inner().store.clone();
        // Waits for the batch that is being applied.
        let recorded = blocking(move || Ok(store.record_elements(true))).await?;
        let mut open = self.open();
        if let Some(group) = open.groups.get(&selection).and_then(Weak::upgrade) {
            return Ok(group);
        }
        let group = Arc::new(Group::new(selection.clone(), recorded));
        open.groups.insert(selection, Arc::downgrade(&group));
        drop(open);
        self.remove_unused();
        tokio::spawn(Self::encode(Arc::downgrade(self), Arc::downgrade(&group), applied));
        Ok(group)
    }

    fn begin_tending(self: &Arc<Self>) {
        let mut open = self.open();
        if !open.is_tended {
            open.is_tended = true;
            tokio::spawn(Self::tend(Arc::downgrade(self)));
        }
    }

    /// Forgets the groups without streams.
    fn remove_unused(&self) {
        let mut open = self.open();
        open.groups.retain(|_, group| group.strong_count() > 0);
        self.node.inner().metrics.follow_groups.set(open.groups.len() as i64);
    }

    /// Encodes the changes for a group while it has streams.
    async fn encode(followers: Weak<Self>, group: Weak<Group>, mut applied: watch::Receiver<u64>) {
        let Some(store) = followers.upgrade().map(|followers| followers.node.inner().store.clone()) else {
            return;
        };
        loop {
            applied.mark_unchanged();
            let Some(followers) = followers.upgrade() else { return };
            let Some(group) = group.upgrade() else { return followers.remove_unused() };
            match store.effects_after(group.through(), &group.selection) {
                Ok(effects) => {
                    let is_last = effects.is_last;
                    let groups = followers.open().groups.len();
                    group.push(effects, ring_limit(groups));
                    if !is_last {
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
                Err(_) => {
                    let store = store.clone();
                    let Ok(index) = blocking(move || Ok(store.record_elements(true))).await else { return };
                    group.restart(index);
                }
            }
            drop((group, followers));
            // A change after a pause is sent at once, more of them are collected.
            let earliest = Instant::now() + BATCH;
            // The timeout notices that the group has no streams any more.
            if let Ok(Err(_)) = tokio::time::timeout(PROGRESS, applied.changed()).await {
                return;
            }
            sleep_until(earliest).await;
        }
    }

    /// Confirms the freshness of the state while there are streams, and ends the recording after the last one.
    async fn tend(followers: Weak<Self>) {
        let mut ticks = interval(PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut used_at = Instant::now();
        loop {
            ticks.tick().await;
            let Some(followers) = followers.upgrade() else { return };
            if followers.streams.available_permits() < MAX_STREAMS {
                used_at = Instant::now();
                followers.confirm().await;
            } else if used_at.elapsed() > KEEP_RECORDING
                && let Ok(true) = blocking(move || Ok(followers.end_recording())).await
            {
                return;
            }
        }
    }

    /// Turns the recording off unless there is a stream; returns whether it did. Waits for a batch in progress.
    fn end_recording(&self) -> bool {
        let mut open = self.open();
        // A stream that begins from here on has its permit, then takes the lock after this, and only then turns the
        // recording on again: see `join`.
        let is_unused = self.streams.available_permits() == MAX_STREAMS;
        if is_unused {
            open.is_tended = false;
            self.node.inner().store.record_elements(false);
        }
        is_unused
    }

    async fn confirm(&self) {
        let at = Instant::now();
        if self.node.await_fresh(Level::Linearizable, None).await.is_ok() {
            let index = self.node.inner().store.applied().index;
            self.fresh.send_replace(Some(Fresh { at, index }));
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a limited number of streams; counted while it exists.
struct OpenStream {
    followers: Arc<Followers>,
    _permit: OwnedSemaphorePermit,
}

impl OpenStream {
    fn new(followers: &Arc<Followers>, permit: OwnedSemaphorePermit) -> Self {
        followers.node.inner().metrics.follow_streams.inc();
        Self { followers: Arc::clone(followers), _permit: permit }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.followers.node.inner().metrics.follow_streams.dec();
    }
}

/// Returns the members that a leader sends a follower to: the voters that could take over at once. None: this member
/// serves it.
fn other_members(status: &RaftStatus) -> Vec<FollowTarget> {
    targets(&status.may_lead, &status.membership)
}

fn targets(ids: &[u64], members: &Membership) -> Vec<FollowTarget> {
    let target = |id: &u64| {
        let member = membership::member(members, *id).filter(|member| !member.client_addr.is_empty())?;
        Some(FollowTarget { name: member.name.clone(), client_addr: member.client_addr.clone() })
    };
    ids.iter().filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Member;

    use super::*;

    #[test]
    fn leader_names_the_members_that_are_up_to_date_and_have_an_address() {
        let member = |id: u64, client_addr: &str| Member {
            id,
            name: format!("db-{id}"),
            client_addr: client_addr.to_owned(),
            ..Member::default()
        };
        let members = Membership {
            members: vec![member(1, "a:6379"), member(2, "b:6379"), member(3, "")],
            ..Membership::default()
        };
        let names =
            |ids: &[u64]| targets(ids, &members).into_iter().map(|target| target.name).collect::<Vec<_>>();
        assert_eq!(names(&[2, 3]), ["db-2"]);
        assert!(names(&[]).is_empty(), "no other member is up to date: the leader serves");
    }
}
