//! Committed entries that cannot be applied: the apply thread holds such an entry and all after it, until a later
//! `SkipEntry` turns it into an entry that changes nothing. Pure.
//!
//! A skipped entry and its `SkipEntry` are applied in one batch. So no state, snapshot or checkpoint is ever between
//! the two: a member whose state is between them has applied the entry.

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, ErrorCode, SkipEntry};
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};

use super::suspects::{MAX_ATTEMPTS, Suspects};
use crate::faults;
use helios_proto::Error;
use helios_state::commands;

/// Length of the longest encoded `SkipEntry` command: its time, its request id and two numbers.
const MAX_SKIP_BYTES: usize = 160;
/// Encoded protobuf key of `Command.skip_entry`: field 32, length-delimited.
const SKIP_KEY: [u8; 2] = [0x82, 0x02];

/// A committed entry that this member does not apply, nor any entry after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unappliable {
    pub index: u64,
    /// Name of its command, for users.
    pub command: String,
    pub bytes: u64,
    pub crc: u32,
}

impl Unappliable {
    pub fn of(entry: &Entry) -> Self {
        Self {
            index: entry.index,
            command: name_of(entry),
            bytes: entry.data.len() as u64,
            crc: crc32c::crc32c(&entry.data),
        }
    }

    /// Returns the reason for which this member is not ready.
    pub fn reason(&self) -> String {
        let Self { index, command, bytes, crc } = self;
        format!(
            "does not apply entry {index} ({command}, {bytes} bytes, crc {crc:08x}), which ended its process twice"
        )
    }

    /// Returns the error for requests that wait until this entry, or a later one, is applied here.
    pub fn error(&self) -> Error {
        Error::new(
            ErrorCode::EntryUnappliable,
            format!(
                "{self}: this member does not apply it and waits for heliosctl log skip {} --crc {:08x}",
                self.index, self.crc
            ),
        )
    }
}

impl std::fmt::Display for Unappliable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { index, command, bytes, crc } = self;
        write!(
            f,
            "applying entry {index} ({command}, {bytes} bytes, crc {crc:08x}) ended the process {MAX_ATTEMPTS} times"
        )
    }
}

fn name_of(entry: &Entry) -> String {
    if entry.get_entry_type() != EntryType::EntryNormal {
        return "change of members".to_owned();
    }
    match Command::decode(entry.data.as_slice()) {
        Ok(command) => name_of_command(&command),
        Err(_) => "not decodable".to_owned(),
    }
}

fn name_of_command(command: &Command) -> String {
    let name = match &command.op {
        Some(Op::Set(_)) => "SET",
        Some(Op::Delete(_)) => "DEL",
        Some(Op::Expire(_)) => "EXPIRE",
        Some(Op::Persist(_)) => "PERSIST",
        Some(Op::MultiSet(_)) => "MSET",
        Some(Op::Increment(_)) => "INCRBY",
        Some(Op::FlushAll(_)) => "FLUSHALL",
        Some(Op::PurgeExpired(_)) => "removal of expired keys",
        Some(Op::RegisterMember(_)) => "registration of a member",
        Some(Op::SkipEntry(_)) => "skip of an entry",
        Some(Op::Call(call)) => return commands::name_of(call).to_ascii_uppercase(),
        Some(Op::Apply(apply)) => return format!("{} of the embedding program", apply.kind),
        Some(Op::Transaction(transaction)) => {
            let steps = transaction.steps.len();
            let first = transaction.steps.first().map(name_of_command).unwrap_or_default();
            return format!("transaction of {steps}, the first {first}");
        }
        None => "unknown",
    };
    name.to_owned()
}

/// Decodes a command if it is a `SkipEntry`. Cheap for all other commands.
pub fn skip_in(data: &[u8]) -> Option<SkipEntry> {
    if data.len() > MAX_SKIP_BYTES
        || !data.contains(&SKIP_KEY[0])
        || !data.windows(2).any(|key| key == SKIP_KEY)
    {
        return None;
    }
    match Command::decode(data).ok()?.op? {
        Op::SkipEntry(skip) => Some(skip),
        _ => None,
    }
}

pub fn skip_of(entry: &Entry) -> Option<SkipEntry> {
    (entry.get_entry_type() == EntryType::EntryNormal).then(|| skip_in(&entry.data)).flatten()
}

/// Decision about a sequence of committed entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Number of entries that are applied now; the rest is held.
    pub count: usize,
    /// Indexes of the applied entries that are skipped: they change nothing.
    pub skipped: Vec<u64>,
    /// The entry because of which the rest is held.
    pub held: Option<Unappliable>,
}

/// Decides which committed entries are applied, skipped and held.
///
/// # Errors
/// An entry of `entries` skips one that this member has applied: its state already differs from that of the others.
pub fn plan(entries: &[&Entry], suspects: &Suspects) -> Result<Plan, String> {
    let Some(first) = entries.first().map(|entry| entry.index) else { return Ok(Plan::default()) };
    // Positions of each skipped entry and of its `SkipEntry`.
    let mut skips: Vec<(usize, usize)> = Vec::new();
    for (at, skip) in entries.iter().enumerate().filter_map(|(at, entry)| Some((at, skip_of(entry)?))) {
        if skip.index < first {
            return Err(applied_here(skip.index));
        }
        let target = entries[..at].iter().position(|entry| entry.index == skip.index);
        match target.filter(|target| crc32c::crc32c(&entries[*target].data) == skip.crc) {
            Some(target) => skips.push((target, at)),
            // Leaders reject such a skip. If it is in the log, it changes nothing on any member.
            None => {
                tracing::error!(index = skip.index, "skip ignored: no entry before it has this index and crc")
            }
        }
    }
    let is_skipped = |at: usize| {
        skips.iter().any(|(target, _)| faults::is_covered(*target, at))
            || faults::is_passed_over(suspects, entries[at].index)
    };
    let held = (0..entries.len()).find(|at| suspects.holds(entries[*at].index) && !is_skipped(*at));
    let mut count = held.unwrap_or(entries.len());
    // A skipped entry and its `SkipEntry` stay together: both are applied now, or both are held.
    while let Some((target, _)) = skips.iter().find(|(target, at)| *target < count && *at >= count) {
        count = *target;
    }
    let skipped = (0..count).filter(|at| is_skipped(*at)).map(|at| entries[at].index).collect();
    Ok(Plan { count, skipped, held: held.map(|at| Unappliable::of(entries[at])) })
}

fn applied_here(index: u64) -> String {
    format!(
        "the cluster skips log entry {index}, and this member has applied it: its state differs from that of the others. \
         Remove the member, empty its data directory and let it join again"
    )
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{RequestId, Set, Transaction};

    use super::*;

    fn command(op: Op) -> Command {
        Command { now_ms: 1_800_000_000_000, budget: 1, op: Some(op), ..Command::default() }
    }

    fn set(index: u64) -> Entry {
        let set = Set { key: format!("key-{index}").into(), value: "v".into(), ..Set::default() };
        Entry { index, term: 1, data: command(Op::Set(set)).encode_to_vec(), ..Entry::default() }
    }

    fn skip(index: u64, target: u64, crc: u32) -> Entry {
        let skip = command(Op::SkipEntry(SkipEntry { index: target, crc }));
        Entry { index, term: 1, data: skip.encode_to_vec(), ..Entry::default() }
    }

    fn skip_right(index: u64, target: u64) -> Entry {
        skip(index, target, Unappliable::of(&set(target)).crc)
    }

    fn suspects(held: &[u64]) -> Suspects {
        let mut suspects = Suspects::default();
        held.iter().for_each(|index| suspects.skip(*index));
        suspects
    }

    fn planned(entries: &[Entry], held: &[u64]) -> Plan {
        plan(&entries.iter().collect::<Vec<_>>(), &suspects(held)).unwrap()
    }

    #[test]
    fn entries_are_applied_up_to_the_first_that_is_held() {
        let entries: Vec<Entry> = (5..9).map(set).collect();
        assert_eq!(planned(&entries, &[]), Plan { count: 4, ..Plan::default() });
        let plan = planned(&entries, &[7, 8]);
        assert_eq!((plan.count, plan.held.as_ref().map(|held| held.index)), (2, Some(7)));
        assert_eq!(planned(&entries, &[5]).count, 0);
        assert_eq!(planned(&[], &[5]), Plan::default());
    }

    #[test]
    fn a_skip_with_the_right_crc_releases_all_entries() {
        let entries = [set(5), set(6), set(7), skip_right(8, 6), set(9)];
        for held in [&[6][..], &[]] {
            assert_eq!(planned(&entries, held), Plan { count: 5, skipped: vec![6], held: None });
        }
        let wrong = [set(5), set(6), skip(7, 6, 1)];
        let plan = planned(&wrong, &[6]);
        assert_eq!((plan.count, plan.skipped.len(), plan.held.unwrap().index), (1, 0, 6));
        // A skip of a later entry has no effect.
        assert_eq!(planned(&[skip_right(5, 6), set(6)], &[6]).count, 1);
    }

    #[test]
    fn a_skipped_entry_and_its_skip_are_applied_together() {
        let entries = [set(5), set(6), set(7), skip_right(8, 5), set(9), skip_right(10, 7)];
        let plan = planned(&entries, &[5, 6, 7]);
        assert_eq!((plan.count, plan.skipped.len(), plan.held.unwrap().index), (0, 0, 6));
        let entries = [set(4), set(5), skip_right(6, 5), set(7), set(8), skip_right(9, 7)];
        let plan = planned(&entries, &[5, 7, 8]);
        assert_eq!((plan.count, plan.skipped, plan.held.unwrap().index), (3, vec![5], 8));
    }

    #[test]
    fn a_skip_of_an_applied_entry_is_an_error_that_names_the_remedy() {
        let entries = [skip_right(8, 6)];
        let error = plan(&entries.iter().collect::<Vec<_>>(), &suspects(&[])).unwrap_err();
        assert!(error.contains("entry 6") && error.contains("let it join again"), "{error}");
    }

    #[test]
    fn skips_are_recognized_among_encoded_commands() {
        let data = |op| command(op).encode_to_vec();
        let wanted = SkipEntry { index: u64::MAX, crc: u32::MAX };
        assert_eq!(skip_in(&data(Op::SkipEntry(wanted))), Some(wanted));
        let request_id = RequestId { client_id: vec![1; 64].into(), sequence: u64::MAX, retry: true };
        let longest =
            Command { now_ms: u64::MAX, request_id: Some(request_id), ..command(Op::SkipEntry(wanted)) };
        assert_eq!(skip_in(&longest.encode_to_vec()), Some(wanted));
        let like_it = Set { key: vec![0x82, 0x02].into(), ..Set::default() };
        assert_eq!(skip_in(&data(Op::Set(like_it))), None);
        assert_eq!(skip_in(b""), None);
        assert_eq!(skip_in(&SKIP_KEY), None);
    }

    #[test]
    fn an_entry_is_named_by_its_command() {
        let call = |name: &str| command(Op::Call(commands::call(name, Vec::new())));
        assert_eq!(name_of_command(&call("sort")), "SORT");
        let transaction = Transaction { guards: Vec::new(), steps: vec![call("sort"), call("lcs")] };
        assert_eq!(
            name_of_command(&command(Op::Transaction(transaction))),
            "transaction of 2, the first SORT"
        );
        let error = Unappliable::of(&set(7)).error();
        assert!(error.message.contains("entry 7 (SET, "), "{error}");
        assert!(error.message.contains("heliosctl log skip 7 --crc "), "{error}");
    }
}
