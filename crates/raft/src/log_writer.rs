//! The thread that writes the log, and its behaviour on a full disk (docs/design/node.md, pitfall 22).
//!
//! It makes spare segments while there is room for them. Once there is none, the spares are a reserve: the
//! core is notified and rejects writes that make the state grow, so that the reserve is left to votes,
//! membership changes and deletes. When the reserve is used up, too, the current batch waits for room and
//! is not acknowledged before it is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use prost_raft::Message as _;
use raft::eraftpb::Entry;

use super::format;
use super::types::{Done, LogJob};
use crate::faults;
use crate::metrics::Metrics;
use helios_state::Store;
use helios_storage::wal::{Base, Batch, HardState, LogEntry, Wal, WalError};

/// Limit of log jobs that are written with one fsync.
const MAX_JOBS_PER_WRITE: usize = 256;
const MAX_BYTES_PER_WRITE: usize = 4 << 20;
/// Interval at which a full disk is checked again; the file system does not notify when space is freed.
const ROOM_POLL: Duration = Duration::from_millis(500);

pub struct LogWriter {
    wal: Wal,
    jobs: Receiver<LogJob>,
    done: Sender<Done>,
    metrics: Arc<Metrics>,
    /// Jobs that arrived while an append waited for room. It is bounded because the core limits its jobs in flight.
    backlog: VecDeque<LogJob>,
    is_short: bool,
    store: Store,
    /// Whether the disk is marked for log format 8.
    is_marked: bool,
}

/// The queue of the core is closed: the member is stopping.
struct Stopped;

impl LogWriter {
    pub fn new(
        wal: Wal,
        store: Store,
        jobs: Receiver<LogJob>,
        done: Sender<Done>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { wal, jobs, done, metrics, backlog: VecDeque::new(), is_short: false, store, is_marked: false }
    }

    /// Writes the queued jobs as one append with one fsync, reports them to the core, and repeats. An error is final:
    /// after a failed fsync the content of the disk is unknown (docs/design/node.md, pitfall 4).
    pub fn run(mut self) -> Result<(), String> {
        let failed = |error: WalError| format!("write-ahead log: {error}");
        loop {
            match self.next_job() {
                Ok(Some(job)) => {
                    let next = || self.backlog.pop_front().or_else(|| self.jobs.try_recv().ok());
                    let work = LogWork::drain(Some(job), next);
                    if !self.is_marked && work.needs_mark {
                        // Before the entry is on disk: an earlier build must refuse the disk with it.
                        self.store.mark_chunks().map_err(|error| format!("marking the disk: {error}"))?;
                        self.is_marked = true;
                    }
                    if let Err(Stopped) = self.write(&work).map_err(failed)? {
                        return Ok(());
                    }
                }
                Ok(None) => {}
                Err(Stopped) => return Ok(()),
            }
            if let Err(Stopped) = self.prepare_spares().map_err(failed)? {
                return Ok(());
            }
        }
    }

    /// Waits for the next job. Returns `None` when the disk has to be checked for room again.
    fn next_job(&mut self) -> Result<Option<LogJob>, Stopped> {
        if let Some(job) = self.backlog.pop_front() {
            return Ok(Some(job));
        }
        if !self.is_short {
            return self.jobs.recv().map(Some).map_err(|_| Stopped);
        }
        match self.jobs.recv_timeout(ROOM_POLL) {
            Ok(job) => Ok(Some(job)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Stopped),
        }
    }

    fn write(&mut self, work: &LogWork) -> Result<Result<(), Stopped>, WalError> {
        let started = Instant::now();
        let persisted = match self.append(work)? {
            Ok(persisted) => persisted,
            Err(Stopped) => return Ok(Err(Stopped)),
        };
        if let Some(number) = persisted {
            self.metrics.raft_entries_appended.inc_by(work.entries());
            self.metrics.wal_fsync_duration_seconds.observe(started.elapsed().as_secs_f64());
            if self.done.send(Done::Persisted(number)).is_err() {
                return Ok(Err(Stopped));
            }
        }
        postponed(work.purge(&mut self.wal)).map(Ok)
    }

    /// Writes the batches of `work` and returns once they are durable. On a full disk it retries without a deadline.
    fn append(&mut self, work: &LogWork) -> Result<Result<Option<u64>, Stopped>, WalError> {
        let mut is_held = false;
        loop {
            match work.append(&mut self.wal) {
                Err(error @ WalError::NoSpare { .. }) => {
                    if !is_held {
                        is_held = true;
                        self.metrics.log_writes_held.inc();
                        tracing::error!(%error, "the disk is full, the reserve used up; the log waits for room");
                    }
                    if self.report(true).and_then(|()| self.wait_for_room()).is_err() {
                        return Ok(Err(Stopped));
                    }
                }
                result => return result.map(Ok),
            }
        }
    }

    /// Waits for [`ROOM_POLL`], or until a purge has made room.
    fn wait_for_room(&mut self) -> Result<(), Stopped> {
        let deadline = Instant::now() + ROOM_POLL;
        loop {
            match self.jobs.recv_deadline(deadline) {
                // A purge only drops entries that a snapshot covers, so it may overtake the append that waits.
                Ok(LogJob::Purge(base)) if base.index <= self.wal.last_index() => {
                    match postponed(self.wal.purge(base)) {
                        Ok(()) => return Ok(()),
                        // The next append returns the error.
                        Err(error) => tracing::error!(%error, "the log cannot be purged"),
                    }
                }
                Ok(job) => self.backlog.push_back(job),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    /// Makes spare segments in small steps, so that the next write never waits for a whole segment of zeros. Reports
    /// whether there is room for them.
    fn prepare_spares(&mut self) -> Result<Result<(), Stopped>, WalError> {
        let mut result = self.wal.check_room().map(|()| true);
        while matches!(result, Ok(true)) && self.jobs.is_empty() && self.backlog.is_empty() {
            result = self.wal.prepare_spare();
        }
        match result {
            // Jobs wait: the room is checked again after them.
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(self.report(false)),
            Err(error @ WalError::NoSpare { .. }) => {
                if !self.is_short {
                    let reserve = self.wal.spare_segments();
                    tracing::warn!(%error, reserve, "the disk is full; refusing writes that need room");
                }
                Ok(self.report(true))
            }
            Err(error) => Err(error),
        }
    }

    fn report(&mut self, is_short: bool) -> Result<(), Stopped> {
        if self.is_short == is_short {
            return Ok(());
        }
        self.is_short = is_short;
        self.metrics.disk_full.set(is_short.into());
        if !is_short {
            tracing::info!("the disk has room again; taking all writes");
        }
        self.done.send(Done::LogSpace { is_short }).map_err(|_| Stopped)
    }
}

/// Work of the log writer for one turn: one append with one fsync, then a purge.
#[derive(Default)]
pub struct LogWork {
    pub batches: Vec<Batch>,
    /// Number of the last append among the batches.
    last: Option<u64>,
    purge: Option<Base>,
    /// Whether the disk has to be marked before the append ([`format::needs_mark`]).
    needs_mark: bool,
}

impl LogWork {
    /// Collects jobs, `first` and then those that `next` returns, up to the limits of one write.
    pub fn drain(mut first: Option<LogJob>, mut next: impl FnMut() -> Option<LogJob>) -> Self {
        let mut work = Self::default();
        let mut bytes = 0;
        while let Some(job) = first.take().or_else(&mut next) {
            match job {
                LogJob::Append { number, reset, entries, hard_state } => {
                    work.last = Some(number);
                    work.needs_mark |= entries.iter().any(|entry| format::needs_mark(&entry.data));
                    let entries: Vec<_> = entries.iter().map(log_entry).collect();
                    bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
                    let hard_state = hard_state.map(|state| HardState {
                        term: state.term,
                        vote: state.vote,
                        commit: state.commit,
                    });
                    work.batches.push(Batch { reset, entries, hard_state });
                }
                LogJob::Purge(base) => work.purge = Some(base),
            }
            if work.batches.len() >= MAX_JOBS_PER_WRITE || bytes >= MAX_BYTES_PER_WRITE {
                break;
            }
        }
        work
    }

    /// Appends and syncs the batches. Returns the number of the last job that is now durable; `None` without batches.
    pub fn append(&self, wal: &mut Wal) -> Result<Option<u64>, WalError> {
        let Some(last) = self.last else { return Ok(None) };
        faults::write_result(wal.append(faults::written(&self.batches)))?;
        Ok(Some(last))
    }

    fn entries(&self) -> u64 {
        self.batches.iter().map(|batch| batch.entries.len() as u64).sum()
    }

    pub fn purge(&self, wal: &mut Wal) -> Result<(), WalError> {
        match self.purge {
            Some(base) if base.index >= wal.first_index() => wal.purge(base),
            _ => Ok(()),
        }
    }
}

pub(super) fn log_entry(entry: &Entry) -> LogEntry {
    LogEntry { index: entry.index, term: entry.term, payload: entry.encode_to_vec().into() }
}

/// Ignores a purge that failed for lack of room: the next one covers it.
fn postponed(purged: Result<(), WalError>) -> Result<(), WalError> {
    match purged {
        Err(WalError::NoSpare { .. }) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::thread::{self, JoinHandle};

    use helios_proto::v1::Command;
    use prometheus_client::registry::Registry;
    use prost::Message as _;

    use super::*;
    use helios_storage::disk::SimDisk;
    use helios_storage::wal::WalOptions;

    const OPTIONS: WalOptions = WalOptions { segment_bytes: 4096, spare_segments: 2 };
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Rig {
        disk: SimDisk,
        jobs: Sender<LogJob>,
        done: Receiver<Done>,
        thread: JoinHandle<Result<(), String>>,
        number: u64,
    }

    impl Rig {
        fn new() -> Self {
            Self::of(Store::in_memory())
        }

        fn of(store: Store) -> Self {
            let disk = SimDisk::new(1);
            let (mut wal, _) = Wal::open(Arc::new(disk.clone()), Path::new("/wal"), OPTIONS).unwrap();
            while wal.prepare_spare().unwrap() {}
            let (jobs, queue) = crossbeam_channel::unbounded();
            let (sender, done) = crossbeam_channel::unbounded();
            let metrics = Metrics::new(&mut Registry::default());
            let thread = thread::spawn(|| LogWriter::new(wal, store, queue, sender, metrics).run());
            Self { disk, jobs, done, thread, number: 0 }
        }

        /// Appends one entry that fills about a quarter of a segment.
        fn append(&mut self) {
            self.append_data(vec![7; 900]);
        }

        fn append_data(&mut self, data: Vec<u8>) {
            self.number += 1;
            let entry = Entry { index: self.number, term: 1, data, ..Entry::default() };
            let hard_state = raft::eraftpb::HardState { term: 1, vote: 1, commit: self.number };
            let (number, hard_state) = (self.number, Some(hard_state));
            self.jobs.send(LogJob::Append { number, reset: None, entries: vec![entry], hard_state }).unwrap();
        }

        fn next(&self) -> Done {
            self.done.recv_timeout(PATIENCE).expect("the log writer answers")
        }

        fn persisted(&self) -> u64 {
            match self.next() {
                Done::Persisted(number) => number,
                _ => panic!("not an answer to an append"),
            }
        }

        /// Appends until the reserve is used up and an append is held; returns its number.
        fn exhaust(&mut self) -> u64 {
            self.disk.set_free_bytes(Some(2 * 4096 - 1));
            let mut was_notified = false;
            for _ in 0..20 {
                self.append();
                loop {
                    match self.done.recv_timeout(2 * ROOM_POLL) {
                        Ok(Done::LogSpace { is_short }) => was_notified = is_short,
                        Ok(Done::Persisted(number)) if number == self.number => break,
                        Ok(_) => panic!("an answer to an earlier append"),
                        Err(_) => {
                            assert!(was_notified, "the reserve was used up before the core was notified");
                            return self.number;
                        }
                    }
                }
                if was_notified {
                    self.disk.set_free_bytes(Some(0));
                }
            }
            panic!("20 entries fit into the reserve");
        }

        fn stop(self) -> SimDisk {
            drop(self.jobs);
            self.thread.join().unwrap().unwrap();
            self.disk
        }
    }

    fn entries(disk: SimDisk) -> usize {
        let (wal, found) = Wal::open(Arc::new(disk), Path::new("/wal"), OPTIONS).unwrap();
        wal.reader().read_all(found.outline.base().index, found.outline.last()).unwrap().len()
    }

    #[test]
    fn appends_are_acknowledged_without_reports_of_space_while_there_is_room() {
        let mut rig = Rig::new();
        for number in 1..=10 {
            rig.append();
            assert_eq!(rig.persisted(), number);
        }
        assert_eq!(entries(rig.stop()), 10);
    }

    #[test]
    fn disk_is_marked_once_before_the_first_entry_of_log_format_8_is_written() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let entry = |budget| Command { budget, ..Command::default() }.encode_to_vec();
        let (earlier, newer) = (entry(helios_state::FEWEST_VISITS), entry(helios_state::CHUNKS));
        let marks = Arc::new(AtomicUsize::new(0));
        let (store, counted) = (Store::in_memory(), Arc::clone(&marks));
        store.before_chunks(Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }));
        let mut rig = Rig::of(store);
        for (data, expected) in [(&earlier, 0), (&newer, 1), (&earlier, 1), (&newer, 1)] {
            rig.append_data(data.clone());
            rig.persisted();
            assert_eq!(marks.load(Ordering::SeqCst), expected);
        }
        rig.stop();

        let store = Store::in_memory();
        store.before_chunks(Box::new(|| Err("the disk is read-only".to_owned())));
        let mut rig = Rig::of(store);
        rig.append_data(earlier);
        rig.persisted();
        rig.append_data(newer);
        let Rig { disk, thread, .. } = rig;
        let error = thread.join().unwrap().unwrap_err();
        assert!(error.contains("the disk is read-only"), "{error}");
        assert_eq!(entries(disk), 1, "the entry is not on a disk that is not marked");
    }

    #[test]
    fn a_full_disk_is_reported_before_appends_are_held_and_they_are_written_when_there_is_room() {
        let mut rig = Rig::new();
        let held = rig.exhaust();
        assert!(held > 6, "votes and deletes had no reserve");
        rig.append();
        assert!(rig.done.is_empty(), "answered although it is not on disk");
        rig.disk.set_free_bytes(Some(1 << 20));
        let mut answered = Vec::new();
        loop {
            match rig.next() {
                Done::Persisted(number) => answered.push(number),
                Done::LogSpace { is_short: false } => break,
                _ => panic!("neither an append nor a report of space"),
            }
        }
        assert_eq!(answered.last(), Some(&(held + 1)));
        assert_eq!(entries(rig.stop().durable()) as u64, held + 1);
    }

    #[test]
    fn a_purge_makes_room_for_the_append_that_waits() {
        let mut rig = Rig::new();
        let held = rig.exhaust();
        rig.jobs.send(LogJob::Purge(Base { index: held - 1, term: 1 })).unwrap();
        assert_eq!(rig.persisted(), held);
        assert_eq!(entries(rig.stop()), 1);
    }

    #[test]
    fn a_held_append_does_not_block_the_stop() {
        let mut rig = Rig::new();
        let held = rig.exhaust();
        assert_eq!(entries(rig.stop()) as u64, held - 1);
    }
}
