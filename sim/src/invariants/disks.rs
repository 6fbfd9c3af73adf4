//! The log that each member's disk must have after a crash: every write that its log writer reported as durable.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use helios_storage::wal::{Base, HardState, LogEntry, Recovered, Wal, WalError};

/// Term and hash of the content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    pub term: u64,
    pub content: u64,
}

impl Fact {
    pub fn of(term: u64, content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self { term, content: hasher.finish() }
    }
}

/// The whole content of a log, as a process finds it.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub base: Base,
    pub hard_state: Option<HardState>,
    pub entries: Vec<LogEntry>,
}

impl Found {
    pub fn read(wal: &Wal, recovered: &Recovered) -> Result<Self, WalError> {
        let base = recovered.outline.base();
        let entries = wal.reader().read_all(base.index, recovered.outline.last())?;
        Ok(Self { base, hard_state: recovered.hard_state, entries })
    }
}

#[derive(Debug, Clone, Default)]
pub struct DurableLog {
    /// Index and term before the first of `entries`.
    base: (u64, u64),
    entries: Vec<Fact>,
    pub term: u64,
    pub vote: u64,
}

impl DurableLog {
    pub fn of(found: &Found) -> Self {
        let state = found.hard_state.unwrap_or_default();
        let base = (found.base.index, found.base.term);
        let mut log = Self { base, entries: Vec::new(), term: state.term, vote: state.vote };
        for entry in &found.entries {
            log.put(entry);
        }
        log
    }

    pub fn reset(&mut self, base: Base) {
        self.base = (base.index, base.term);
        self.entries.clear();
    }

    pub fn put(&mut self, entry: &LogEntry) {
        let offset = (entry.index - self.base.0 - 1) as usize;
        self.entries.truncate(offset);
        self.entries.push(Fact::of(entry.term, &entry.payload));
    }

    pub fn get(&self, index: u64) -> Option<Fact> {
        self.entries.get(index.checked_sub(self.base.0 + 1)? as usize).copied()
    }

    /// Term of the entry at `index`, the base included.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 { Some(self.base.1) } else { self.get(index).map(|fact| fact.term) }
    }

    pub fn base(&self) -> u64 {
        self.base.0
    }

    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    /// Whether the log has the entry. Below its base a snapshot has it.
    fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.base.0 || self.get(index).is_some_and(|fact| fact.term == term)
    }
}

#[derive(Default)]
pub struct Disks {
    logs: BTreeMap<u64, DurableLog>,
    /// Logs of disks that were lost: acknowledgements of their entries may still be in transit.
    forgotten: BTreeMap<u64, Vec<DurableLog>>,
}

impl Disks {
    pub fn log(&self, member: u64) -> Option<&DurableLog> {
        self.logs.get(&member)
    }

    pub fn log_mut(&mut self, member: u64) -> &mut DurableLog {
        self.logs.entry(member).or_default()
    }

    pub fn set(&mut self, member: u64, found: &Found) {
        self.logs.insert(member, DurableLog::of(found));
    }

    pub fn forget(&mut self, member: u64) {
        if let Some(log) = self.logs.remove(&member) {
            self.forgotten.entry(member).or_default().push(log);
        }
    }

    pub fn holds_now(&self, member: u64, index: u64, term: u64) -> bool {
        self.log(member).is_some_and(|log| log.holds(index, term))
    }

    pub fn holds(&self, member: u64, index: u64, term: u64) -> bool {
        let forgotten = self.forgotten.get(&member).into_iter().flatten();
        self.log(member).into_iter().chain(forgotten).any(|log| log.holds(index, term))
    }
}
