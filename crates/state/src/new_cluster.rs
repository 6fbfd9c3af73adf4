//! The state of a backup as the first state of another cluster (ADR 0027).

use std::sync::Arc;

use helios_proto::v1::Membership;

use super::shared::State;
use super::watch::Changed;
use super::writes::Writes;
use super::{Applied, StateError, Store, dedup};

impl Store {
    /// Makes `applied` the applied position and `membership` the membership of a new cluster. The records of requests are
    /// removed: a client of the new cluster may use an id of the old one. Called by the apply thread only; in no
    /// checkpoint when it returns.
    ///
    /// The membership is not merged with the old one, whose member ids may name other disks.
    pub fn begin_cluster(&self, applied: Applied, membership: Membership) -> Result<(), StateError> {
        self.check()?;
        let published = &self.inner.published;
        let writer = published.writer();
        let mut state = published.peek(State::clone);
        let mut removed = Writes::default();
        for prefix in dedup::prefixes() {
            for pair in state.view().range(prefix, Some(&after(prefix))) {
                let (key, _) = pair.map_err(|error| self.fail(error))?;
                removed.put(key, None);
            }
        }
        let meta = state.meta_at(applied.index, applied.term, 0);
        let mut meta = meta.map_err(|error| StateError::Stopped(error.message))?;
        meta.membership = Arc::new(Membership { index: applied.index, ..membership });
        state.meta = meta;
        state.active = state.active.next();
        state.active.absorb(removed);
        published.publish(&writer, state);
        self.inner.history.publish([Changed::none(applied.index)]);
        Ok(())
    }
}

/// Returns the first key after all keys with the prefix, whose last byte is a letter.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::command::Op;
    use helios_proto::v1::{Command, Member, Origin, RequestId, Set};

    use super::*;
    use crate::{EngineKind, StoreOptions};
    use helios_storage::disk::SimDisk;

    fn set(key: &str, request: Option<u64>) -> Command {
        let request_id = request.map(|sequence| RequestId {
            client_id: "client".into(),
            sequence,
            ..RequestId::default()
        });
        let set = Set { key: key.to_owned().into(), value: "v".into(), ..Set::default() };
        let origin = Some(Origin { identity: "user".into(), ..Origin::default() });
        Command { now_ms: 9, request_id, origin, op: Some(Op::Set(set)), ..Command::default() }
    }

    fn membership(cluster: &str, disk: &str) -> Membership {
        let member = Member { id: 1, disk_id: disk.to_owned(), boot_epoch: 7, ..Member::default() };
        Membership {
            cluster_id: cluster.to_owned(),
            voters: vec![1],
            members: vec![member],
            ..Default::default()
        }
    }

    fn requests_of(store: &Store) -> usize {
        let state = store.inner.state();
        let found = dedup::prefixes().map(|prefix| state.view().range(prefix, Some(&after(prefix))).count());
        found.sum()
    }

    #[test]
    fn new_cluster_has_the_keys_and_no_request_and_no_registration_of_the_old_one() {
        for engine in [EngineKind::Runs, EngineKind::Simulated] {
            let open = |disk: &SimDisk| {
                let options = StoreOptions { engine, seed: 1, ..StoreOptions::default() };
                Store::open_with(Arc::new(disk.clone()), "/state".as_ref(), options).unwrap()
            };
            let disk = SimDisk::new(1);
            let store = open(&disk);
            store.apply_membership(1, 1, membership("old", "old disk"));
            store.apply(2, 1, &set("a", Some(1)));
            store.checkpoint().unwrap();
            store.apply(3, 1, &set("b", Some(2)));
            assert!(requests_of(&store) > 2);
            let digest = store.state_digest().unwrap();
            let begun = store.begin_cluster(Applied { index: 4, term: 2 }, membership("new", "new disk"));
            begun.unwrap();
            store.checkpoint().unwrap();
            assert_ne!(store.state_digest().unwrap(), digest);
            drop(store);

            let store = open(&disk);
            assert_eq!(requests_of(&store), 0);
            assert_eq!(*store.membership(), Membership { index: 4, ..membership("new", "new disk") });
            assert_eq!((store.applied(), store.clock_ms()), (Applied { index: 4, term: 2 }, 9));
            let found = store.scan_all().unwrap();
            let found: Vec<_> = found.iter().map(|(key, value)| (&key[..], value.revision)).collect();
            assert_eq!(found, [(&b"a"[..], 2), (&b"b"[..], 3)]);
        }
    }

    #[test]
    fn state_digest_is_the_same_with_each_engine() {
        let digest = |engine| {
            let options = StoreOptions { engine, seed: 1, ..StoreOptions::default() };
            let store = Store::open_with(Arc::new(SimDisk::new(1)), "/state".as_ref(), options).unwrap();
            (1..50).for_each(|index| {
                drop(store.apply(index, 1, &set(&format!("key {}", index % 7), Some(index))))
            });
            store.checkpoint().unwrap();
            store.state_digest().unwrap()
        };
        assert_eq!(digest(EngineKind::Runs), digest(EngineKind::Simulated));
        assert_eq!(digest(EngineKind::Runs), digest(EngineKind::Memory));
    }
}
