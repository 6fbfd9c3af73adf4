//! Request ids ("names") for the writes that this process forwards to a leader.
//!
//! A request id occupies a slot in the deduplication table of the state machine. It is in use until its write has an
//! outcome, so that no later write takes the slot of one that may have to be retried.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use helios_proto::v1::{ErrorCode, RequestId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::state::SLOTS;

/// Number of client ids that one process uses in the deduplication table.
const LANES: u64 = 32;

/// Limit of forwarded writes of this process that have no outcome yet.
pub const MAX_FORWARDED: usize = (LANES * SLOTS) as usize;

pub struct Names {
    /// Prefix of the client ids: a zero byte, the member's id, and a random number of this process, so that another
    /// process, even one on a restored copy of the disk, never uses the same ids.
    process: Vec<u8>,
    places: Arc<Places>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Places {
    /// Free places; the one that was free for longest is in front.
    free: Mutex<VecDeque<Place>>,
}

/// A lane (client id) and a sequence number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    lane: u64,
    sequence: u64,
}

/// Request id of one write.
pub struct Name {
    id: RequestId,
    place: Place,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

impl Names {
    pub fn new(member_id: u64, boot_nonce: u64) -> Self {
        let process = [&[0][..], &member_id.to_be_bytes(), &boot_nonce.to_be_bytes()].concat();
        // Sequences start at 1, and the first `SLOTS` of a lane have distinct slots.
        let places = (1..=SLOTS).flat_map(|sequence| (0..LANES).map(move |lane| Place { lane, sequence }));
        let places = Arc::new(Places { free: Mutex::new(places.collect()) });
        Self { process, places, permits: Arc::new(Semaphore::new(MAX_FORWARDED)) }
    }

    /// Waits until `count` names, at most [`MAX_FORWARDED`], are free, and takes them.
    pub async fn take(&self, count: usize, deadline: Instant) -> Result<Vec<Name>, Error> {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let permits = timeout_at(deadline, Arc::clone(&self.permits).acquire_many_owned(wanted)).await;
        let Ok(Ok(mut permits)) = permits else { return Err(in_use()) };
        let mut names = Vec::with_capacity(count);
        let mut free = self.places.free.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(permit) = permits.split(1) {
            let place = free.pop_front().ok_or_else(in_use)?;
            names.push(Name {
                id: self.request_id(place),
                place,
                places: Arc::clone(&self.places),
                _permit: permit,
            });
        }
        Ok(names)
    }

    fn request_id(&self, Place { lane, sequence }: Place) -> RequestId {
        let client_id = Bytes::from([&self.process[..], &[lane as u8]].concat());
        RequestId { client_id, sequence, retry: false }
    }

    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }
}

impl Name {
    pub fn request_id(&self) -> RequestId {
        self.id.clone()
    }
}

impl Drop for Name {
    /// Frees the place: its next write has the same slot and a higher sequence.
    fn drop(&mut self) {
        let Place { lane, sequence } = self.place;
        let mut free = self.places.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(Place { lane, sequence: sequence + SLOTS });
    }
}

fn in_use() -> Error {
    let message = format!(
        "{} writes that this member forwarded to the leader wait for their outcome (fixed limit); try again, or use \
         the leader",
        MAX_FORWARDED
    );
    Error::new(ErrorCode::Overloaded, message)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn slot(name: &Name) -> (Bytes, u64) {
        (name.id.client_id.clone(), name.id.sequence % SLOTS)
    }

    #[tokio::test]
    async fn forwarded_writes_have_distinct_request_ids() {
        let (first, second) = (Names::new(1, 2), Names::new(1, 3));
        let mut seen = HashSet::new();
        for _ in 0..20 {
            for names in [&first, &second] {
                for name in names.take(1_000, soon()).await.unwrap() {
                    assert!(seen.insert((name.id.client_id.clone(), name.id.sequence)));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_forwarded_write_without_an_outcome_keeps_its_slot() {
        let names = Names::new(1, 2);
        let kept = names.take(1, soon()).await.unwrap();
        for _ in 0..5 {
            let others = names.take(MAX_FORWARDED - 1, soon()).await.unwrap();
            assert!(others.iter().all(|name| slot(name) != slot(&kept[0])));
        }
        let sequence = kept[0].id.sequence;
        let slot_of_kept = slot(&kept[0]);
        drop(kept);
        let all = names.take(MAX_FORWARDED, soon()).await.unwrap();
        let next = all.iter().find(|name| slot(name) == slot_of_kept).unwrap();
        assert_eq!(next.id.sequence, sequence + SLOTS);
    }

    #[tokio::test]
    async fn a_forwarded_write_over_the_limit_waits_and_is_rejected_at_its_deadline() {
        let names = Names::new(1, 2);
        let mut all = names.take(MAX_FORWARDED, soon()).await.unwrap();
        let error = names.take(1, Instant::now()).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::Overloaded);
        assert!(error.message.contains("8192 writes"), "{error}");
        all.pop();
        assert_eq!(names.take(1, soon()).await.unwrap().len(), 1);
    }
}
