//! The messages of a stream become a state: which one is served, and which one is being loaded. No effects but on these.

use bytes::Bytes;
use helios_proto::v1::follow_response::Kind;
use helios_proto::v1::{FollowHello, FollowRequest, Records, Token};
use helios_state::{Replica as Follower, Selection, StateError};
use prost::Message as _;

use super::Replica;

/// Newest format of records that this version knows. Format 1 has no strings in chunks.
const FORMAT: u32 = 2;

/// Why a stream is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the leader names other members")]
    GoTo,
    #[error("the records have format {0}, which this version does not know")]
    Format(u32),
    #[error("the keys need more than --replica-memory-bytes ({limit})")]
    TooLarge { limit: u64 },
    #[error("{0}")]
    Failed(String),
}

impl From<StateError> for End {
    fn from(error: StateError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Identity of a state: its history and its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    cluster_id: String,
    incarnation: u64,
    selection: Selection,
}

/// The state that is served and the one that is loaded; the only writer of both.
pub struct Feed {
    origin: Option<Origin>,
    live: Option<Follower>,
    loading: Option<Follower>,
    /// Whether the member sends a snapshot first.
    awaits_snapshot: bool,
    limit_bytes: u64,
}

impl Feed {
    pub fn new(limit_bytes: u64) -> Self {
        Self { origin: None, live: None, loading: None, awaits_snapshot: false, limit_bytes }
    }

    /// Returns the request that continues where this state is.
    pub fn request(&self, prefixes: &[Bytes], any_member: bool) -> FollowRequest {
        let position = self.origin.as_ref().zip(self.live.as_ref());
        let token = |(origin, live): (&Origin, &Follower)| Token {
            cluster_id: origin.cluster_id.clone(),
            term: 0,
            index: live.store().applied().index,
        };
        FollowRequest {
            prefixes: prefixes.to_vec(),
            after: position.map(token),
            incarnation: self.origin.as_ref().map_or(0, |origin| origin.incarnation),
            snapshot_ok: true,
            any_member,
        }
    }

    /// Whether the stream has not reached a consistent state yet.
    pub fn is_loading(&self) -> bool {
        self.awaits_snapshot || self.loading.is_some() || self.live.is_none()
    }

    /// Takes a message over.
    ///
    /// # Errors
    /// The stream is of no further use. What was loaded is dropped, and what is served stays, unless it is too large.
    pub fn receive(&mut self, kind: Kind, replica: &Replica) -> Result<(), End> {
        match kind {
            Kind::Hello(hello) => return self.begin(hello, replica),
            Kind::GoTo(_) => return Err(End::GoTo),
            Kind::End(end) => return Err(End::Failed(end.reason)),
            Kind::SnapshotPart(part) => {
                if part.is_first {
                    self.loading = Some(Follower::default());
                    replica.resyncs.inc();
                }
                let loading = self.loading.as_mut();
                let loading =
                    loading.ok_or_else(|| End::Failed("a snapshot without its begin".to_owned()))?;
                apply(loading, &part.records, None)?;
                self.check_memory(replica)?;
            }
            Kind::Changes(changes) => {
                match (&mut self.loading, &mut self.live) {
                    (Some(loading), _) => apply(loading, &changes.records, None)?,
                    _ if self.awaits_snapshot => {
                        return Err(End::Failed("changes before the snapshot".to_owned()));
                    }
                    (None, Some(live)) => {
                        let applied = live.store().applied().index;
                        if changes.from > applied {
                            let gap = format!("changes after {} do not follow {applied}", changes.from);
                            return Err(End::Failed(gap));
                        }
                        if changes.through > applied {
                            apply(live, &changes.records, Some(changes.through))?;
                        }
                    }
                    (None, None) => return Err(End::Failed("changes without a state".to_owned())),
                }
                replica.heard(changes.now_ms);
                self.check_memory(replica)?;
            }
            Kind::SnapshotEnd(end) => {
                let loaded = self.loading.take().zip(self.origin.as_ref());
                let Some((mut loaded, origin)) = loaded else {
                    return Err(End::Failed("the end of a snapshot without its begin".to_owned()));
                };
                loaded.advance(end.index);
                let (store, selection) = (loaded.store().clone(), origin.selection.clone());
                replica.publish(store, selection, &origin.cluster_id, end.term);
                (self.live, self.awaits_snapshot) = (Some(loaded), false);
            }
            Kind::Progress(progress) => {
                // Before a snapshot, the index says nothing about the state that is served meanwhile.
                if let (false, None, Some(live)) = (self.awaits_snapshot, &self.loading, &mut self.live) {
                    if progress.index > live.store().applied().index {
                        live.advance(progress.index);
                    }
                    replica.at_term(progress.term);
                }
                replica.heard(progress.now_ms);
            }
        }
        replica.advanced(self.bytes());
        Ok(())
    }

    fn begin(&mut self, hello: FollowHello, replica: &Replica) -> Result<(), End> {
        let FollowHello { cluster_id, incarnation, member: _, format, continues, prefixes } = hello;
        if !(1..=FORMAT).contains(&format) {
            return Err(End::Format(format));
        }
        (self.loading, self.awaits_snapshot) = (None, !continues);
        let origin = Origin { cluster_id, incarnation, selection: Selection::new(prefixes) };
        if let Some(known) = &self.origin
            && *known != origin
        {
            if (&known.cluster_id, known.incarnation) != (&origin.cluster_id, origin.incarnation) {
                tracing::warn!(?origin, "the cluster has another history: the state is dropped");
                replica.new_history();
            }
            self.live = None;
            replica.forget();
        }
        self.origin = Some(origin);
        if continues && self.live.is_none() {
            return Err(End::Failed("the keys of the user have changed: a snapshot is needed".to_owned()));
        }
        Ok(())
    }

    /// Ends a stream: what it had loaded is no state.
    pub fn end(&mut self, replica: &Replica) {
        (self.loading, self.awaits_snapshot) = (None, false);
        replica.advanced(self.bytes());
    }

    /// Drops everything.
    pub fn clear(&mut self, replica: &Replica) {
        (self.live, self.loading) = (None, None);
        replica.forget();
        replica.advanced(0);
    }

    fn bytes(&self) -> u64 {
        self.live.iter().chain(&self.loading).map(Follower::bytes).sum()
    }

    /// Drops the state that is served if the one that is loaded needs its memory.
    fn check_memory(&mut self, replica: &Replica) -> Result<(), End> {
        if self.bytes() > self.limit_bytes && self.loading.is_some() && self.live.take().is_some() {
            replica.forget();
        }
        if self.bytes() > self.limit_bytes {
            return Err(End::TooLarge { limit: self.limit_bytes });
        }
        Ok(())
    }
}

fn apply(state: &mut Follower, encoded: &Bytes, through: Option<u64>) -> Result<(), End> {
    let records = Records::decode(encoded.clone());
    let records = records.map_err(|error| End::Failed(format!("records cannot be decoded: {error}")))?;
    let pairs: Vec<_> = records.records.into_iter().map(|record| (record.key, record.value)).collect();
    Ok(state.apply(records.is_cleared, &pairs, through)?)
}
