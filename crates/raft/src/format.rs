//! What a build can read of others' logs, as a number. It grows with every kind of entry, or field of one, that an
//! older build would not know or would read differently (ADR 0008).
//!
//! A leader proposes nothing that a member might not be able to read: members of two builds live side by side
//! during an upgrade, and an entry that is committed has to be applied by all (docs/design/node.md, pitfall 31).

use std::collections::BTreeMap;

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, ErrorCode, Expire, ExpireCondition, Membership};

use super::membership;
use helios_proto::Error;
use helios_state::calls;

/// Of this build.
pub const FORMAT: u32 = 5;
/// From which on an entry names the limits on what it may cost (`state::budget`).
pub const BUDGETS: u32 = 5;
/// From which on an entry may say where its write came from.
pub const WITH_ORIGIN: u32 = 5;
/// From which on a committed entry can be skipped (`super::unappliable`).
pub const SKIPS: u32 = 5;
/// Of builds that did not say.
pub const OLDEST: u32 = 1;

/// What a member has to have to apply `command`; an error if this build has it not.
pub fn of(command: &Command) -> Result<u32, Error> {
    let of_origin = if command.origin.is_some() { WITH_ORIGIN } else { OLDEST };
    of_op(command).map(|needed| needed.max(of_origin))
}

fn of_op(command: &Command) -> Result<u32, Error> {
    match &command.op {
        // What a call means never changes, so its words say what is needed.
        Some(Op::Call(call)) => Ok(calls::format_of(call)),
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
        None => Err(refused("the leader runs an older build that does not know this write: upgrade it")),
    }
}

/// What is known of the members' builds.
pub struct Formats {
    own: u32,
    /// As they said in their last handshake. Of the others the membership knows what they registered with, so
    /// that one that is down when a leader's process begins holds nothing back.
    heard: BTreeMap<u64, u32>,
}

impl Formats {
    pub fn new(own: u32) -> Self {
        Self { own, heard: BTreeMap::new() }
    }

    pub fn heard(&mut self, id: u64, format: u32) {
        self.heard.insert(id, format.max(OLDEST));
    }

    /// The lowest among the members, `own_id` being this one.
    pub fn lowest(&self, membership: &Membership, own_id: u64) -> u32 {
        self.lagging(membership, own_id).map_or(self.own, |(_, format)| format.min(self.own))
    }

    /// Refuses what `needed` says that not all members can read.
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
    fn a_newer_kind_waits_for_the_last_member_that_cannot_read_it() {
        let mut formats = Formats::new(NEWER);
        let three = members(3);
        let refusal = |formats: &Formats| formats.check(NEWER, &three, 1).unwrap_err();
        assert_eq!(refusal(&formats).code, ErrorCode::UpgradeInProgress);
        assert!(refusal(&formats).is_retryable());
        formats.heard(2, NEWER);
        assert!(refusal(&formats).message.contains("node-3 reads log format 1"), "{}", refusal(&formats));
        assert_eq!(formats.lowest(&three, 1), OLDEST);
        // What all have had for long goes on all the while.
        formats.check(OLDEST, &three, 1).unwrap();
        formats.heard(3, NEWER);
        formats.check(NEWER, &three, 1).unwrap();
        assert_eq!(formats.lowest(&three, 1), NEWER);
    }

    #[test]
    fn a_member_that_came_back_with_an_older_build_or_has_just_joined_closes_the_gate_again() {
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
    fn who_was_not_heard_reads_what_it_registered_with_and_who_was_is_believed() {
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
    fn every_command_of_this_build_is_within_its_format() {
        let set = Command { op: Some(Op::Set(Set::default())), ..Command::default() };
        assert!(of(&set).unwrap() <= FORMAT);
        let call = |name: &str| Call { name: name.to_owned(), args: Vec::new() };
        for verb in calls::all() {
            let call = Command { op: Some(Op::Call(call(verb.name))), ..Command::default() };
            assert!((2..=FORMAT).contains(&of(&call).unwrap()), "{}", verb.name);
        }
        let words = ["z", "a", "WITHSCORE"].map(bytes::Bytes::from).into();
        let rank = Call { args: words, ..call("zrank") };
        assert_eq!(of(&Command { op: Some(Op::Call(rank)), ..Command::default() }).unwrap(), 4);
        let steps =
            ["get", "sort"].map(|name| Command { op: Some(Op::Call(call(name))), ..Command::default() });
        let transaction = Transaction { guards: Vec::new(), steps: steps.into() };
        let transaction = Command { op: Some(Op::Transaction(transaction)), ..Command::default() };
        assert_eq!(of(&transaction).unwrap(), 3);
        let named = Command { origin: Some(Origin::default()), ..set };
        assert_eq!(of(&named).unwrap(), WITH_ORIGIN);
        assert_eq!(of(&Command::default()).unwrap_err().code, ErrorCode::UpgradeInProgress);
    }
}
