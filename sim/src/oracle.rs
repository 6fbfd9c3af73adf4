//! What must hold after every step, whatever the faults (docs/design/node.md, section 5). It knows what is
//! durable where, since it follows every write that a log writer reported as done.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use helios_proto::v1::Membership;
use helios_raft::simulation::{RaftStatus, Role};
use helios_state::SnapshotMeta;
use helios_storage::wal::{Batch, LogEntry, Recovered};
use raft::eraftpb::{Entry, Message, MessageType};

use crate::Violation;
use crate::reference::Reference;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fact {
    term: u64,
    content: u64,
}

/// What one member's disk must still have after a crash.
#[derive(Debug, Clone, Default)]
struct Durable {
    /// Index before the first of `entries`.
    base: u64,
    entries: Vec<Fact>,
    term: u64,
    vote: u64,
}

/// Who decides: a majority of each set that is not empty.
#[derive(Debug, Clone, Default)]
pub struct Electorate {
    voters: Vec<u64>,
    outgoing: Vec<u64>,
}

impl Electorate {
    pub fn of(membership: &Membership) -> Self {
        let Membership { voters, voters_outgoing, .. } = membership.clone();
        Self { voters, outgoing: voters_outgoing }
    }

    fn has_majority(&self, of: impl Fn(u64) -> bool) -> bool {
        let is_majority = |ids: &[u64]| ids.iter().filter(|id| of(**id)).count() > ids.len() / 2;
        is_majority(&self.voters) && (self.outgoing.is_empty() || is_majority(&self.outgoing))
    }
}

#[derive(Default)]
pub struct Oracle {
    pub reference: Reference,
    /// Who led each term (Raft paper, figure 3: election safety).
    leaders: BTreeMap<u64, u64>,
    /// Whom each member gave its vote of a term, itself included.
    votes: BTreeMap<(u64, u64), u64>,
    /// What was committed at each index (state machine safety).
    committed: BTreeMap<u64, Fact>,
    /// Checksum of the state at an index: the same on every member.
    snapshots: BTreeMap<u64, u32>,
    durable: BTreeMap<u64, Durable>,
    /// What disks held that forgot it since: word of it may still be on its way.
    forgotten: BTreeMap<u64, Vec<Durable>>,
    fingerprint: DefaultHasher,
}

impl Oracle {
    pub fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.fingerprint);
    }

    pub fn fingerprint(&self) -> u64 {
        self.fingerprint.finish()
    }

    /// The last committed entry that is known, index and term.
    pub fn last_committed(&self) -> Option<(u64, u64)> {
        self.committed.last_key_value().map(|(index, fact)| (*index, fact.term))
    }

    /// A member was made the only one in `term`: what others did in later terms is of a cluster that is gone.
    pub fn forced(&mut self, term: u64) {
        self.leaders.retain(|led, _| *led < term);
        self.votes.retain(|(_, voted), _| *voted < term);
    }

    pub fn committed_count(&self) -> u64 {
        self.committed.len() as u64
    }

    pub fn delivered(&mut self, message: &Message) {
        self.note((message.from, message.to, message.msg_type, message.term, message.index, message.commit));
    }

    /// No member gives two votes in one term, restarts or not.
    pub fn sent(&mut self, message: &Message) -> Result<(), Violation> {
        let (voter, candidate) = match message.get_msg_type() {
            MessageType::MsgRequestVote => (message.from, message.from),
            MessageType::MsgRequestVoteResponse if !message.reject => (message.from, message.to),
            _ => return Ok(()),
        };
        let term = message.term;
        match self.votes.insert((voter, term), candidate) {
            Some(earlier) if earlier != candidate => Err(Violation(format!(
                "member {voter} voted for {earlier} and for {candidate} in term {term}"
            ))),
            _ => Ok(()),
        }
    }

    /// One leader in a term; what a leader takes for committed is durable on a majority of voters, of
    /// one of `electorates`.
    pub fn status(
        &mut self,
        member: u64,
        status: &RaftStatus,
        electorates: &[Electorate],
        commit: Option<(u64, u64)>,
    ) -> Result<(), Violation> {
        if status.role != Role::Leader {
            return Ok(());
        }
        let leader = *self.leaders.entry(status.term).or_insert(member);
        if leader != member {
            return Err(Violation(format!("{leader} and {member} both lead in term {}", status.term)));
        }
        let Some((index, term)) = commit else { return Ok(()) };
        let holds = |voter| self.holds(voter, index, term);
        if electorates.iter().any(|electorate| electorate.has_majority(holds)) {
            return Ok(());
        }
        Err(Violation(format!(
            "leader {member} takes {index} of term {term} for committed, which is not durable on a majority of {electorates:?}"
        )))
    }

    /// What a leader would acknowledge as held by all voters is durable on each, of before and after.
    pub fn acknowledged(&self, status: &RaftStatus, index: u64, term: u64) -> Result<(), Violation> {
        let Membership { voters, voters_outgoing, .. } = &*status.membership;
        let lacks = |voter: &&u64| !self.holds(**voter, index, term);
        match voters.iter().chain(voters_outgoing).find(lacks) {
            Some(voter) if status.durable.held_by_all(index) => Err(Violation(format!(
                "{index} of term {term} would be acknowledged as held by all voters, and voter {voter} does not hold it"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the disk of `member` has this entry.
    pub fn holds_now(&self, member: u64, index: u64, term: u64) -> bool {
        self.durable.get(&member).is_some_and(|durable| {
            index <= durable.base || durable.get(index).is_some_and(|fact| fact.term == term)
        })
    }

    /// Whether the disk of `member` has this entry, or had it before it forgot.
    pub fn holds(&self, member: u64, index: u64, term: u64) -> bool {
        let mut disks =
            self.durable.get(&member).into_iter().chain(self.forgotten.get(&member).into_iter().flatten());
        disks.any(|durable| {
            // Below its base it holds a snapshot.
            index <= durable.base || durable.get(index).is_some_and(|fact| fact.term == term)
        })
    }

    /// Every member applies the same entry at an index.
    pub fn committed<'a>(
        &mut self,
        member: u64,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Result<(), Violation> {
        for entry in entries {
            self.reference.commit(entry)?;
            let fact = fact_of(entry);
            let known = *self.committed.entry(entry.index).or_insert(fact);
            if known != fact {
                return Err(Violation(format!(
                    "member {member} commits at {} an entry of term {}, another was committed there in term {}",
                    entry.index, fact.term, known.term
                )));
            }
        }
        Ok(())
    }

    /// The same state at the same index, byte for byte.
    pub fn snapshot(&mut self, member: u64, meta: &SnapshotMeta) -> Result<(), Violation> {
        let known = *self.snapshots.entry(meta.index).or_insert(meta.crc32c);
        if known == meta.crc32c {
            return Ok(());
        }
        Err(Violation(format!("member {member} has another state than others at index {}", meta.index)))
    }

    /// The log writer of `member` reported these as durable.
    pub fn written(&mut self, member: u64, batches: &[Batch]) {
        let durable = self.durable.entry(member).or_default();
        for Batch { reset, entries, hard_state } in batches {
            if let Some(base) = reset {
                durable.base = base.index;
                durable.entries.clear();
            }
            for entry in entries {
                durable.put(entry);
            }
            if let Some(state) = hard_state {
                (durable.term, durable.vote) = (state.term, state.vote);
            }
        }
    }

    /// `member` starts and finds `found` on its disk: nothing that was durable may be missing.
    /// `torn` holds what it was writing when it stopped: of that, any part may be there.
    pub fn started(&mut self, member: u64, found: &Recovered, torn: &[Batch]) -> Result<(), Violation> {
        let now = Durable::of(found);
        if let Some(before) = self.durable.get(&member) {
            before.survives_in(&now, torn).map_err(|what| Violation(format!("member {member} {what}")))?;
        }
        self.durable.insert(member, now);
        Ok(())
    }

    /// The disk of `member` came back older than it was, or not at all.
    pub fn lost(&mut self, member: u64) {
        if let Some(durable) = self.durable.remove(&member) {
            self.forgotten.entry(member).or_default().push(durable);
        }
    }
}

impl Durable {
    fn of(found: &Recovered) -> Self {
        let state = found.hard_state.unwrap_or_default();
        let mut durable =
            Self { base: found.base.index, entries: Vec::new(), term: state.term, vote: state.vote };
        for entry in &found.entries {
            durable.put(entry);
        }
        durable
    }

    fn put(&mut self, entry: &LogEntry) {
        let offset = (entry.index - self.base - 1) as usize;
        self.entries.truncate(offset);
        self.entries.push(Fact { term: entry.term, content: content(&entry.payload) });
    }

    fn get(&self, index: u64) -> Option<Fact> {
        self.entries.get(index.checked_sub(self.base + 1)? as usize).copied()
    }

    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn survives_in(&self, now: &Self, torn: &[Batch]) -> Result<(), String> {
        // What was being written may have replaced the end of the log already.
        let replaced = torn.iter().flat_map(|batch| &batch.entries).map(|entry| entry.index).min();
        let wanted = replaced.map_or(self.last(), |first| self.last().min(first - 1));
        if torn.iter().all(|batch| batch.reset.is_none()) {
            for index in self.base.max(now.base) + 1..=wanted {
                if self.get(index) != now.get(index) {
                    return Err(format!(
                        "lost log entry {index}, which was durable: its log held {:?}, now {:?} from {} to {}",
                        self.get(index),
                        now.get(index),
                        now.base,
                        now.last()
                    ));
                }
            }
            if now.base > self.last() {
                return Err(format!("begins after {}, its log ended at {}", now.base, self.last()));
            }
        }
        let may_have_voted = !torn.is_empty();
        if now.term < self.term || (now.term == self.term && now.vote != self.vote && !may_have_voted) {
            return Err(format!(
                "came back with term {} and vote {}, after term {} and vote {}",
                now.term, now.vote, self.term, self.vote
            ));
        }
        Ok(())
    }
}

fn fact_of(entry: &Entry) -> Fact {
    Fact { term: entry.term, content: content(&entry.data) }
}

fn content(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
