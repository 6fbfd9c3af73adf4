//! The proposals that a leader accepts while the apply thread holds an entry.

use helios_proto::v1::{ErrorCode, SkipEntry};

use super::{Core, Proposal, refuse};
use crate::unappliable::{Unappliable, skip_in};
use helios_proto::Error;

impl Core {
    /// Returns the accepted proposals: while an entry is held, only one that skips it, because no other could be
    /// applied and answered; otherwise all but those that skip an entry.
    pub(in crate::core) fn refuse_but_skip(&self, proposals: Vec<Proposal>) -> Vec<Proposal> {
        let held = self.applying.held();
        if held.is_none() && proposals.iter().all(|proposal| skip_in(&proposal.data).is_none()) {
            return proposals;
        }
        let mut taken = Vec::new();
        for proposal in proposals {
            let verdict = match (skip_in(&proposal.data), held) {
                (Some(skip), held) if taken.is_empty() || held.is_none() => self.may_skip(&skip, held),
                (Some(skip), _) => Err(under_way(skip.index)),
                (None, Some(held)) => Err(held.error()),
                (None, None) => Ok(()),
            };
            match verdict {
                Ok(()) => taken.push(proposal),
                Err(error) => refuse(vec![proposal], &error),
            }
        }
        taken
    }

    fn may_skip(&self, skip: &SkipEntry, held: Option<&Unappliable>) -> Result<(), Error> {
        let Some(held) = held else {
            return Err(Error::invalid(format!(
                "the leader {} holds no entry, so entry {} is not skipped; members that do may apply it after a restart, or \
                 have to join again",
                self.own_name(),
                skip.index
            )));
        };
        if (held.index, held.crc) != (skip.index, skip.crc) {
            return Err(Error::invalid(format!(
                "entry {} with crc {:08x} is not skipped: the leader {} holds entry {} with crc {:08x}",
                skip.index,
                skip.crc,
                self.own_name(),
                held.index,
                held.crc
            )));
        }
        // A second skip of the same entry would be treated as a skip of an applied entry.
        let unstable = self.raft.unstable_entries();
        let mut later = self.raft.log().after(held.index).chain(unstable);
        if later.any(|entry| skip_in(&entry.data).is_some_and(|earlier| earlier.index == skip.index)) {
            return Err(under_way(skip.index));
        }
        Ok(())
    }
}

fn under_way(index: u64) -> Error {
    let message =
        format!("a skip of entry {index} is already in the log; it takes effect once it is committed");
    Error::new(ErrorCode::EntryUnappliable, message)
}
