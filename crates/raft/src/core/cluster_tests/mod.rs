//! Tests with the cores of one cluster in one thread; the test controls time, network and disks.

mod fast_failover;
mod handover;
mod learners;
mod lease;
mod priority;
mod slow_disk;
mod stability;

use std::collections::{BTreeMap, BTreeSet};

use helios_proto::Error;
use helios_proto::v1::Reply;
use raft::StateRole;
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use tokio::sync::oneshot;

use super::super::change;
use super::tests::fixtures::{BASE, ELECTION_MIN, record, settings};
use super::*;

pub struct Net {
    cores: BTreeMap<u64, Core>,
    disks: BTreeMap<u64, Disk>,
    pub now: Instant,
    /// Links that lose all messages: sender and receiver.
    cut: BTreeSet<(u64, u64)>,
    /// Types of messages that are lost on every link.
    pub lost: Vec<MessageType>,
    lease: Option<Duration>,
    /// Duration of a log write, by member; without an entry a write completes at once.
    pub sync_time: BTreeMap<u64, Duration>,
    /// Log writes in progress: time of the end, member, number.
    writes: Vec<(Instant, u64, u64)>,
}

/// Durable data of a member.
#[derive(Clone)]
struct Disk {
    entries: Vec<Entry>,
    hard_state: HardState,
    membership: Arc<Membership>,
}

impl Net {
    pub fn of_three(lease: Option<Duration>) -> Self {
        let membership = Arc::new(membership::initial("c", (1..=3).map(record).collect()));
        let hard_state = HardState { term: BASE.term, vote: 0, commit: BASE.index };
        let disk = Disk { entries: Vec::new(), hard_state, membership };
        let mut net = Self {
            cores: BTreeMap::new(),
            disks: (1..=3).map(|id| (id, disk.clone())).collect(),
            now: Instant::now(),
            cut: BTreeSet::new(),
            lost: Vec::new(),
            lease,
            sync_time: BTreeMap::new(),
            writes: Vec::new(),
        };
        (1..=3).for_each(|id| net.restart(id));
        net
    }

    /// Restarts a member with its durable data only.
    pub fn restart(&mut self, id: u64) {
        let settings = Settings { held_bytes: 0, lease: self.lease, ..settings(id) };
        let disk = &self.disks[&id];
        let conf_state = membership::conf_state(&disk.membership);
        let log = Log::in_memory(BASE, disk.entries.clone(), disk.hard_state.clone(), conf_state);
        let membership = Arc::clone(&disk.membership);
        let core = Core::new(settings, log, membership, BASE.index, id, self.now).unwrap();
        self.cores.insert(id, core);
    }

    pub fn core(&mut self, id: u64) -> &mut Core {
        self.cores.get_mut(&id).unwrap()
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.cores.keys().copied().filter(|other| *other != id) {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn handle(&mut self, id: u64, input: Input) {
        let now = self.now;
        self.core(id).handle(input, now);
    }

    /// Advances the time tick by tick, and runs all members at each tick.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.cores.values_mut().for_each(Core::tick);
            self.end_writes();
            self.settle();
        }
    }

    fn end_writes(&mut self) {
        let now = self.now;
        let ended: Vec<_> = self.writes.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, id, number) in ended {
            self.core(id).on_done(Done::Persisted(number), now);
        }
    }

    /// Advances the time until a member is leader and has committed an entry of its term; returns its id.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..100 {
            self.advance(ELECTION_MIN / 3);
            let found = self.cores.iter().find(|(_, core)| core.may_lead());
            if let Some((id, _)) = found {
                return *id;
            }
        }
        panic!("no leader was elected");
    }

    /// Delivers messages until there are no more. No time passes.
    pub fn settle(&mut self) {
        loop {
            let ids: Vec<u64> = self.cores.keys().copied().collect();
            let messages: Vec<Message> = ids.into_iter().flat_map(|id| self.drain(id)).collect();
            if messages.is_empty() {
                return;
            }
            self.deliver(messages);
        }
    }

    pub fn deliver(&mut self, messages: Vec<Message>) {
        for message in messages {
            let is_cut = self.cut.contains(&(message.from, message.to));
            if !is_cut && !self.lost.contains(&message.get_msg_type()) {
                let is_bad = self.core(message.from).disk_is_bad();
                self.handle(message.to, Input::PeerDisk { id: message.from, is_bad });
                self.handle(message.to, Input::Messages(vec![message]));
            }
        }
    }

    /// Runs one member until it only waits for others, and returns its messages. Its log writes complete at once,
    /// unless `sync_time` has an entry, and so do its applies.
    pub fn drain(&mut self, id: u64) -> Vec<Message> {
        let now = self.now;
        let mut sent = Vec::new();
        loop {
            let effects = self.core(id).drain(now);
            if effects.is_empty() {
                return sent;
            }
            for effect in effects {
                let done = match effect {
                    Effect::Send(messages) => {
                        sent.extend(messages);
                        None
                    }
                    Effect::Log(LogJob::Append { number, entries, hard_state, .. }) => {
                        self.write(id, entries, hard_state);
                        match self.sync_time.get(&id) {
                            Some(time) => {
                                // Jobs that wait for the current write are written together, after it.
                                let own = self.writes.iter().filter(|(_, whose, _)| *whose == id);
                                let free = own.map(|(at, ..)| *at).min().unwrap_or(now);
                                self.writes.push((free + *time, id, number));
                                None
                            }
                            None => Some(Done::Persisted(number)),
                        }
                    }
                    Effect::Apply(ApplyJob::Entries { entries, bytes }) => {
                        Some(Done::Applied(self.apply(id, entries, bytes)))
                    }
                    Effect::Changed(waiter, membership) => {
                        drop(waiter.send(Ok(membership)));
                        None
                    }
                    _ => None,
                };
                if let Some(done) = done {
                    self.core(id).on_done(done, now);
                }
            }
        }
    }

    fn write(&mut self, id: u64, entries: Vec<Entry>, hard_state: Option<HardState>) {
        let disk = self.disks.get_mut(&id).unwrap();
        if let Some(first) = entries.first() {
            disk.entries.retain(|entry| entry.index < first.index);
        }
        disk.entries.extend(entries);
        disk.hard_state = hard_state.unwrap_or_else(|| disk.hard_state.clone());
    }

    fn apply(&mut self, id: u64, entries: Vec<(Entry, Option<Waiter>)>, bytes: u64) -> Applied {
        let disk = self.disks.get_mut(&id).unwrap();
        let mut applied = Applied {
            index: 0,
            bytes,
            conf_changes: vec![],
            changed: vec![],
            membership: None,
            overlay_bytes: 0,
            skipped: vec![],
        };
        for (entry, waiter) in entries {
            applied.index = entry.index;
            if let Some((change, conf_change)) = change::decode(&entry).unwrap() {
                disk.membership = Arc::new(membership::after(&disk.membership, &change, entry.index));
                applied.membership = Some(Arc::clone(&disk.membership));
                applied.conf_changes.push(conf_change);
            }
            match waiter {
                Some(Waiter::Write(waiter)) => waiter.send(Ok(Reply::default())),
                Some(Waiter::Change(waiter)) => applied.changed.push(waiter),
                None => {}
            }
        }
        applied
    }

    /// Requests a read from member `id` that its lease may serve.
    pub fn lease_read(&mut self, id: u64) -> oneshot::Receiver<Result<u64, Error>> {
        let (waiter, receiver) = oneshot::channel();
        self.handle(id, Input::LeaseRead(waiter));
        receiver
    }
}

impl Core {
    fn may_lead(&self) -> bool {
        self.raft.is_leader() && self.raft.has_committed_in_term()
    }
}
