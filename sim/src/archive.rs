//! The archiver of the simulated cluster: it copies bases and applied entries from its members, and `restore` restores
//! them. It changes no member and has a separate random generator, so that the run of a seed is equal without it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use helios_proto::v1::{ArchivedEntry, BaseHeader};
use helios_raft::Snapshots;
use helios_state::{StateError, Store, snapshot_digest};
use helios_storage::disk::Disk;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::Violation;
use crate::events::Slot;
use crate::machine::CLUSTER;
use crate::world::World;

/// Bases that are kept.
const BASES: usize = 4;
/// Bytes of entries that are read at a time.
const CHUNK_BYTES: u64 = 64 << 10;

pub struct Archive {
    pub random: SmallRng,
    pub bases: Vec<Base>,
    /// Archived entries by index. Entries are missing where members purged them before the archiver came.
    pub log: BTreeMap<u64, ArchivedEntry>,
}

/// A base, as a member sent it.
pub struct Base {
    pub header: BaseHeader,
    pub bytes: Vec<u8>,
    /// Whether it may hold a flipped bit.
    pub may_be_damaged: bool,
}

impl Archive {
    pub fn new(seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ 0x6172_6368);
        Self { random, bases: Vec::new(), log: BTreeMap::new() }
    }

    /// Last entry that can be restored from the base at `index`.
    pub fn last_after(&self, index: u64) -> u64 {
        let next = self.log.range(index + 1..).map(|(index, _)| *index);
        next.zip(index + 1..).take_while(|(found, next)| found == next).last().map_or(index, |(last, _)| last)
    }

    /// Adds entries; those that are there already have to be the same.
    fn add(&mut self, entries: Vec<ArchivedEntry>) -> Result<(), Violation> {
        for entry in entries {
            match self.log.get(&entry.index) {
                Some(known) if *known != entry => {
                    return Err(Violation(format!("two members archived {known:?} and {entry:?}")));
                }
                Some(_) => {}
                None => drop(self.log.insert(entry.index, entry)),
            }
        }
        Ok(())
    }
}

impl World {
    /// Archives from a member: the entries after those that are there, and at times a base.
    pub fn archive(&mut self) -> Result<(), Violation> {
        let slot = self.archive.random.random_range(0..self.plan.machines);
        if self.machines[slot].process.is_none() {
            return Ok(());
        }
        self.archive_log(slot)?;
        if self.archive.bases.is_empty() || self.archive.random.random_ratio(1, 8) {
            self.archive_base(slot);
        }
        Ok(())
    }

    fn archive_log(&mut self, slot: Slot) -> Result<(), Violation> {
        let machine = &self.machines[slot];
        let Some(process) = &machine.process else { return Ok(()) };
        let archived = self.archive.log.last_key_value().map_or(0, |(index, _)| *index);
        // After a gap, and at times a second time, which must not differ.
        let again = self.archive.random.random_range(0..8);
        let low = (archived + 1).saturating_sub(again).max(process.wal.base().index + 1);
        let high = process.applied_index() + 1;
        if low >= high {
            return Ok(());
        }
        match process.wal.reader().read(low, high, CHUNK_BYTES) {
            Ok(Some(found)) => {
                let archived = |entry: helios_storage::wal::LogEntry| ArchivedEntry {
                    index: entry.index,
                    term: entry.term,
                    now_ms: 0,
                    payload: entry.payload,
                };
                self.archive.add(found.into_iter().map(archived).collect())
            }
            Ok(None) => Err(Violation(format!("{}: entry {low} of {high} is not in the log", machine.name))),
            // The archiver reads another member.
            Err(_) if machine.disk.is_cut() || self.nemesis.is_impaired(slot) => Ok(()),
            Err(error) => Err(Violation(format!("{}: {error}", machine.name))),
        }
    }

    /// Takes a base from a copy of the disk, as a process that starts on it would; none if the state is damaged.
    fn archive_base(&mut self, slot: Slot) {
        let seed = self.archive.random.random();
        let machine = &self.machines[slot];
        let may_be_damaged = machine.has_rotten_state() || machine.disk.is_cut();
        let disk: Arc<dyn Disk> = Arc::new(machine.disk.copy());
        let store = Store::open_with(Arc::clone(&disk), Path::new("/state"), self.plan.store_options(seed));
        let taken = store.and_then(|store| take_base(&store, &disk, self.plan.runs));
        // A member that has just joined has nothing.
        let Some((header, bytes)) = taken.ok().filter(|(header, _)| header.index > 0) else { return };
        let bases = &mut self.archive.bases;
        if bases.len() == BASES {
            bases.remove(seed as usize % BASES);
        }
        bases.push(Base { header, bytes, may_be_damaged });
    }
}

fn take_base(store: &Store, disk: &Arc<dyn Disk>, as_set: bool) -> Result<(BaseHeader, Vec<u8>), StateError> {
    let dir = Path::new("/base");
    let io = |source| StateError::Io { doing: "read", path: dir.to_owned(), source };
    let snapshots = Snapshots::open(Arc::clone(disk), dir, as_set).map_err(io)?;
    let meta = snapshots.write(store, as_set)?;
    let path = snapshots.find(meta.index).unwrap_or_default();
    let mut outgoing = snapshots.outgoing(&path)?;
    let (mut bytes, mut at) = (vec![0; meta.size_bytes as usize], 0);
    while at < bytes.len() {
        at += outgoing.read(&mut bytes[at..]).map_err(io)?;
    }
    let digest = snapshot_digest(disk, &path, || false)?.unwrap_or_default();
    let header = BaseHeader {
        state_digest: format!("{digest:016x}"),
        cluster_id: CLUSTER.to_owned(),
        index: meta.index,
        term: meta.term,
        version: meta.version,
        size_bytes: meta.size_bytes,
        crc32c: meta.crc32c,
        ..BaseHeader::default()
    };
    Ok((header, bytes))
}
