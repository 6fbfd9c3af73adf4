//! Restores of the archive at the end of a run: a blank node is restored to a random index, with a power cut or a
//! poison entry on the way, and must have the content of the reference at that index. On the way it must have the state of another
//! base, if there is one.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use helios_proto::v1::{BaseHeader, ErrorCode, Member, RestoreData, RestoreHeader, Restored};
use helios_raft::metrics::Metrics;
use helios_raft::restore::{Log, Parts, Plan, Restore, Sizes, discard};
use helios_raft::simulation::ProcessEnds;
use helios_raft::{Snapshots, recover};
use helios_state::Store;
use helios_storage::disk::{Disk, SimDisk};
use helios_storage::wal::Wal;
use prometheus_client::registry::Registry;
use rand::Rng;

use crate::Violation;
use crate::archive::{Archive, Base};
use crate::clients::query;
use crate::workload::{expiry_of, read_of};
use crate::world::World;

const CLUSTER: &str = "restored";
const DIR: &str = "/restore";
const WAL: &str = "/wal";
const STATE: &str = "/state";
const SNAPSHOTS: &str = "/snapshots";
/// Starts of a node until its restore is over: one ends by a power cut, which may lose the note of a poison entry, and
/// three at that entry.
const STARTS: usize = 5;

/// Parts of the restored node.
struct Opened {
    log: Log,
    store: Store,
    snapshots: Arc<Snapshots>,
}

/// How a process of the restored node ended.
enum End {
    Restored(Restored),
    PowerCut,
    Poisoned,
    Refused(helios_proto::Error),
    DoesNotStart(String),
}

impl World {
    /// Restores the archive to a random index, and compares.
    pub fn restore(&mut self) -> Result<(), Violation> {
        let Some((base, target)) = self.draw_restore() else { return Ok(()) };
        let disk = SimDisk::new(self.archive.random.random());
        if self.archive.random.random_ratio(1, 2) {
            disk.cut_power_after(self.archive.random.random_range(1..400));
        }
        let Base { header, may_be_damaged, .. } = &self.archive.bases[base];
        let what = format!("restore of the base at {} up to {target}", header.index);
        let may_be_damaged = *may_be_damaged;
        for _ in 0..STARTS {
            match self.restore_once(base, target, &disk) {
                End::Restored(restored) => {
                    self.report.restores += 1;
                    let compared = self.compare_base(base, target, &restored);
                    let compared = compared.and_then(|()| self.compare_restored(&disk, target));
                    return compared.map_err(|violation| Violation(format!("{what}: {violation}")));
                }
                End::PowerCut => disk.crash(),
                End::Poisoned if self.reference.holds_poison(target) => disk.kill(),
                End::Poisoned => return Err(Violation(format!("{what}: a skipped entry was applied"))),
                End::Refused(_) if may_be_damaged => return Ok(()),
                End::Refused(error)
                    if error.code == ErrorCode::EntryUnappliable && self.reference.holds_poison(target) =>
                {
                    return Ok(());
                }
                End::Refused(error) => return Err(Violation(format!("{what}: {error}"))),
                End::DoesNotStart(error) => {
                    return Err(Violation(format!("{what}: the node does not start: {error}")));
                }
            }
        }
        Err(Violation(format!("{what}: not over after {STARTS} starts")))
    }

    /// Returns the base and the last index of a restore; at times that of the members, to compare all of the state.
    fn draw_restore(&mut self) -> Option<(usize, u64)> {
        let Archive { random, bases, .. } = &mut self.archive;
        if bases.is_empty() {
            return None;
        }
        let base = random.random_range(0..bases.len());
        let first = bases[base].header.index;
        let last = self.archive.last_after(first);
        let random = &mut self.archive.random;
        Some((base, if random.random_ratio(1, 2) { last } else { random.random_range(first..=last) }))
    }

    /// The newest other base that the log after `base` passes before `target`.
    fn other_base(&self, base: usize, target: u64) -> Option<&Base> {
        let bases = &self.archive.bases;
        let passed = bases[base].header.index + 1..target + 1;
        let others =
            bases.iter().filter(|other| !other.may_be_damaged && passed.contains(&other.header.index));
        others.max_by_key(|other| other.header.index)
    }

    /// Compares the state on the way with that of the other base.
    fn compare_base(&mut self, base: usize, target: u64, restored: &Restored) -> Result<(), Violation> {
        let Some(other) = self.other_base(base, target) else { return Ok(()) };
        let BaseHeader { index, state_digest, .. } = &other.header;
        if !self.archive.bases[base].may_be_damaged && restored.compared_digest != *state_digest {
            let found = &restored.compared_digest;
            return Err(Violation(format!(
                "the state at {index} has digest {found}, that of a member {state_digest}"
            )));
        }
        self.report.compared += 1;
        Ok(())
    }

    /// Runs a process of the node until the restore is complete or the process ends.
    fn restore_once(&mut self, base: usize, target: u64, disk: &SimDisk) -> End {
        let random = &mut self.archive.random;
        let sizes = Sizes {
            chunk: random.random_range(100..10_000),
            lookahead: 16 << 20,
            overlay: random.random_range(500..20_000),
        };
        let (seed, part, count) =
            (random.random(), random.random_range(100..5_000), random.random_range(1..40));
        let mut restore = match self.open_blank(base, target, disk, sizes, seed) {
            Ok(restore) => restore,
            Err(_) if disk.is_cut() => return End::PowerCut,
            Err(error) => return End::DoesNotStart(error),
        };
        let archive = &self.archive;
        let first = archive.bases[base].header.index + 1;
        let entries: Vec<_> = archive.log.range(first..target + 1).map(|(_, entry)| entry.clone()).collect();
        let run = || {
            let held_bytes = restore.held_bytes()? as usize;
            restore.load_base()?;
            for data in archive.bases[base].bytes[held_bytes..].chunks(part) {
                restore
                    .take_data(&RestoreData { data: data.to_vec().into(), crc32c: crc32c::crc32c(data) })?;
            }
            for entries in entries.chunks(count) {
                restore.take_entries(entries.to_vec())?;
            }
            let own = Member { name: "restored".into(), disk_id: "restored".into(), ..Member::default() };
            restore.finish(own)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            _ if disk.is_cut() => End::PowerCut,
            Ok(Ok((_, restored))) => End::Restored(restored),
            Ok(Err(error)) => End::Refused(error),
            Err(panic) if panic.is::<ProcessEnds>() => End::Poisoned,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Opens the disk of a blank node, as `Node::open` does.
    fn open_blank(
        &self,
        base: usize,
        target: u64,
        disk: &SimDisk,
        sizes: Sizes,
        seed: u64,
    ) -> Result<Restore, String> {
        let header = RestoreHeader {
            cluster_id: CLUSTER.into(),
            base: Some(self.archive.bases[base].header.clone()),
            last_index: target,
            compare_index: self.other_base(base, target).map(|other| other.header.index).unwrap_or_default(),
            fencing_token: self.token,
            ..RestoreHeader::default()
        };
        let plan = Plan::of(&header).map_err(|error| error.to_string())?;
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let data = [Path::new(STATE), Path::new(SNAPSHOTS)];
        discard(&shared, Path::new(DIR), Path::new(WAL), data).map_err(|error| error.to_string())?;
        let Opened { log, store, snapshots } = self.open_restored(disk, seed)?;
        let parts = Parts {
            disk: shared,
            dir: DIR.into(),
            wal_dir: WAL.into(),
            wal_options: self.plan.wal_options(),
            links_sets: self.plan.runs,
            store,
            snapshots,
            machine: None,
            metrics: Metrics::new(&mut Registry::default()),
            sizes,
            threads: false,
        };
        Ok(Restore::new(parts, plan, log))
    }

    fn open_restored(&self, disk: &SimDisk, seed: u64) -> Result<Opened, String> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let log = Wal::open(Arc::clone(&disk), Path::new(WAL), self.plan.wal_options());
        let log = log.map_err(|error| error.to_string())?;
        let options = self.plan.store_options(seed);
        let store = Store::open_with(Arc::clone(&disk), Path::new(STATE), options);
        let store = store.map_err(|error| error.to_string())?;
        let snapshots = Snapshots::open(disk, Path::new(SNAPSHOTS), self.plan.runs);
        let snapshots = snapshots.map_err(|error| error.to_string())?;
        Ok(Opened { log, store, snapshots: Arc::new(snapshots) })
    }

    /// Starts the restored member after a power cut, and compares its state with the reference at `target`, and with
    /// the members that are at the same index.
    fn compare_restored(&mut self, disk: &SimDisk, target: u64) -> Result<(), Violation> {
        disk.crash();
        let seed = self.archive.random.random();
        let Opened { log: (mut wal, recovered), store, snapshots } =
            self.open_restored(disk, seed).map_err(Violation)?;
        recover(&mut wal, recovered, &store, &snapshots).map_err(|error| Violation(error.to_string()))?;
        for key in self.reference.keys() {
            for call in [read_of(key), expiry_of(key)] {
                let Some(answer) = query(&store, &call) else { continue };
                self.reference.check_read(&call, target, &answer)?;
            }
        }
        let content = |store: &Store| store.scan_all().map(|pairs| (store.key_count(), pairs));
        let own = content(&store).map_err(|error| Violation(error.to_string()))?;
        let same = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        for process in same.filter(|process| process.applied_index() == target) {
            // A member with a damaged state is compared with nothing.
            if let Ok(other) = content(&process.store)
                && other != own
            {
                return Err(Violation(format!("the content is {own:?}, that of a member {other:?}")));
            }
        }
        Ok(())
    }
}
