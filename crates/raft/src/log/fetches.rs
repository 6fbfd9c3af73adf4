//! Entries that are on disk only, on their way into memory: requests of the raft crate, the jobs made of them, and the
//! entries that were read. All belong to members that lag, at most one of each to a member.

use std::collections::BTreeMap;

use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use super::entry_bytes;

/// Limit of the calls for the same entries that are repeated once they are read. The calls of a member whose call is
/// not repeated come again with its next acknowledgement or heartbeat.
const MAX_CONTEXTS: usize = 8;

#[derive(Default)]
pub struct Fetches {
    /// By the first index.
    requests: BTreeMap<u64, Request>,
    /// By the first index.
    fetched: BTreeMap<u64, Fetched>,
    last_number: u64,
    /// Jobs without a result, also those whose request was dropped.
    under_way: usize,
}

#[derive(Default)]
struct Request {
    contexts: Vec<GetEntriesContext>,
    /// Number of the job that reads the entries; `None`: not begun.
    job: Option<u64>,
}

struct Fetched {
    entries: Vec<Entry>,
    bytes: u64,
}

impl Fetches {
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.fetched.is_empty()
    }

    /// Records that the raft crate wants the entries from `low` on.
    pub fn request(&mut self, low: u64, context: GetEntriesContext) {
        let contexts = &mut self.requests.entry(low).or_default().contexts;
        if contexts.len() < MAX_CONTEXTS {
            contexts.push(context);
        }
    }

    /// Whether the entries from `low` on are requested and no job reads them.
    pub fn is_due(&self, low: u64) -> bool {
        self.requests.get(&low).is_some_and(|request| request.job.is_none())
    }

    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Records that a job reads the entries from `low` on; returns its number.
    pub fn begin(&mut self, low: u64) -> u64 {
        self.last_number += 1;
        self.under_way += 1;
        self.requests.entry(low).or_default().job = Some(self.last_number);
        self.last_number
    }

    /// Records the end of a job; returns the first index of its request and the calls to repeat. `None` if the request
    /// was dropped.
    pub fn end(&mut self, number: u64) -> Option<(u64, Vec<GetEntriesContext>)> {
        self.under_way -= 1;
        let is_of = |_: &u64, request: &mut Request| request.job == Some(number);
        let (low, request) = self.requests.extract_if(.., is_of).next()?;
        Some((low, request.contexts))
    }

    pub fn put(&mut self, low: u64, entries: Vec<Entry>) {
        let bytes = entries.iter().map(entry_bytes).sum();
        self.fetched.insert(low, Fetched { entries, bytes });
    }

    /// The entries from `low` on that were read.
    pub fn get(&self, low: u64) -> Option<&[Entry]> {
        let (first, Fetched { entries, .. }) = self.fetched.range(..=low).next_back()?;
        entries.get(usize::try_from(low - first).ok()?..).filter(|rest| !rest.is_empty())
    }

    /// Drops all that no member needs. `next` are the indexes of the entries that members are sent next.
    pub fn keep_for(&mut self, next: &[u64]) {
        self.requests.retain(|low, _| next.contains(low));
        self.fetched.retain(|low, Fetched { entries, .. }| {
            let indexes = *low..low + entries.len() as u64;
            next.iter().any(|next| indexes.contains(next))
        });
    }

    pub fn clear(&mut self) {
        self.requests.clear();
        self.fetched.clear();
    }

    pub fn bytes(&self) -> u64 {
        self.fetched.values().map(|fetched| fetched.bytes).sum()
    }
}
