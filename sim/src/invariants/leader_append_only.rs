//! Leader Append-Only (Raft paper, figure 3 and 5.3): a leader never overwrites an entry of its log in its term.

use helios_storage::wal::LogEntry;

use super::disks::{DurableLog, Fact};
use super::violated;
use crate::Violation;

/// `member` leads in the entry's term and writes it to its log.
pub fn check(member: u64, log: &DurableLog, entry: &LogEntry) -> Result<(), Violation> {
    let new = Fact::of(entry.term, &entry.payload);
    match log.get(entry.index) {
        Some(old) if old != new => Err(violated(
            "leader append-only",
            format!(
                "member {member} leads in term {} and replaces entry {} of term {}",
                entry.term, entry.index, old.term
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::log_entry;
    use super::*;

    #[test]
    fn entry_that_its_leader_replaces_is_a_violation() {
        let mut log = DurableLog::default();
        log.put(&log_entry(1, 1, "a"));
        check(1, &log, &log_entry(2, 3, "b")).unwrap();
        check(1, &log, &log_entry(1, 1, "a")).unwrap();
        check(1, &log, &log_entry(1, 3, "b")).unwrap_err();
    }
}
