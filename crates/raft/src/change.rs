//! Membership changes as log entries, in the encoding that the raft crate expects.

use helios_proto::v1::{ChangeContext, Member};
use prost_raft::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType,
};

/// One change of Raft's configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    AddLearner(Member),
    Promote(u64),
    Remove(u64),
    /// Enters joint consensus, in which a decision needs a majority of the old voters and one of the new voters.
    Joint {
        promote: Vec<u64>,
        remove: Vec<u64>,
    },
    /// Leaves joint consensus (`core/members/joint.rs`).
    LeaveJoint,
}

/// A change with the fencing token of its requester; 0: no token.
#[derive(Debug, Clone, PartialEq)]
pub struct Fenced {
    pub change: Change,
    pub token: u64,
}

impl Change {
    pub fn fenced(self, token: u64) -> Fenced {
        Fenced { change: self, token }
    }
}

impl Fenced {
    /// Encodes the change as an entry that has no index and no term yet.
    pub fn to_entry(&self) -> Entry {
        let (kind, data) = match &self.change {
            Change::Joint { .. } | Change::LeaveJoint => {
                (EntryType::EntryConfChangeV2, self.several().encode_to_vec())
            }
            Change::AddLearner(member) => self.single(ConfChangeType::AddLearnerNode, member.id),
            Change::Promote(id) => self.single(ConfChangeType::AddNode, *id),
            Change::Remove(id) => self.single(ConfChangeType::RemoveNode, *id),
        };
        let mut entry = Entry { data, ..Entry::default() };
        entry.set_entry_type(kind);
        entry
    }

    fn single(&self, kind: ConfChangeType, node_id: u64) -> (EntryType, Vec<u8>) {
        let mut change = ConfChange { node_id, context: self.context(), ..ConfChange::default() };
        change.set_change_type(kind);
        (EntryType::EntryConfChange, change.encode_to_vec())
    }

    fn several(&self) -> ConfChangeV2 {
        let mut several = ConfChangeV2 { context: self.context(), ..ConfChangeV2::default() };
        if let Change::Joint { promote, remove } = &self.change {
            several.set_transition(ConfChangeTransition::Explicit);
            several.changes = (promote.iter().map(|id| (ConfChangeType::AddNode, *id)))
                .chain(remove.iter().map(|id| (ConfChangeType::RemoveNode, *id)))
                .map(|(kind, node_id)| {
                    let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
                    single.set_change_type(kind);
                    single
                })
                .collect();
        }
        several
    }

    /// Encodes the added member, if there is one, followed by the token. Entries of builds without fencing tokens hold
    /// only the member and decode in the same way, with token 0.
    fn context(&self) -> Vec<u8> {
        let mut context = match &self.change {
            Change::AddLearner(member) => prost::Message::encode_to_vec(member),
            _ => Vec::new(),
        };
        let token = ChangeContext { fencing_token: self.token };
        context.extend(prost::Message::encode_to_vec(&token));
        context
    }
}

/// Decodes the entry of a membership change: for the membership, and in the raft crate's form. Returns `None` for
/// entries of another kind.
///
/// # Errors
/// The entry was not written by this code.
pub fn decode(entry: &Entry) -> Result<Option<(Fenced, ConfChangeV2)>, String> {
    let (change, several) = match entry.get_entry_type() {
        EntryType::EntryNormal => return Ok(None),
        EntryType::EntryConfChange => {
            let single = ConfChange::decode(entry.data.as_slice()).map_err(|error| error.to_string())?;
            let change = match single.get_change_type() {
                ConfChangeType::AddLearnerNode => {
                    let member = prost::Message::decode(single.context.as_slice());
                    Change::AddLearner(member.map_err(|error| error.to_string())?)
                }
                ConfChangeType::AddNode => Change::Promote(single.node_id),
                ConfChangeType::RemoveNode => Change::Remove(single.node_id),
            };
            (change, into_v2(single))
        }
        EntryType::EntryConfChangeV2 => {
            let several = ConfChangeV2::decode(entry.data.as_slice()).map_err(|error| error.to_string())?;
            let change = if several.leave_joint() { Change::LeaveJoint } else { joint(&several)? };
            (change, several)
        }
    };
    let context: ChangeContext =
        prost::Message::decode(several.context.as_slice()).map_err(|error| error.to_string())?;
    Ok(Some((change.fenced(context.fencing_token), several)))
}

/// Converts a single change as the raft crate does internally; it does not export the conversion.
fn into_v2(change: ConfChange) -> ConfChangeV2 {
    let single = ConfChangeSingle { change_type: change.change_type, node_id: change.node_id };
    ConfChangeV2 { changes: vec![single], context: change.context, ..ConfChangeV2::default() }
}

fn joint(several: &ConfChangeV2) -> Result<Change, String> {
    let (mut promote, mut remove) = (Vec::new(), Vec::new());
    for single in &several.changes {
        match single.get_change_type() {
            ConfChangeType::AddNode => promote.push(single.node_id),
            ConfChangeType::RemoveNode => remove.push(single.node_id),
            ConfChangeType::AddLearnerNode => {
                return Err(format!("a joint change that makes member {} a learner", single.node_id));
            }
        }
    }
    Ok(Change::Joint { promote, remove })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member { id: 4, name: "d".into(), disk_id: "dd".into(), ..Member::default() }
    }

    fn all() -> [Change; 5] {
        let joint = Change::Joint { promote: vec![4, 5], remove: vec![2] };
        [Change::AddLearner(member()), Change::Promote(4), Change::Remove(2), joint, Change::LeaveJoint]
    }

    #[test]
    fn a_change_and_its_token_survive_the_log() {
        for change in all() {
            for token in [0, 1, u64::MAX] {
                let fenced = change.clone().fenced(token);
                let (found, _) = decode(&fenced.to_entry()).unwrap().unwrap();
                assert_eq!(found, fenced);
            }
        }
    }

    #[test]
    fn conf_changes_enter_and_leave_joint_consensus_explicitly() {
        let several = |change: Change| decode(&change.fenced(7).to_entry()).unwrap().unwrap().1;
        for change in all() {
            let is_joint = matches!(change, Change::Joint { .. });
            let leaves = change == Change::LeaveJoint;
            let made = several(change);
            assert_eq!(made.enter_joint(), is_joint.then_some(false));
            assert_eq!(made.leave_joint(), leaves);
        }
        let one = Change::Joint { promote: vec![4], remove: vec![] };
        assert_eq!(several(one).enter_joint(), Some(false), "a joint change of one is still joint");
    }

    #[test]
    fn an_empty_entry_leaves_a_joint_membership_too() {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        assert_eq!(decode(&entry).unwrap().unwrap().0, Change::LeaveJoint.fenced(0));
    }

    #[test]
    fn an_entry_without_a_fencing_token_decodes_to_token_zero() {
        let mut old = ConfChange { node_id: 4, ..ConfChange::default() };
        old.set_change_type(ConfChangeType::AddLearnerNode);
        old.context = prost::Message::encode_to_vec(&member());
        let mut entry = Entry { data: old.encode_to_vec(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        assert_eq!(decode(&entry).unwrap().unwrap().0, Change::AddLearner(member()).fenced(0));
    }

    #[test]
    fn an_entry_of_a_write_is_no_change() {
        assert_eq!(decode(&Entry { data: b"anything".to_vec(), ..Entry::default() }).unwrap(), None);
    }
}
