//! Persistent state (Raft paper, figure 2 and 5.1): log, term and vote are on stable storage before a member answers,
//! so that a start finds all that was reported as durable.

use helios_storage::wal::Batch;

use super::disks::{Disks, DurableLog, Found};
use super::violated;
use crate::Violation;

/// Checks the log `found` with which `member` starts. It was writing `torn` when it stopped: any part of that may be
/// there.
pub fn check(disks: &Disks, member: u64, found: &Found, torn: &[Batch]) -> Result<(), Violation> {
    let Some(before) = disks.log(member) else { return Ok(()) };
    survives(before, &DurableLog::of(found), torn)
        .map_err(|what| violated("persistent state", format!("member {member} {what}")))
}

fn survives(before: &DurableLog, now: &DurableLog, torn: &[Batch]) -> Result<(), String> {
    // The interrupted write may have replaced the end of the log already.
    let replaced = torn.iter().flat_map(|batch| &batch.entries).map(|entry| entry.index).min();
    let wanted = replaced.map_or(before.last(), |first| before.last().min(first - 1));
    if torn.iter().all(|batch| batch.reset.is_none()) {
        for index in before.base().max(now.base()) + 1..=wanted {
            if before.get(index) != now.get(index) {
                return Err(format!(
                    "lost log entry {index}, which was durable: its log held {:?}, now {:?} from {} to {}",
                    before.get(index),
                    now.get(index),
                    now.base(),
                    now.last()
                ));
            }
        }
        if now.base() > before.last() {
            return Err(format!("begins after {}, its log ended at {}", now.base(), before.last()));
        }
    }
    let may_have_voted = !torn.is_empty();
    if now.term < before.term || (now.term == before.term && now.vote != before.vote && !may_have_voted) {
        return Err(format!(
            "came back with term {} and vote {}, after term {} and vote {}",
            now.term, now.vote, before.term, before.vote
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{batch, log_entry, recovered};
    use super::*;

    fn disks(found: &Found) -> Disks {
        let mut disks = Disks::default();
        disks.set(1, found);
        disks
    }

    #[test]
    fn start_without_a_durable_entry_is_a_violation() {
        let entries = || vec![log_entry(1, 1, "a"), log_entry(2, 1, "b")];
        let disks = disks(&recovered(entries(), 1, 0));
        check(&disks, 1, &recovered(entries(), 1, 0), &[]).unwrap();
        let short = recovered(vec![log_entry(1, 1, "a")], 1, 0);
        check(&disks, 1, &short, &[]).unwrap_err();
        // The second entry was being replaced when the power failed.
        check(&disks, 1, &short, &[batch(vec![log_entry(2, 2, "c")], 2)]).unwrap();
    }

    #[test]
    fn start_with_an_earlier_term_or_another_vote_is_a_violation() {
        let disks = disks(&recovered(Vec::new(), 5, 2));
        check(&disks, 1, &recovered(Vec::new(), 5, 2), &[]).unwrap();
        check(&disks, 1, &recovered(Vec::new(), 6, 0), &[]).unwrap();
        check(&disks, 1, &recovered(Vec::new(), 4, 2), &[]).unwrap_err();
        check(&disks, 1, &recovered(Vec::new(), 5, 0), &[]).unwrap_err();
    }
}
