//! One stream to a follower. It waits for the follower to read, and holds one message: what the follower has not read
//! stays in the ring of its group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::follow_response::Kind;
use helios_proto::v1::{
    Changes, FollowEnd, FollowHello, FollowProgress, FollowResponse, FollowTarget, GoTo, Record, Records,
    SnapshotEnd, SnapshotPart, Token,
};
use helios_service::database::Database as _;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::fresh::Freshness;
use super::group::{Behind, Frame, Group};
use super::snapshot::Part;
use super::{Followers, PROGRESS};
use crate::error::Error;
use crate::node::ActiveMember;
use crate::peer::blocking;
use crate::state::{Applied, Cursor};

/// Format of the records; another one if the encoding of a raw key or value changes. 2: strings in chunks.
const FORMAT: u32 = 2;
/// Size of a part of a snapshot, bytes.
const PART_BYTES: usize = 256 << 10;
/// Time after which a follower is sent an index up to which there are no changes: its readers may wait for it.
const ADVANCE: Duration = Duration::from_millis(10);
/// Time in which a follower has to read a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a stream does not continue.
enum Stop {
    /// A snapshot is needed.
    Behind,
    /// The follower is gone, or does not read.
    Gone,
    Failed(Error),
}

impl From<Behind> for Stop {
    fn from(_: Behind) -> Self {
        Self::Behind
    }
}

pub struct Stream {
    followers: Arc<Followers>,
    group: Arc<Group>,
    advanced: watch::Receiver<u64>,
    sender: mpsc::Sender<Result<FollowResponse, Status>>,
    /// Index up to which all changes were sent.
    position: u64,
    /// Index that the follower knows of.
    known: u64,
    /// Time of the last progress.
    progressed: Instant,
    freshness: Freshness,
    terms: Terms,
}

/// A lower bound of the term of an entry, by what was applied before.
#[derive(Debug)]
struct Terms {
    known: u64,
    /// An entry that was the last one applied, and that the stream has not reached.
    next: Applied,
}

impl Default for Terms {
    fn default() -> Self {
        Self { known: 1, next: Applied::default() }
    }
}

impl Terms {
    /// Returns a term that the entry at `position` has at least; `applied` is the last entry that is applied.
    fn at(&mut self, position: u64, applied: Applied) -> u64 {
        for _ in 0..2 {
            if position >= self.next.index {
                self.known = self.known.max(self.next.term);
                self.next = applied;
            }
        }
        self.known
    }
}

impl Stream {
    pub fn new(
        followers: Arc<Followers>,
        group: Arc<Group>,
        sender: mpsc::Sender<Result<FollowResponse, Status>>,
    ) -> Self {
        let (advanced, position) = (group.subscribe(), group.through());
        let (freshness, progressed) = (Freshness::default(), Instant::now());
        let terms = Terms::default();
        Self { followers, group, advanced, sender, position, known: 0, progressed, freshness, terms }
    }

    /// Sends until the follower is gone.
    pub async fn run(mut self, hello: FollowHello, after: Option<Token>, snapshot_ok: bool) {
        let mut needs_snapshot = !after.is_some_and(|after| self.can_continue(after.index));
        let prefixes = self.group.selection.prefixes().to_vec();
        let hello = Kind::Hello(FollowHello { continues: !needs_snapshot, prefixes, ..hello });
        if self.send(hello).await.is_err() {
            return;
        }
        loop {
            if needs_snapshot && !snapshot_ok {
                let reason = "the changes after the position are no longer kept: a snapshot is needed";
                return drop(self.send(Kind::End(FollowEnd { reason: reason.to_owned() })).await);
            }
            let stop = match needs_snapshot {
                true => self.send_snapshot().await,
                false => self.send_missed().await,
            };
            let stop = match stop {
                Ok(()) => self.send_changes_forever().await,
                Err(stop) => stop,
            };
            match stop {
                Stop::Behind => {
                    tracing::info!(
                        position = self.position,
                        "a follower is too far behind: it gets a snapshot"
                    );
                    self.followers.node.inner().metrics.follow_cuts.inc();
                    needs_snapshot = true;
                }
                Stop::Gone => return,
                Stop::Failed(error) => {
                    return drop(self.sender.send_timeout(Err(error.into()), SEND_TIMEOUT).await);
                }
            }
        }
    }

    /// Whether the changes after `index` are kept; then the stream continues there.
    fn can_continue(&mut self, index: u64) -> bool {
        let store = &self.followers.node.inner().store;
        let is_kept = self.group.next(index).is_ok() || store.keeps_effects_after(index);
        if is_kept {
            self.position = index;
        }
        is_kept
    }

    /// Sends the changes from before the ring of the group, for a follower that continues. No other stream shares these
    /// frames, so they count as a snapshot.
    async fn send_missed(&mut self) -> Result<(), Stop> {
        if self.group.next(self.position).is_ok() {
            return Ok(());
        }
        let _send = self.permit_to_send().await?;
        while self.group.next(self.position).is_err() {
            let store = &self.followers.node.inner().store;
            let effects =
                store.effects_after(self.position, &self.group.selection).map_err(|_| Stop::Behind)?;
            if effects.through <= self.position {
                return Err(Stop::Behind);
            }
            self.send_changes(&Frame::of(self.position, effects)).await?;
        }
        Ok(())
    }

    async fn send_changes_forever(&mut self) -> Stop {
        // The ring may be ahead of a position that was continued, and the group does not advance without an entry.
        if let Err(stop) = self.send_ready().await {
            return stop;
        }
        loop {
            let interval = if self.position > self.known { ADVANCE } else { PROGRESS };
            tokio::select! {
                () = self.sender.closed() => return Stop::Gone,
                () = sleep_until(self.progressed + interval) => {
                    if let Err(stop) = self.send_progress().await {
                        return stop;
                    }
                }
                advanced = self.advanced.changed() => {
                    let sent = match advanced {
                        Ok(()) => self.send_ready().await,
                        Err(_) => Err(Stop::Gone),
                    };
                    if let Err(stop) = sent {
                        return stop;
                    }
                }
            }
        }
    }

    /// Sends the frames that are ready.
    async fn send_ready(&mut self) -> Result<(), Stop> {
        self.send_up_to(u64::MAX).await
    }

    /// Sends the frames that are ready and end at `limit` or before.
    async fn send_up_to(&mut self, limit: u64) -> Result<(), Stop> {
        loop {
            self.advanced.mark_unchanged();
            let (frame, position) = self.group.next(self.position)?;
            match frame {
                Some(frame) if frame.through > limit => return Ok(()),
                Some(frame) => self.send_changes(&frame).await?,
                None => {
                    self.position = position.min(limit).max(self.position);
                    return Ok(());
                }
            }
        }
    }

    async fn send_changes(&mut self, frame: &Frame) -> Result<(), Stop> {
        let Frame { from, through, records } = frame;
        let now_ms = self.followers.node.now_ms();
        let changes = Changes { from: *from, through: *through, now_ms, records: records.clone() };
        self.send(Kind::Changes(changes)).await?;
        self.position = self.position.max(*through);
        self.known = self.known.max(*through);
        Ok(())
    }

    async fn send_progress(&mut self) -> Result<(), Stop> {
        let latest = *self.followers.fresh.borrow();
        let age = self.freshness.age(latest, self.position, Instant::now());
        let fresh_age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let now_ms = self.followers.node.now_ms();
        (self.known, self.progressed) = (self.position, Instant::now());
        let (index, term) = (self.position, self.term());
        self.send(Kind::Progress(FollowProgress { index, fresh_age_ms, now_ms, term })).await
    }

    /// Sends the state in parts, with the changes since its begin among them. No change is sent before a part that was read at
    /// a lower index, which would undo it: other streams may have read the parts some time ago.
    async fn send_snapshot(&mut self) -> Result<(), Stop> {
        let _send = self.permit_to_send().await?;
        let snapshot = self.group.snapshot(Instant::now());
        self.position = snapshot.start;
        let (mut next, mut index) = (Some(Cursor::default()), 0);
        for number in 0.. {
            let Some(cursor) = next else { break };
            let part = snapshot.part(number, &self.followers.room, self.read_part(cursor)).await?;
            (next, index) = (part.next.clone(), part.index);
            let (records, is_first) = (part.records.clone(), number == 0);
            self.send(Kind::SnapshotPart(SnapshotPart { is_first, records })).await?;
            self.send_up_to(index).await?;
        }
        self.send_ready().await?;
        while self.position < index {
            tokio::select! {
                () = self.sender.closed() => return Err(Stop::Gone),
                advanced = self.advanced.changed() => advanced.map_err(|_| Stop::Gone)?,
            }
            self.send_ready().await?;
        }
        let (index, term) = (self.position, self.term());
        self.send(Kind::SnapshotEnd(SnapshotEnd { index, term })).await
    }

    fn term(&mut self) -> u64 {
        self.terms.at(self.position, self.followers.node.inner().store.applied())
    }

    /// Waits for one of [`MAX_SENDS`](super::MAX_SENDS).
    async fn permit_to_send(&self) -> Result<OwnedSemaphorePermit, Stop> {
        tokio::select! {
            permit = Arc::clone(&self.followers.sends).acquire_owned() => permit.map_err(|_| Stop::Gone),
            () = self.sender.closed() => Err(Stop::Gone),
        }
    }

    async fn read_part(&self, cursor: Cursor) -> Result<Part, Stop> {
        let builds = Arc::clone(&self.followers.builds);
        let build = builds.acquire_owned().await.map_err(|_| Stop::Gone)?;
        let (store, group) = (self.followers.node.inner().store.clone(), Arc::clone(&self.group));
        let read = blocking(move || {
            let _build = build;
            let page = store.pairs(&group.selection, cursor, PART_BYTES)?;
            let record = |(key, value)| Record { key, value: Some(value) };
            let records =
                Records { is_cleared: false, records: page.pairs.into_iter().map(record).collect() };
            let records = Bytes::from(records.encode_to_vec());
            Ok(Part { records, index: page.index, next: page.next })
        });
        read.await.map_err(Stop::Failed)
    }

    async fn send(&mut self, kind: Kind) -> Result<(), Stop> {
        let response = FollowResponse { kind: Some(kind) };
        let metrics = &self.followers.node.inner().metrics;
        metrics.follow_sent_bytes.inc_by(response.encoded_len() as u64);
        self.sender.send_timeout(Ok(response), SEND_TIMEOUT).await.map_err(|_| Stop::Gone)
    }
}

pub fn hello(member: &ActiveMember, name: &str) -> FollowHello {
    FollowHello {
        cluster_id: member.cluster_id.clone(),
        incarnation: member.incarnation,
        member: name.to_owned(),
        format: FORMAT,
        continues: false,
        prefixes: Vec::new(),
    }
}

pub fn go_to(members: Vec<FollowTarget>) -> FollowResponse {
    FollowResponse { kind: Some(Kind::GoTo(GoTo { members })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn term_of_a_position_is_that_of_an_entry_that_was_applied_before_it() {
        let mut terms = Terms::default();
        let mut at = |position, index, term| terms.at(position, Applied { index, term });
        assert_eq!([at(4, 9, 2), at(8, 12, 3), at(9, 14, 3)], [1, 1, 2]);
        assert_eq!([at(10, 15, 3), at(14, 20, 4), at(20, 20, 4)], [2, 3, 4]);
        assert_eq!(at(20, 20, 4), 4);
    }
}
