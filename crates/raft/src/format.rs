//! Log formats: a number for the entries that a build can read. It grows with every kind of entry, or field of one,
//! that an older build would not know or would read differently (ADR 0008).
//!
//! A leader proposes only entries that all members can read: during an upgrade members of two builds are in one
//! cluster, and every member has to apply every committed entry (docs/design/node.md, pitfall 31).

use std::collections::BTreeMap;

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, ErrorCode, Expire, ExpireCondition, Membership};
use prost::Message as _;

use super::membership;
use helios_proto::Error;
use helios_state::{FIRST_BUDGET, Limits, commands};

/// Log format of this build.
pub const FORMAT: u32 = CHUNKS;
/// First format whose builds read snapshots that are sets of files (`helios_state::SnapshotMeta::is_set`).
pub const SNAPSHOT_SETS: u32 = 7;
/// First format in which an entry holds the limits of its cost (`state::budget`).
pub const BUDGETS: u32 = 5;
/// First format in which commands visit the fewest records that they can (`state::budget`).
pub const FEWEST_VISITS: u32 = 7;
/// First format in which long strings are written in chunks (`state::chunks`).
pub const CHUNKS: u32 = 8;
/// First format in which an entry may hold the origin of its write.
pub const WITH_ORIGIN: u32 = 5;
/// First format in which a committed entry can be skipped (`super::unappliable`).
pub const SKIPS: u32 = 5;
/// Log format of builds that do not report one.
pub const OLDEST: u32 = 1;

/// Returns the log format that a member needs to apply `command`.
///
/// # Errors
/// This build does not know the command.
pub fn of(command: &Command) -> Result<u32, Error> {
    let of_origin = if command.origin.is_some() { WITH_ORIGIN } else { OLDEST };
    of_op(command).map(|needed| needed.max(of_origin))
}

fn of_op(command: &Command) -> Result<u32, Error> {
    match &command.op {
        // The meaning of a call never changes, so its name and arguments decide the format.
        Some(Op::Call(call)) if call.command != 0 && commands::of(call).is_none() => Err(unknown()),
        Some(Op::Call(call)) => Ok(commands::format_of(call)),
        Some(Op::Transaction(transaction)) => {
            transaction.steps.iter().try_fold(2, |needed, step| Ok(needed.max(of(step)?)))
        }
        Some(Op::Expire(Expire { condition, .. })) if *condition == ExpireCondition::ExpireXxLt as i32 => {
            Ok(2)
        }
        Some(
            Op::Set(_)
            | Op::Delete(_)
            | Op::Expire(_)
            | Op::Persist(_)
            | Op::MultiSet(_)
            | Op::Increment(_)
            | Op::FlushAll(_)
            | Op::PurgeExpired(_)
            | Op::RegisterMember(_)
            | Op::Apply(_),
        ) => Ok(1),
        Some(Op::SkipEntry(_)) => Ok(SKIPS),
        None => Err(unknown()),
    }
}

/// Returns the version of the limits that entries name while all members read `lowest`; 0 for none.
pub fn budget_of(lowest: u32) -> u32 {
    match lowest {
        CHUNKS.. => helios_state::CHUNKS,
        FEWEST_VISITS.. => helios_state::FEWEST_VISITS,
        BUDGETS.. => FIRST_BUDGET,
        _ => 0,
    }
}

/// Whether this build knows the rules by which the entry of `command` is applied.
pub fn is_known(command: &Command) -> bool {
    command.op.is_some() && Limits::of_entry(command.budget).is_some()
}

/// Whether an entry needs log format 8, so that the disk has to be marked for it. Cheap for entries that do not.
pub fn needs_mark(data: &[u8]) -> bool {
    // Leaders append the version of the budget (`core::proposals`): field 3, a varint of one byte.
    let is_likely = matches!(data, [.., 0x18, version] if u32::from(*version) >= helios_state::CHUNKS);
    is_likely && Command::decode(data).is_ok_and(|command| command.budget >= helios_state::CHUNKS)
}

/// Log formats of the members, as far as this member knows them.
pub struct Formats {
    own: u32,
    /// Formats reported in the last handshake, by member. For other members the format in the membership counts, with
    /// which they registered: a member that is down when the leader starts does not block newer formats.
    heard: BTreeMap<u64, u32>,
}

impl Formats {
    pub fn new(own: u32) -> Self {
        Self { own, heard: BTreeMap::new() }
    }

    pub fn heard(&mut self, id: u64, format: u32) {
        self.heard.insert(id, format.max(OLDEST));
    }

    /// Returns the lowest format among the members; `own_id` is this one.
    pub fn lowest(&self, membership: &Membership, own_id: u64) -> u32 {
        self.lagging(membership, own_id).map_or(self.own, |(_, format)| format.min(self.own))
    }

    /// Returns an error if a member cannot read the format `needed`.
    pub fn check(&self, needed: u32, membership: &Membership, own_id: u64) -> Result<(), Error> {
        match self.lagging(membership, own_id) {
            Some((id, format)) if format < needed => {
                let name = membership::name_of(membership, id).unwrap_or_default();
                Err(refused(&format!(
                    "{name} reads log format {format}, this write needs {needed}: upgrade all members"
                )))
            }
            _ => Ok(()),
        }
    }

    fn lagging(&self, membership: &Membership, own_id: u64) -> Option<(u64, u32)> {
        let others = membership.members.iter().filter(|member| member.id != own_id);
        others
            .map(|member| {
                let heard = self.heard.get(&member.id).copied();
                (member.id, heard.unwrap_or(member.format).max(OLDEST))
            })
            .min_by_key(|(_, format)| *format)
    }
}

fn unknown() -> Error {
    refused("the leader runs an older build that does not know this write: upgrade it")
}

fn refused(reason: &str) -> Error {
    Error::new(ErrorCode::UpgradeInProgress, format!("{reason}, then try again; nothing was written"))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Call, Member, Origin, Set, Transaction};

    use super::*;

    const NEWER: u32 = OLDEST + 1;

    fn members(count: u64) -> Membership {
        let record = |id| Member { id, name: format!("node-{id}"), ..Member::default() };
        membership::initial("c", (1..=count).map(record).collect())
    }

    #[test]
    fn a_newer_format_is_rejected_until_the_last_member_reads_it() {
        let mut formats = Formats::new(NEWER);
        let three = members(3);
        let refusal = |formats: &Formats| formats.check(NEWER, &three, 1).unwrap_err();
        assert_eq!(refusal(&formats).code, ErrorCode::UpgradeInProgress);
        assert!(refusal(&formats).is_retryable());
        formats.heard(2, NEWER);
        assert!(refusal(&formats).message.contains("node-3 reads log format 1"), "{}", refusal(&formats));
        assert_eq!(formats.lowest(&three, 1), OLDEST);
        // Entries of the oldest format are accepted in the meantime.
        formats.check(OLDEST, &three, 1).unwrap();
        formats.heard(3, NEWER);
        formats.check(NEWER, &three, 1).unwrap();
        assert_eq!(formats.lowest(&three, 1), NEWER);
    }

    #[test]
    fn a_newer_format_is_rejected_again_after_a_downgrade_or_a_join() {
        let mut formats = Formats::new(NEWER);
        formats.heard(2, NEWER);
        formats.heard(3, NEWER);
        formats.check(NEWER, &members(3), 1).unwrap();
        formats.check(NEWER, &members(4), 1).unwrap_err();
        formats.heard(3, 0);
        formats.check(NEWER, &members(3), 1).unwrap_err();
        formats.check(NEWER, &members(2), 1).unwrap();
    }

    #[test]
    fn the_registered_format_counts_until_a_member_reports_one() {
        let mut formats = Formats::new(NEWER);
        formats.heard(2, NEWER);
        let mut three = members(3);
        formats.check(NEWER, &three, 1).unwrap_err();
        three.members[2].format = NEWER;
        formats.check(NEWER, &three, 1).unwrap();
        formats.heard(3, OLDEST);
        formats.check(NEWER, &three, 1).unwrap_err();
    }

    #[test]
    fn entries_name_the_newest_budget_that_all_members_read() {
        let budgets = [
            (OLDEST, 0),
            (BUDGETS - 1, 0),
            (BUDGETS, 1),
            (FEWEST_VISITS - 1, 1),
            (FEWEST_VISITS, 2),
            (CHUNKS, 3),
            (99, 3),
        ];
        for (lowest, budget) in budgets {
            assert_eq!(budget_of(lowest), budget, "{lowest}");
        }
    }

    #[test]
    fn entry_needs_the_mark_of_the_disk_from_the_budget_of_chunks_on() {
        let set = |value: &'static [u8]| Set { key: "k".into(), value: value.into(), ..Set::default() };
        for (budget, needs) in [(0, false), (1, false), (2, false), (3, true), (4, true)] {
            let mut data = Command { op: Some(Op::Set(set(b"v"))), ..Command::default() }.encode_to_vec();
            Command { budget, ..Command::default() }.encode(&mut data).unwrap();
            assert_eq!(needs_mark(&data), needs, "{budget}");
        }
        let like_it = Command { op: Some(Op::Set(set(&[0x18, 9]))), ..Command::default() };
        assert!(!needs_mark(&like_it.encode_to_vec()));
        assert!(!needs_mark(b""));
    }

    #[test]
    fn entry_with_an_unknown_budget_is_not_known() {
        let entry = |budget| Command { budget, op: Some(Op::Set(Set::default())), ..Command::default() };
        assert!(is_known(&entry(budget_of(FORMAT))));
        assert!(!is_known(&entry(budget_of(FORMAT) + 1)));
        assert!(!is_known(&Command::default()));
    }

    #[test]
    fn every_command_of_this_build_is_within_its_format() {
        let set = Command { op: Some(Op::Set(Set::default())), ..Command::default() };
        assert!(of(&set).unwrap() <= FORMAT);
        let call = |name: &str| Call { name: name.to_owned(), ..Call::default() };
        for spec in commands::all().filter(|spec| spec.id != 0) {
            let by_id = Call { command: spec.id.into(), ..Call::default() };
            let by_id = Command { op: Some(Op::Call(by_id)), ..Command::default() };
            assert_eq!(of(&by_id).unwrap(), commands::WITH_IDS, "{}", spec.name);
            let by_name = Command { op: Some(Op::Call(call(spec.name))), ..Command::default() };
            assert!((2..=FORMAT).contains(&of(&by_name).unwrap()), "{}", spec.name);
        }
        let args = ["z", "a", "WITHSCORE"].map(bytes::Bytes::from).into();
        let rank = Call { args, ..call("zrank") };
        assert_eq!(of(&Command { op: Some(Op::Call(rank)), ..Command::default() }).unwrap(), 4);
        let steps =
            ["get", "sort"].map(|name| Command { op: Some(Op::Call(call(name))), ..Command::default() });
        let transaction = Transaction { guards: Vec::new(), steps: steps.into() };
        let transaction = Command { op: Some(Op::Transaction(transaction)), ..Command::default() };
        assert_eq!(of(&transaction).unwrap(), 3);
        let named = Command { origin: Some(Origin::default()), ..set };
        assert_eq!(of(&named).unwrap(), WITH_ORIGIN);
        assert_eq!(of(&Command::default()).unwrap_err().code, ErrorCode::UpgradeInProgress);
        let newer = Call { command: u32::from(u16::MAX), ..Call::default() };
        let newer = Command { op: Some(Op::Call(newer)), ..Command::default() };
        assert_eq!(of(&newer).unwrap_err().code, ErrorCode::UpgradeInProgress);
    }
}
