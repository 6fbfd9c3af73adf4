//! The thread that reads entries back from the log on disk, for members that lag. It has a thread so that neither an
//! append nor a heartbeat waits for it.

use crossbeam_channel::{Receiver, Sender};
use prost_raft::Message as _;
use raft::eraftpb::Entry;

use super::types::{Done, FetchJob};
use crate::faults;
use helios_storage::wal::{LogEntry, Reader};

pub struct LogReader {
    pub reader: Reader,
    pub jobs: Receiver<FetchJob>,
    pub done: Sender<Done>,
}

impl LogReader {
    /// Executes jobs until the core is gone. A failed job is no reason to end the process: the members that need its
    /// entries get a snapshot.
    pub fn run(self) -> Result<(), String> {
        while let Ok(job) = self.jobs.recv() {
            if self.done.send(job.run(&self.reader)).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl FetchJob {
    pub fn run(&self, reader: &Reader) -> Done {
        Done::Fetched { number: self.number, outcome: self.read(reader) }
    }

    fn read(&self, reader: &Reader) -> Result<Option<Vec<Entry>>, String> {
        let found = reader.read(self.low, self.high, self.max_bytes).map_err(|error| error.to_string())?;
        let Some(found) = found else { return Ok(None) };
        found.iter().map(decode).collect::<Result<Vec<_>, _>>().map(faults::fetched).map(Some)
    }
}

fn decode(entry: &LogEntry) -> Result<Entry, String> {
    Entry::decode(entry.payload.as_ref())
        .map_err(|error| format!("log entry {} cannot be decoded: {error}", entry.index))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::log_writer::log_entry;
    use helios_storage::disk::{Disk, SimDisk};
    use helios_storage::wal::{Batch, Wal, WalOptions};

    fn outcome(job: FetchJob, reader: &Reader) -> Result<Option<Vec<Entry>>, String> {
        match job.run(reader) {
            Done::Fetched { number, outcome } if number == job.number => outcome,
            _ => panic!("not the result of the job"),
        }
    }

    #[test]
    fn fetch_job_reads_the_entries_that_the_log_writer_wrote() {
        let disk = SimDisk::new(1);
        let options = WalOptions { segment_bytes: 4096, spare_segments: 1 };
        let (mut wal, _) = Wal::open(Arc::new(disk.clone()), Path::new("/wal"), options).unwrap();
        let entry = |index| Entry { index, term: 3, data: vec![index as u8; 300], ..Entry::default() };
        let written: Vec<Entry> = (1..=20).map(entry).collect();
        for entry in &written {
            wal.append(&[Batch { entries: vec![log_entry(entry)], ..Batch::default() }]).unwrap();
        }
        let reader = wal.reader();
        let job = FetchJob { number: 7, low: 4, high: 10, max_bytes: 1 << 20 };
        assert_eq!(outcome(job, &reader), Ok(Some(written[3..9].to_vec())));
        assert_eq!(outcome(FetchJob { low: 21, high: 30, ..job }, &reader), Ok(None));
        disk.remove_file(Path::new("/wal/00000000000000000001.wal")).unwrap();
        assert!(outcome(job, &reader).unwrap_err().contains("00000000000000000001.wal"));
    }
}
