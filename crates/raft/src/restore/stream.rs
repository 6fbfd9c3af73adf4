//! The stream of a restore: what its header has to be, and which message may follow which. Pure.

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::{ArchivedEntry, BaseHeader, Command, ErrorCode, RestoreData, RestoreHeader};
use prost::Message as _;
use prost_raft::Message as _;
use raft::eraftpb::Entry;

use crate::change;
use crate::format;
use crate::snapshots::SnapshotId;
use helios_state::SnapshotMeta;
use helios_storage::wal::LogEntry;

/// A restore, by its header.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Id of the new cluster.
    pub cluster_id: String,
    /// Cluster of the backup.
    pub source: String,
    pub base: SnapshotId,
    /// Last entry of the restored state.
    pub last_index: u64,
    /// Index at which the state is read for a comparison.
    pub compare_index: Option<u64>,
    pub fencing_token: u64,
}

impl Plan {
    /// Checks the header, apart from the disk that it is for.
    pub fn of(header: &RestoreHeader) -> Result<Self, Error> {
        let RestoreHeader { cluster_id, base, last_index, compare_index, fencing_token, expected_disk_id: _ } =
            header;
        if cluster_id.is_empty() {
            return Err(Error::invalid("cluster_id is empty: choose one, record it, then call again"));
        }
        let Some(base) = base else { return Err(Error::invalid("the header of the restore has no base")) };
        let BaseHeader { cluster_id: source, index, term, version, size_bytes, crc32c, .. } = base;
        if cluster_id == source {
            return Err(Error::invalid(format!(
                "cluster_id {cluster_id} is that of the backup: a restored cluster needs a new one"
            )));
        }
        const READS: u32 = SnapshotMeta::NEWEST_VERSION;
        if *version > READS {
            let message = format!(
                "the base is a snapshot of version {version}, this node reads up to {READS}: upgrade the node"
            );
            return Err(Error::new(ErrorCode::SnapshotFailed, message));
        }
        if *version == 0 || *index == 0 || *term == 0 || *size_bytes == 0 || *last_index < *index {
            return Err(Error::invalid(format!(
                "the header of the restore names a base of version {version} and {size_bytes} bytes at index {index} of \
                 term {term}, and {last_index} as the last index"
            )));
        }
        let compare_index = Some(*compare_index).filter(|at| *at > 0);
        if compare_index.is_some_and(|at| at <= *index || at > *last_index) {
            return Err(Error::invalid(format!(
                "the header of the restore has {} as the index to compare at, which is not above {index} and up to {last_index}",
                compare_index.unwrap_or_default()
            )));
        }
        let is_set = *version == SnapshotMeta::SET_VERSION;
        Ok(Self {
            cluster_id: cluster_id.clone(),
            source: source.clone(),
            base: SnapshotId { index: *index, term: *term, size_bytes: *size_bytes, crc32c: *crc32c, is_set },
            last_index: *last_index,
            compare_index,
            fencing_token: *fencing_token,
        })
    }
}

/// Position in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the base that are here, of all.
    pub bytes: u64,
    size_bytes: u64,
    /// Last entry that is here, and its term.
    pub index: u64,
    pub term: u64,
    last_index: u64,
}

impl Position {
    /// Position after the header, with the first `held_bytes` of the base from an interrupted restore.
    pub fn new(plan: &Plan, held_bytes: u64) -> Self {
        let SnapshotId { index, term, size_bytes, .. } = plan.base;
        Self { bytes: held_bytes, size_bytes, index, term, last_index: plan.last_index }
    }

    /// Whether all bytes of the base are here.
    pub fn has_base(&self) -> bool {
        self.bytes == self.size_bytes
    }

    /// Takes bytes of the base.
    pub fn take_data(&mut self, data: &RestoreData) -> Result<(), Error> {
        if crc32c::crc32c(&data.data) != data.crc32c {
            return Err(Error::new(
                ErrorCode::SnapshotFailed,
                format!("the data at byte {} of the base was corrupted in transit", self.bytes),
            ));
        }
        let bytes = self.bytes + data.data.len() as u64;
        if bytes > self.size_bytes {
            let message = format!("the base is longer than the {} bytes of its header", self.size_bytes);
            return Err(Error::invalid(message));
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Takes the next entries; returns them as the log has them.
    pub fn take_entries(&mut self, entries: Vec<ArchivedEntry>) -> Result<Vec<LogEntry>, Error> {
        if !self.has_base() {
            return Err(self.base_is_missing("an entry"));
        }
        entries.into_iter().map(|entry| self.take_entry(entry)).collect()
    }

    fn take_entry(&mut self, archived: ArchivedEntry) -> Result<LogEntry, Error> {
        let ArchivedEntry { index, term, now_ms: _, payload } = archived;
        let expected = self.index + 1;
        if index != expected {
            let message = format!("the archived log has a gap: entry {expected} was expected, not {index}");
            return Err(Error::invalid(message));
        }
        if index > self.last_index {
            let message =
                format!("entry {index} is beyond the last index of the header, {}", self.last_index);
            return Err(Error::invalid(message));
        }
        if term < self.term {
            let message = format!("entry {index} has term {term}, below term {} before it", self.term);
            return Err(Error::invalid(message));
        }
        check_payload(index, term, &payload)?;
        (self.index, self.term) = (index, term);
        Ok(LogEntry { index, term, payload })
    }

    /// Checks that nothing is missing at the end of the stream.
    pub fn end(&self) -> Result<(), Error> {
        if !self.has_base() {
            return Err(self.base_is_missing("the end"));
        }
        if self.index != self.last_index {
            return Err(Error::invalid(format!(
                "the stream ends at entry {}, its header says {}",
                self.index, self.last_index
            )));
        }
        Ok(())
    }

    fn base_is_missing(&self, what: &str) -> Error {
        let Self { bytes, size_bytes, .. } = self;
        Error::invalid(format!("{what} was sent when {bytes} of {size_bytes} bytes of the base were here"))
    }
}

/// Checks that this build can apply the entry.
fn check_payload(index: u64, term: u64, payload: &Bytes) -> Result<(), Error> {
    let undecodable = |reason: &dyn std::fmt::Display| {
        Error::new(
            ErrorCode::Corruption,
            format!("entry {index} of the archived log cannot be used: {reason}"),
        )
    };
    let entry = Entry::decode(payload.as_ref()).map_err(|error| undecodable(&error))?;
    if (entry.index, entry.term) != (index, term) {
        return Err(undecodable(&format!("its content is entry {} of term {}", entry.index, entry.term)));
    }
    if change::decode(&entry).map_err(|error| undecodable(&error))?.is_some() || entry.data.is_empty() {
        return Ok(());
    }
    let command = Command::decode(entry.data.as_slice()).map_err(|error| undecodable(&error))?;
    if format::is_known(&command) {
        return Ok(());
    }
    Err(undecodable(&"it is of a newer build; upgrade this node"))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Set;
    use helios_proto::v1::command::Op;

    use super::*;

    fn header() -> RestoreHeader {
        let base = BaseHeader {
            cluster_id: "old".into(),
            index: 10,
            term: 2,
            version: SnapshotMeta::NEWEST_VERSION,
            size_bytes: 8,
            ..BaseHeader::default()
        };
        RestoreHeader {
            cluster_id: "new".into(),
            base: Some(base),
            last_index: 12,
            ..RestoreHeader::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut RestoreHeader, &mut BaseHeader)) -> Error {
        let mut header = header();
        let mut base = header.base.take().unwrap();
        change(&mut header, &mut base);
        header.base = Some(base);
        Plan::of(&header).unwrap_err()
    }

    fn entry(index: u64, term: u64) -> ArchivedEntry {
        let set = Set { key: "k".into(), value: "v".into(), ..Set::default() };
        let command = Command { op: Some(Op::Set(set)), ..Command::default() };
        let entry = Entry { index, term, data: command.encode_to_vec(), ..Entry::default() };
        ArchivedEntry { index, term, now_ms: 0, payload: entry.encode_to_vec().into() }
    }

    fn data(bytes: &'static [u8]) -> RestoreData {
        RestoreData { data: bytes.into(), crc32c: crc32c::crc32c(bytes) }
    }

    fn after_base() -> Position {
        Position::new(&Plan::of(&header()).unwrap(), 8)
    }

    #[test]
    fn header_is_refused_with_the_reason() {
        assert!(Plan::of(&header()).unwrap().base.is_set);
        assert!(refusal(|header, _| header.cluster_id.clear()).message.contains("cluster_id is empty"));
        assert!(refusal(|header, _| header.cluster_id = "old".into()).message.contains("needs a new one"));
        let newer = refusal(|_, base| base.version += 1);
        assert_eq!(newer.code, ErrorCode::SnapshotFailed);
        assert!(newer.message.contains("upgrade the node"), "{newer}");
        for error in [
            refusal(|_, base| base.version = 0),
            refusal(|_, base| base.size_bytes = 0),
            refusal(|_, base| base.term = 0),
            refusal(|_, base| base.index = 0),
            refusal(|header, _| header.last_index = 9),
            refusal(|header, _| header.compare_index = 10),
            refusal(|header, _| header.compare_index = 13),
        ] {
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        }
        assert!(Plan::of(&RestoreHeader { base: None, ..header() }).is_err());
    }

    #[test]
    fn base_is_taken_up_to_its_size_and_each_part_is_checked() {
        let mut position = Position::new(&Plan::of(&header()).unwrap(), 3);
        assert!(!position.has_base());
        assert!(position.take_entries(vec![entry(11, 2)]).unwrap_err().message.contains("3 of 8 bytes"));
        assert!(position.end().unwrap_err().message.contains("3 of 8 bytes"));
        let damaged = RestoreData { crc32c: 1, ..data(b"abcde") };
        assert_eq!(position.take_data(&damaged).unwrap_err().code, ErrorCode::SnapshotFailed);
        assert!(position.take_data(&data(b"abcdef")).is_err());
        position.take_data(&data(b"abcde")).unwrap();
        assert!(position.has_base());
        assert!(position.take_data(&data(b"f")).is_err());
    }

    #[test]
    fn entries_follow_the_base_in_order_up_to_the_last_index() {
        let mut position = after_base();
        assert!(position.take_entries(vec![entry(12, 2)]).unwrap_err().message.contains("gap"));
        assert!(position.take_entries(vec![entry(11, 1)]).unwrap_err().message.contains("below term 2"));
        position.take_entries(vec![entry(11, 2)]).unwrap();
        assert!(position.take_entries(vec![entry(11, 2)]).is_err());
        assert!(position.end().unwrap_err().message.contains("ends at entry 11"));
        let taken = position.take_entries(vec![entry(12, 5)]).unwrap();
        assert_eq!((taken[0].index, taken[0].term), (12, 5));
        position.end().unwrap();
        assert!(position.take_entries(vec![entry(13, 5)]).unwrap_err().message.contains("beyond the last"));
    }

    #[test]
    fn entry_that_cannot_be_applied_is_refused_before_it_is_taken() {
        let other = ArchivedEntry { payload: entry(12, 2).payload, ..entry(11, 2) };
        let unknown =
            Entry { index: 11, term: 2, data: Command::default().encode_to_vec(), ..Entry::default() };
        assert!(unknown.data.is_empty());
        let mut newer = unknown.clone();
        // A field that this build does not know.
        newer.data = vec![0xfa, 0x7f, 0];
        let newer = ArchivedEntry { payload: newer.encode_to_vec().into(), ..entry(11, 2) };
        let damaged = ArchivedEntry { payload: Bytes::from_static(b"\xff\xff"), ..entry(11, 2) };
        for refused in [other, newer, damaged] {
            let error = after_base().take_entries(vec![refused]).unwrap_err();
            assert_eq!(error.code, ErrorCode::Corruption, "{error}");
        }
        let empty = ArchivedEntry { payload: unknown.encode_to_vec().into(), ..entry(11, 2) };
        after_base().take_entries(vec![empty]).unwrap();
    }
}
