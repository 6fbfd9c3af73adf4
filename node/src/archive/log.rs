//! Log of a backup: the applied entries from an index on, read from the segments, and each later one as it is applied.
//!
//! An applied entry is committed, so that no leader replaces it, and it is on this member's disk: Raft hands out an entry
//! only after it is durable here. A snapshot that is installed, and a purge, remove entries; the reader finds none then.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use helios_proto::v1::{ArchivedEntry, ErrorCode, LogChunk, LogRequest};
use prometheus_client::metrics::counter::Counter;
use prost::Message as _;
use raft::eraftpb::EntryType;
use tokio::time::Instant;
use tonic::Status;

use super::{Archive, MAX_LOGS, Sent, Slot};
use crate::error::Error;
use crate::node::NodeError;
use crate::raft::RaftHandle;
use crate::wal::{LogEntry, Reader};

/// Bytes of entries in a chunk; a larger entry is sent alone.
const CHUNK_BYTES: u64 = 1 << 20;
/// Interval of the chunks of an idle log.
const IDLE: Duration = Duration::from_secs(1);
/// Time in which entries are collected once all earlier ones are sent: each chunk costs a look-up of its first entry in a segment,
/// and a turn of the archiver. Without it, a member under load sends thousands of chunks of a few entries per second.
const COLLECT: Duration = Duration::from_millis(50);

impl Archive {
    /// Begins to send the log. One chunk is read when the client takes the one before.
    ///
    /// # Errors
    /// The history is another one, the log begins later, or this member sends [`MAX_LOGS`] already.
    pub fn log(
        &self,
        request: &LogRequest,
    ) -> Result<impl Stream<Item = Result<LogChunk, Status>> + use<>, Error> {
        let member = self.member_in(&request.cluster_id, request.incarnation)?;
        let slot = self.slot(&self.logs, MAX_LOGS, "logs")?;
        let tail = Tail {
            raft: member.raft.clone(),
            reader: member.log.clone(),
            next: request.from_index,
            is_behind: true,
            sent_bytes: self.node.inner().metrics.archive_sent_bytes.clone(),
            sent: self.sent(member),
            _slot: slot,
        };
        if tail.raft.status().first_index > tail.next {
            return Err(tail.purged());
        }
        Ok(stream::unfold(Some(tail), |tail| async {
            let mut tail = tail?;
            match tail.chunk().await {
                Ok(chunk) => Some((Ok(chunk), Some(tail))),
                Err(error) => Some((Err(error.into()), None)),
            }
        }))
    }
}

/// The rest of a log that is sent.
struct Tail {
    raft: RaftHandle,
    reader: Reader,
    /// The next entry to send.
    next: u64,
    /// Whether more entries were applied when the last chunk was read than it had room for.
    is_behind: bool,
    sent_bytes: Counter,
    sent: Sent,
    _slot: Slot,
}

impl Tail {
    /// Returns the next entries; none if there is none within [`IDLE`].
    async fn chunk(&mut self) -> Result<LogChunk, Error> {
        let entries = if self.await_next().await? { self.read().await? } else { Vec::new() };
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.sent_bytes.inc_by(bytes as u64);
        self.sent.count(bytes);
        let applied_index = self.raft.applied_index();
        Ok(LogChunk { entries, applied_index, wall_ms: helios_service::time::wall_ms() })
    }

    /// Waits until the next entry is applied, at most [`IDLE`]; returns whether it is.
    async fn await_next(&self) -> Result<bool, Error> {
        let end = Instant::now() + IDLE;
        match tokio::time::timeout_at(end, self.raft.wait_applied(self.next)).await {
            Ok(Ok(())) if !self.is_behind => tokio::time::sleep(COLLECT).await,
            Ok(Ok(())) => {}
            // The member holds an entry until an admin skips it.
            Ok(Err(error)) if error.code == ErrorCode::EntryUnappliable => {
                tokio::time::sleep_until(end).await;
                return Ok(false);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    async fn read(&mut self) -> Result<Vec<ArchivedEntry>, Error> {
        let (reader, low, high) = (self.reader.clone(), self.next, self.raft.applied_index() + 1);
        let read = tokio::task::spawn_blocking(move || reader.read(low, high, CHUNK_BYTES));
        let found = read.await.map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?;
        let found = found.map_err(NodeError::Wal)?.ok_or_else(|| self.purged())?;
        let entries = found.iter().map(archived).collect::<Result<Vec<_>, _>>()?;
        self.next += entries.len() as u64;
        self.is_behind = self.next < high;
        Ok(entries)
    }

    fn purged(&self) -> Error {
        let (first, next) = (self.raft.status().first_index, self.next);
        let message = format!(
            "the log of this member begins at entry {first}, entry {next} is purged: take a new base, or use a member \
             that has it"
        );
        Error::new(ErrorCode::LogPurged, message)
    }
}

/// The fields of an entry (`eraftpb.Entry`) that have the clock of its command. The data stays a part of the payload.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

/// The clock of a command, without the rest of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Clock {
    #[prost(uint64, tag = "1")]
    now_ms: u64,
}

fn archived(entry: &LogEntry) -> Result<ArchivedEntry, Error> {
    let LogEntry { index, term, payload } = entry;
    let corrupt = |error: prost::DecodeError| {
        Error::new(ErrorCode::Corruption, format!("log entry {index} cannot be decoded: {error}"))
    };
    let decoded = Entry::decode(payload.clone()).map_err(corrupt)?;
    let now_ms = match decoded.kind == EntryType::EntryNormal as i32 {
        true => Clock::decode(decoded.data).map_err(corrupt)?.now_ms,
        // A change of the configuration.
        false => 0,
    };
    // A copy, because the original is a part of all that was read.
    Ok(ArchivedEntry { index: *index, term: *term, now_ms, payload: Bytes::copy_from_slice(payload) })
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Command, Set, command::Op};
    use raft::eraftpb;

    use super::*;

    fn entry(kind: EntryType, data: Vec<u8>) -> LogEntry {
        let mut entry = eraftpb::Entry { index: 7, term: 3, data, ..eraftpb::Entry::default() };
        entry.set_entry_type(kind);
        LogEntry { index: 7, term: 3, payload: prost_raft::Message::encode_to_vec(&entry).into() }
    }

    #[test]
    fn archived_entry_has_the_clock_of_its_command() {
        let set = Set { key: "k".into(), value: "v".into(), ..Set::default() };
        let command = Command { now_ms: 42, op: Some(Op::Set(set)), ..Command::default() };
        let data = prost::Message::encode_to_vec(&command);
        let clock = |kind, data| archived(&entry(kind, data)).map(|entry| entry.now_ms);
        assert_eq!(clock(EntryType::EntryNormal, data), Ok(42));
        assert_eq!(clock(EntryType::EntryNormal, Vec::new()), Ok(0), "the first entry of a leader");
        assert_eq!(clock(EntryType::EntryConfChangeV2, vec![255]), Ok(0));
        assert_eq!(
            clock(EntryType::EntryNormal, vec![255]).map_err(|error| error.code),
            Err(ErrorCode::Corruption)
        );
        let whole = entry(EntryType::EntryNormal, vec![8, 42]);
        assert_eq!(archived(&whole).unwrap().payload, whole.payload);
    }
}
