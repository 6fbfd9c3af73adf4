//! The inventory of one history in the store, with the clocks that are needed to show it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use helios_archive::base::Manifest;
use helios_archive::catalog::{Clocks, Recoverable};
use helios_archive::segments::read_header;
use helios_archive::{Archive, ArchiveError, BaseId, Catalog, Drill, Object, SegmentId};
use serde_json::{Value, json};

/// A base as its manifest has it, without the list of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub id: BaseId,
    pub now_ms: u64,
    pub bytes: u64,
    pub stored_bytes: u64,
    pub keys: Option<u64>,
    pub state_digest: Option<String>,
    pub sha256: String,
    pub member: String,
    pub started_ms: u64,
    pub finished_ms: u64,
}

impl From<&Manifest> for Base {
    fn from(manifest: &Manifest) -> Self {
        Self {
            id: manifest.id(),
            now_ms: manifest.now_ms,
            bytes: manifest.bytes,
            stored_bytes: manifest.stored_bytes,
            keys: manifest.keys,
            state_digest: manifest.state_digest.clone(),
            sha256: manifest.sha256.clone(),
            member: manifest.member.clone(),
            started_ms: manifest.started_ms,
            finished_ms: manifest.finished_ms,
        }
    }
}

impl Base {
    pub fn document(&self) -> Value {
        json!({
            "index": self.id.index,
            "term": self.id.term,
            "nowMs": self.now_ms,
            "bytes": self.bytes,
            "storedBytes": self.stored_bytes,
            "keys": self.keys,
            "stateDigest": self.state_digest,
            "member": self.member,
            "startedMs": self.started_ms,
            "finishedMs": self.finished_ms,
        })
    }
}

#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub catalog: Catalog,
    pub clocks: Clocks,
    pub bases: BTreeMap<BaseId, Base>,
    /// Bases whose manifests cannot be read, with the reason. They are in no range.
    pub damaged: BTreeMap<BaseId, String>,
    /// The last restore of which a record says that it had the right state.
    pub verified: Option<Drill>,
}

/// Limit of the records that are read for the last verified restore.
const MAX_DRILLS: usize = 16;

/// Reads the records from the newest on, up to the one in `before`.
async fn last_verified(
    archive: &Archive,
    catalog: &Catalog,
    before: Option<&Drill>,
) -> Result<Option<Drill>, ArchiveError> {
    for at_ms in catalog.drills.iter().rev().take(MAX_DRILLS) {
        if before.is_some_and(|before| before.at_ms >= *at_ms) {
            break;
        }
        match archive.drill(*at_ms).await {
            Ok(drill) if drill.is_restore && drill.succeeded => return Ok(Some(drill)),
            Ok(_) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(before.cloned())
}

impl Inventory {
    /// Lists the history, and reads the manifests and the headers that are not in `before`.
    pub async fn load(archive: &Archive, before: &Self) -> Result<Self, ArchiveError> {
        let mut found = Self { catalog: archive.catalog().await?, ..Self::default() };
        let usable: Vec<_> = found.catalog.usable_bases().collect();
        for id in usable {
            if let Some(base) = before.bases.get(&id) {
                found.add_base(base.clone());
                continue;
            }
            match archive.manifest(id).await {
                Ok(manifest) => found.add_base(Base::from(&manifest)),
                Err(error @ ArchiveError::WrongKey { .. }) => return Err(error),
                Err(error) if error.is_damage() => {
                    found.damaged.insert(id, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        // Clocks of segments that the store still has.
        let known = before.clocks.segments.iter().filter(|(id, _)| found.catalog.segments.contains_key(id));
        found.clocks.segments.extend(known.map(|(id, clock)| (*id, *clock)));
        for end in found.ends() {
            if let Entry::Vacant(unknown) = found.clocks.segments.entry(end) {
                match read_header(archive, end).await {
                    Ok(header) => {
                        unknown.insert(header.clock_after);
                    }
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        found.verified = last_verified(archive, &found.catalog, before.verified.as_ref()).await?;
        Ok(found)
    }

    /// The last segment of each range that can be restored.
    fn ends(&self) -> Vec<SegmentId> {
        let chain_end = |range: &Recoverable| self.catalog.chain_from(range.to.index).last().copied();
        self.catalog.recoverable(&self.clocks).iter().filter_map(chain_end).collect()
    }

    pub fn add_base(&mut self, base: Base) {
        self.clocks.bases.insert(base.id, base.now_ms);
        self.catalog.add(Object::Manifest(base.id), 0);
        self.bases.insert(base.id, base);
    }

    /// Adds a segment that was written, with the log's clock after it.
    pub fn add_segment(&mut self, id: SegmentId, stored_bytes: u64, clock: u64) {
        self.catalog.add(Object::Segment(id), stored_bytes);
        // Of the segments before it, no range ends with the clock.
        if let Some(before) = id.first.checked_sub(1) {
            self.clocks.segments.retain(|known, _| known.last != before);
        }
        self.clocks.segments.insert(id, clock);
    }

    pub fn remove(&mut self, object: Object) {
        match object {
            Object::Segment(id) => {
                self.catalog.segments.remove(&id);
                self.clocks.segments.remove(&id);
            }
            object => {
                if let Some(id) = object.base() {
                    self.catalog.bases.remove(&id);
                    self.clocks.bases.remove(&id);
                    self.bases.remove(&id);
                }
            }
        }
    }

    /// The newest base that can be restored.
    pub fn newest_base(&self) -> Option<&Base> {
        self.bases.values().rfind(|base| !self.damaged.contains_key(&base.id))
    }

    /// The last verified restore, for users and the operator.
    pub fn verified_document(&self) -> Option<Value> {
        let drill = self.verified.as_ref()?;
        Some(json!({
            "baseIndex": drill.index,
            "baseTerm": drill.term,
            "atMs": drill.at_ms,
            "tookMs": drill.took_ms,
        }))
    }

    /// Whether the log continues the newest base up to the entry `archived`, so that all of it can be restored.
    pub fn is_continued_to(&self, archived: u64) -> bool {
        let newest = self.newest_base();
        newest.is_some_and(|base| base.id.index >= archived || self.catalog.reach_of(base.id) >= archived)
    }

    /// Ranges that can be restored, for users and the operator.
    pub fn recoverable(&self) -> Vec<Value> {
        let ranges = self.catalog.recoverable(&self.clocks);
        let documents = ranges.iter().map(|range| {
            let is_in = |index: u64| (range.from.index..=range.to.index).contains(&index);
            let bases = self.bases.values().filter(|base| is_in(base.id.index));
            let (count, base_bytes) =
                bases.fold((0_u64, 0), |(count, bytes), base| (count + 1, bytes + base.stored_bytes));
            let segments = self.catalog.segments.iter().filter(|(id, _)| is_in(id.last));
            let bytes = base_bytes + segments.map(|(_, bytes)| bytes).sum::<u64>();
            json!({
                "fromIndex": range.from.index,
                "fromMs": range.from.now_ms,
                "toIndex": range.to.index,
                "toMs": range.to.now_ms,
                "bases": count,
                "bytes": bytes,
            })
        });
        documents.collect()
    }

    pub fn gaps(&self) -> Vec<Value> {
        self.catalog.gaps().iter().map(|gap| json!({"from": gap.first, "to": gap.last})).collect()
    }
}
