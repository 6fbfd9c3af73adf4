use std::path::{Path, PathBuf};

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Set};
use helios_state::{EngineKind, StoreOptions};
use helios_storage::disk::{Disk, SimDisk};
use prometheus_client::registry::Registry;

use super::*;

const STATE: &str = "/state";
const RATE: u64 = 1 << 40;

/// A member with a checkpoint of one file, whose keys nobody reads, and the voters `voters`.
struct Member {
    disk: SimDisk,
    scrubber: Scrubber,
    /// Dropped when the member stops.
    _running: crossbeam_channel::Sender<()>,
}

impl Member {
    fn with_voters(voters: &[u64]) -> Self {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        let membership = Membership { voters: voters.to_vec(), ..Membership::default() };
        store.apply_membership(1, 1, membership);
        for index in 2..50 {
            let set =
                Set { key: format!("key-{index}").into(), value: vec![7; 100].into(), ..Set::default() };
            store.apply(index, 1, &Command { op: Some(Op::Set(set)), ..Command::default() });
        }
        store.checkpoint().unwrap();
        let (running, end) = crossbeam_channel::bounded(0);
        let metrics = Metrics::new(&mut Registry::default());
        let scrubber = Scrubber { store, id: 1, bytes_per_second: NonZeroU64::new(RATE), metrics, end };
        Self { disk, scrubber, _running: running }
    }

    fn file(&self) -> RunId {
        self.scrubber.store.run_files()[0]
    }

    fn path(&self) -> PathBuf {
        let generations = self.disk.list(Path::new(STATE)).unwrap();
        let paths =
            generations.iter().map(|entry| Path::new(STATE).join(&entry.name).join(self.file().file_name()));
        paths.into_iter().find(|path| self.disk.exists(path)).unwrap()
    }

    fn flip_bit(&self) {
        let byte = [self.disk.read(&self.path()).unwrap()[200] ^ 1];
        self.disk.open_to_write(&self.path()).unwrap().write_all_at(&byte, 200).unwrap();
    }

    fn check(&self, damaged: &mut Vec<RunId>) -> Result<(), String> {
        self.scrubber.check(self.file(), &mut Throttle::new(RATE, &self.scrubber.end), damaged)
    }
}

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { engine: EngineKind::Runs, seed: 1, ..StoreOptions::default() };
    Store::open_with(Arc::new(disk.clone()), Path::new(STATE), options).unwrap()
}

#[test]
fn scrub_of_whole_file_reads_all_of_it_and_reports_nothing() {
    let member = Member::with_voters(&[1, 2, 3]);
    let mut damaged = Vec::new();
    member.scrubber.metrics.scrub.begin(member.file().len);
    member.check(&mut damaged).unwrap();
    let report = member.scrubber.metrics.scrub.report();
    assert!(report.bytes > 4_800 && report.damaged_files.is_empty(), "{report:?}");
    assert_eq!(report.running.map(|running| running.done_bytes), Some(member.file().len));
}

#[test]
fn scrub_stops_the_member_for_damage_that_nobody_reads_and_the_next_start_repairs_it() {
    let member = Member::with_voters(&[1, 2, 3]);
    member.flip_bit();
    let error = member.check(&mut Vec::new()).unwrap_err();
    assert!(error.contains(&member.file().file_name()), "{error}");
    assert!(member.scrubber.store.failure().is_some());
    let Member { disk, scrubber, .. } = member;
    drop(scrubber);
    let repaired = open(&disk);
    assert_eq!((repaired.applied().index, repaired.rebuilds()), (0, 1));
}

#[test]
fn only_voter_serves_what_is_whole_and_reports_the_damage_until_it_is_gone() {
    let member = Member::with_voters(&[1]);
    let whole = member.disk.read(&member.path()).unwrap();
    member.flip_bit();
    let mut damaged = Vec::new();
    member.check(&mut damaged).unwrap();
    let reported = || member.scrubber.metrics.scrub.report().damaged_files;
    assert_eq!(reported(), [member.file().file_name()]);
    assert!(member.scrubber.store.failure().is_none());
    member.scrubber.keep_live(&mut damaged);
    assert_eq!(reported().len(), 1, "the file is still part of the state");
    member.disk.open_to_write(&member.path()).unwrap().write_all_at(&whole, 0).unwrap();
    member.check(&mut damaged).unwrap();
    assert!(reported().is_empty());
}

#[test]
fn file_that_was_replaced_meanwhile_is_skipped() {
    let member = Member::with_voters(&[1, 2, 3]);
    let replaced = RunId { id: 7, len: 100, crc: 0 };
    let mut throttle = Throttle::new(RATE, &member.scrubber.end);
    member.scrubber.check(replaced, &mut throttle, &mut Vec::new()).unwrap();
    let mut damaged = vec![replaced];
    member.scrubber.keep_live(&mut damaged);
    assert!(damaged.is_empty());
}
