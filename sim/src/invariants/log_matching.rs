//! Log Matching (Raft paper, figure 3 and 5.3): if two logs have an entry with the same index and term, they are the
//! same up to it. It holds by induction if every such entry has one content, and one term before it.

use std::collections::BTreeMap;

use helios_storage::wal::LogEntry;

use super::disks::{DurableLog, Fact};
use super::violated;
use crate::Violation;

/// An entry, and the term of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    fact: Fact,
    before: Option<u64>,
}

#[derive(Default)]
pub struct LogMatching {
    /// Entries by index and term, committed or not.
    links: BTreeMap<(u64, u64), Link>,
}

impl LogMatching {
    /// Checks an entry that `member` writes to its log, which is `log` before that.
    pub fn on_write(&mut self, member: u64, log: &DurableLog, entry: &LogEntry) -> Result<(), Violation> {
        let fact = Fact::of(entry.term, &entry.payload);
        let link = Link { fact, before: log.term_of(entry.index - 1) };
        let known = *self.links.entry((entry.index, entry.term)).or_insert(link);
        if known == link {
            return Ok(());
        }
        let what = if known.fact == link.fact { "behind another entry" } else { "with another content" };
        Err(violated(
            "log matching",
            format!("member {member} has entry {} of term {} {what} than others", entry.index, entry.term),
        ))
    }

    pub fn forget_from(&mut self, term: u64) {
        self.links.retain(|(_, of), _| *of < term);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::log_entry;
    use super::*;

    fn log(terms: &[u64]) -> DurableLog {
        let mut log = DurableLog::default();
        for (index, term) in (1..).zip(terms) {
            log.put(&log_entry(index, *term, "x"));
        }
        log
    }

    #[test]
    fn another_content_of_the_same_entry_is_a_violation() {
        let mut matching = LogMatching::default();
        matching.on_write(1, &log(&[1]), &log_entry(2, 2, "a")).unwrap();
        matching.on_write(2, &log(&[1]), &log_entry(2, 2, "a")).unwrap();
        matching.on_write(2, &log(&[1]), &log_entry(2, 3, "b")).unwrap();
        matching.on_write(3, &log(&[1]), &log_entry(2, 2, "b")).unwrap_err();
    }

    #[test]
    fn same_entry_behind_another_term_is_a_violation() {
        let mut matching = LogMatching::default();
        matching.on_write(1, &log(&[1, 1]), &log_entry(3, 3, "a")).unwrap();
        matching.on_write(2, &log(&[1, 2]), &log_entry(3, 3, "a")).unwrap_err();
        matching.forget_from(3);
        matching.on_write(2, &log(&[1, 2]), &log_entry(3, 3, "a")).unwrap();
    }
}
