//! The way out when a majority is lost for good: the log of one survivor becomes the whole truth, and
//! the survivor the only member (ADR 0009, after etcd's `--force-new-cluster`).
//!
//! Nothing of the log is dropped, since any entry in it may have been acknowledged. What is not known
//! to be committed becomes so, and the removals of all others follow it as entries like any other: the
//! state machine, restarts and members that join later need no word of it.

use helios_proto::v1::{ErrorCode, Membership};
use raft::eraftpb::Entry;

use super::change::{self, Change};
use super::membership;
use helios_proto::Error;

/// Last entry of the survivor, as an admin has seen it in the status and confirmed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEntry {
    pub term: u64,
    pub index: u64,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// This member is the only one already.
    Done,
    /// What the membership will be.
    Possible(Membership),
}

/// The entries that leave `survivor` alone, without their places in the log, and the membership then.
/// `tail` is what the log holds beyond `membership`, up to `last`: its changes count as committed, and so do their
/// fencing tokens.
pub fn plan<'a>(
    membership: &Membership,
    tail: impl Iterator<Item = &'a Entry>,
    last: u64,
    survivor: u64,
    token: u64,
) -> Result<(Vec<Entry>, Membership), Error> {
    let mut next = membership.clone();
    for entry in tail {
        let decoded = change::decode(entry).map_err(|error| Error::new(ErrorCode::Corruption, error))?;
        if let Some((fenced, _)) = decoded {
            next = membership::after(&next, &fenced, entry.index);
        }
    }
    membership::check_token(&next, token)?;
    let mut entries = Vec::new();
    let mut apply = |next: &mut Membership, change: Change| {
        let fenced = change.fenced(token);
        entries.push(fenced.to_entry());
        *next = membership::after(next, &fenced, last + entries.len() as u64);
    };
    if membership::is_joint(&next) {
        apply(&mut next, Change::LeaveJoint);
    }
    if !next.voters.contains(&survivor) {
        return Err(Error::new(
            ErrorCode::WrongMember,
            format!("the log of member {survivor} makes it no voter in the end; choose another survivor"),
        ));
    }
    let others: Vec<u64> = next.members.iter().map(|member| member.id).filter(|id| *id != survivor).collect();
    others.into_iter().for_each(|id| apply(&mut next, Change::Remove(id)));
    Ok((entries, next))
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Member;

    use super::*;

    fn three() -> Membership {
        let record = |id: u64| Member { id, name: format!("node-{id}"), ..Member::default() };
        membership::initial("c", (1..=3).map(record).collect())
    }

    fn entry(index: u64, change: Change) -> Entry {
        Entry { index, term: 1, ..change.fenced(0).to_entry() }
    }

    fn learner(id: u64) -> Change {
        Change::AddLearner(Member { id, name: format!("node-{id}"), ..Member::default() })
    }

    /// As every member will apply them.
    fn applied(begin: &Membership, tail: &[Entry], planned: &[Entry]) -> Membership {
        (tail.iter().chain(planned)).zip(10..).fold(begin.clone(), |membership, (entry, index)| {
            let (fenced, _) = change::decode(entry).unwrap().unwrap();
            membership::after(&membership, &fenced, index)
        })
    }

    #[test]
    fn all_others_go_and_their_ids_are_never_used_again() {
        let (entries, alone) = plan(&three(), [].iter(), 9, 2, 7).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((&alone.voters[..], alone.members.len()), (&[2][..], 1));
        assert_eq!((alone.next_id, alone.fencing_token, alone.index), (4, 7, 11));
        assert_eq!(applied(&three(), &[], &entries), alone);
        assert!(membership::was_removed(&alone, 1) && membership::was_removed(&alone, 3));
    }

    #[test]
    fn what_the_log_holds_uncommitted_is_counted_in() {
        let tail = [entry(10, learner(4)), entry(11, Change::Joint { promote: vec![4], remove: vec![3] })];
        let (entries, alone) = plan(&three(), tail.iter(), 11, 2, 0).unwrap();
        // Out of the joint membership, which lets 3 go; then 1 and 4.
        assert_eq!(entries.len(), 3);
        assert_eq!((&alone.voters[..], &alone.learners[..], alone.next_id), (&[2][..], &[][..], 5));
        assert_eq!(applied(&three(), &tail, &entries), alone);
    }

    #[test]
    fn a_token_older_than_a_change_that_is_only_in_the_log_is_refused() {
        let newer = Entry { index: 10, term: 1, ..Change::Remove(3).fenced(8).to_entry() };
        let planned = |token| plan(&three(), [newer.clone()].iter(), 10, 2, token);
        assert_eq!(planned(7).unwrap_err().code, ErrorCode::Fenced);
        assert_eq!(planned(8).unwrap().1.fencing_token, 8);
        assert!(planned(0).is_ok(), "no token is not fenced");
    }

    #[test]
    fn planning_again_after_a_crash_adds_nothing() {
        let (mut entries, alone) = plan(&three(), [].iter(), 9, 2, 7).unwrap();
        for (entry, index) in entries.iter_mut().zip(10..) {
            entry.index = index;
        }
        let (again, same) = plan(&three(), entries.iter(), 11, 2, 7).unwrap();
        assert!(again.is_empty());
        assert_eq!(same, alone);
        let (rest, same) = plan(&three(), entries[..1].iter(), 10, 2, 7).unwrap();
        assert_eq!((rest.len(), same), (1, alone), "half of it was written");
    }

    #[test]
    fn a_member_on_its_way_out_cannot_be_the_survivor() {
        let tail = [entry(10, Change::Remove(2))];
        assert_eq!(plan(&three(), tail.iter(), 10, 2, 0).unwrap_err().code, ErrorCode::WrongMember);
        let joint = [entry(10, learner(4)), entry(11, Change::Joint { promote: vec![4], remove: vec![2] })];
        assert_eq!(plan(&three(), joint.iter(), 11, 2, 0).unwrap_err().code, ErrorCode::WrongMember);
    }
}
