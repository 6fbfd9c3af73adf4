//! Tests of the core alone: messages in, effects out, and the tests complete the log writes.

mod fetching;
pub mod fixtures;
mod formats;
mod purge;
mod room;
mod rules;
mod skipping;

use helios_proto::Error;
use helios_proto::v1::{ErrorCode, Reply};
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, HardState, Message, MessageType,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::*;
use crate::format::OLDEST;
use fixtures::{BASE, HELD_BYTES, newcomer, record, settings};

/// Effects of one drain.
#[derive(Default)]
struct Turn {
    sent: Vec<Message>,
    log: Vec<u64>,
    appended: Vec<Entry>,
    resets: Vec<u64>,
    restores: Vec<u64>,
    applied: Vec<Entry>,
    fetches: Vec<FetchJob>,
    wants_snapshot: bool,
}

impl Turn {
    fn sent_types(&self) -> Vec<MessageType> {
        self.sent.iter().map(Message::get_msg_type).collect()
    }
}

/// Member `id` of `voters`, with entries of term 1 after the base up to `last`, all committed.
fn member(id: u64, voters: &[u64], last: u64, hard_state: HardState) -> Core {
    member_beside(id, voters, &[], last, hard_state)
}

fn member_beside(id: u64, voters: &[u64], learners: &[u64], last: u64, hard_state: HardState) -> Core {
    let settings = settings(id);
    let entries = (BASE.index + 1..=last).map(|index| entry(index, 1)).collect();
    let hard_state = HardState { commit: last, term: hard_state.term.max(1), ..hard_state };
    let log = Log::in_memory(
        BASE,
        entries,
        hard_state,
        ConfState { learners: learners.to_vec(), ..conf_state(voters) },
    );
    let mut membership = membership::initial("c", voters.iter().copied().map(record).collect());
    membership.members.extend(learners.iter().copied().map(record));
    membership.learners = learners.to_vec();
    // Started long enough ago to vote (`breaks_boot_quiet`).
    let started = Instant::now() - settings.election_min;
    Core::new(settings, log, Arc::new(membership), last, id, started).unwrap()
}

fn follower(hard_state: HardState) -> Core {
    member(1, &[1, 2, 3], 5, hard_state)
}

fn conf_state(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), ..ConfState::default() }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: vec![7; 10], ..Entry::default() }
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: 1, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn vote_request(from: u64, term: u64) -> Message {
    Message { index: 5, log_term: 1, ..message(MessageType::MsgRequestVote, from, term) }
}

/// Append of one entry after `index` and `log_term`.
fn append(term: u64, index: u64, log_term: u64) -> Message {
    let entries = vec![entry(index + 1, term)];
    Message { index, log_term, entries, commit: 5, ..message(MessageType::MsgAppend, 2, term) }
}

fn snapshot(term: u64, index: u64) -> Message {
    let conf_state = Some(conf_state(&[1, 2, 3]));
    let metadata = Some(SnapshotMetadata { conf_state, index, term });
    Message {
        snapshot: Some(Snapshot { data: Vec::new(), metadata }),
        ..message(MessageType::MsgSnapshot, 2, term)
    }
}

fn step(core: &mut Core, message: Message) -> Turn {
    core.handle(Input::Messages(vec![message]), Instant::now());
    turn(core)
}

fn persisted(core: &mut Core, number: u64) -> Turn {
    core.on_done(Done::Persisted(number), Instant::now());
    turn(core)
}

fn turn(core: &mut Core) -> Turn {
    let mut turn = Turn::default();
    for effect in core.drain(Instant::now()) {
        match effect {
            Effect::Send(messages) => turn.sent.extend(messages),
            Effect::Log(LogJob::Append { number, reset, entries, .. }) => {
                turn.log.push(number);
                turn.appended.extend(entries);
                turn.resets.extend(reset.map(|base| base.index));
            }
            Effect::Apply(ApplyJob::Entries { entries, .. }) => {
                turn.applied.extend(entries.into_iter().map(|(entry, _)| entry));
            }
            Effect::Apply(ApplyJob::Restore { index }) => turn.restores.push(index),
            Effect::Fetch(job) => turn.fetches.push(job),
            Effect::BuildSnapshot { .. } => turn.wants_snapshot = true,
            _ => {}
        }
    }
    turn
}

#[test]
fn a_vote_is_sent_only_after_it_is_durable() {
    let mut core = follower(HardState::default());
    let asked = step(&mut core, vote_request(2, 5));
    assert!(asked.sent.is_empty(), "{:?} sent before the vote was durable", asked.sent_types());
    let on_disk = persisted(&mut core, asked.log[0]);
    assert_eq!(on_disk.sent_types(), [MessageType::MsgRequestVoteResponse]);
    assert!(!on_disk.sent[0].reject);
}

#[test]
fn a_second_vote_in_a_term_is_rejected_after_a_crash() {
    let mut core = follower(HardState { term: 5, vote: 2, ..HardState::default() });
    let other = step(&mut core, vote_request(3, 5));
    assert!(other.sent.iter().all(|message| message.reject), "a second vote in one term");
    let same = step(&mut core, vote_request(2, 5));
    assert!(same.sent.iter().any(|message| !message.reject), "the same vote may be repeated");
}

#[test]
fn entries_are_acknowledged_only_after_they_are_durable_and_not_by_a_heartbeat() {
    let mut core = follower(HardState::default());
    let appended = step(&mut core, append(2, 5, 1));
    let heard = step(&mut core, Message { commit: 5, ..message(MessageType::MsgHeartbeat, 2, 2) });
    for early in appended.sent.iter().chain(&heard.sent) {
        assert!(early.index < 6 && early.commit < 6, "{early:?} acknowledges an entry that is not durable");
    }
    let on_disk = persisted(&mut core, appended.log[0]);
    let acknowledged: Vec<_> = on_disk.sent.iter().filter(|message| message.index == 6).collect();
    assert_eq!(acknowledged.len(), 1);
    assert_eq!(acknowledged[0].get_msg_type(), MessageType::MsgAppendResponse);
}

#[test]
fn appends_are_acknowledged_in_order_and_a_late_completion_acknowledges_nothing() {
    let mut core = follower(HardState::default());
    let numbers: Vec<_> = [append(2, 5, 1), append(2, 6, 2), append(2, 7, 2)]
        .map(|message| step(&mut core, message).log[0])
        .into();
    let indexes = |turn: &Turn| turn.sent.iter().map(|message| message.index).collect::<Vec<_>>();
    assert_eq!(indexes(&persisted(&mut core, numbers[0])), [6]);
    assert_eq!(indexes(&persisted(&mut core, numbers[2])), [7, 8], "the third completion covers the second");
    assert!(persisted(&mut core, numbers[1]).sent.is_empty());
}

#[test]
fn two_snapshots_in_a_row_are_installed_in_order_and_a_stale_one_is_not() {
    let mut core = follower(HardState::default());
    let first = step(&mut core, snapshot(2, 10));
    let second = step(&mut core, snapshot(2, 20));
    assert_eq!((first.resets, second.resets), (vec![10], vec![20]));
    assert!(
        first.restores.is_empty() && second.restores.is_empty(),
        "the state was restored before the log was reset"
    );
    assert_eq!(persisted(&mut core, second.log[0]).restores, [10, 20]);
    // No election before the state is that of the second one, to which the log was reset.
    for (index, is_restoring) in [(10, true), (20, false)] {
        let membership = core.membership.clone();
        core.on_done(Done::Restored { index, membership, bytes: 0 }, Instant::now());
        assert_eq!(core.pipeline.is_restoring(), is_restoring, "after {index}");
    }

    let stale = step(&mut core, snapshot(2, 15));
    assert!(stale.resets.is_empty() && stale.restores.is_empty(), "a stale snapshot was installed");
    assert_eq!(core.status(Instant::now()).last_index, 20);
}

/// Seed 359422: member 4 was a voter in the snapshot and became a learner again, for this member only.
#[test]
fn change_of_members_from_before_a_snapshot_does_not_change_the_membership_of_the_snapshot() {
    let mut core = follower(HardState::default());
    let mut removal = ConfChangeV2::default();
    removal
        .mut_changes()
        .push(ConfChangeSingle { node_id: 3, change_type: ConfChangeType::RemoveNode.into() });
    let older = || Applied { index: 5, conf_changes: vec![removal.clone()], ..Applied::default() };
    core.handle(Input::Messages(vec![snapshot(2, 10)]), Instant::now());
    core.on_done(Done::Applied(older()), Instant::now());
    assert_eq!(core.raft.voters(), [1, 2, 3], "accepted; a Ready may wait for the disk");
    let installed = turn(&mut core);
    core.on_done(Done::Applied(older()), Instant::now());
    assert_eq!(core.raft.voters(), [1, 2, 3], "handed out; the state is restored later");
    persisted(&mut core, installed.log[0]);
    let membership = core.membership.clone();
    core.on_done(Done::Restored { index: 10, membership, bytes: 0 }, Instant::now());
    let next = step(&mut core, Message { commit: 11, ..append(2, 10, 2) });
    persisted(&mut core, next.log[0]);
    let applied = Applied { index: 11, conf_changes: vec![removal], ..Applied::default() };
    core.on_done(Done::Applied(applied), Instant::now());
    assert_eq!(core.raft.voters(), [1, 2], "a change after the snapshot is applied");
}

#[test]
fn a_snapshot_that_contradicts_a_committed_entry_is_dropped() {
    let mut core = follower(HardState::default());
    let contrary = step(&mut core, snapshot(2, 5));
    assert!(contrary.resets.is_empty(), "entry 5 of term 1 is committed");
    let status = core.status(Instant::now());
    assert_eq!((status.last_index, status.snapshot_index), (5, BASE.index));
}

#[test]
fn a_follower_of_a_live_leader_ignores_vote_requests() {
    let mut core = follower(HardState::default());
    step(&mut core, message(MessageType::MsgHeartbeat, 2, 2));
    for candidate in [3, 77] {
        for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
            let asked = step(&mut core, Message { index: 9, log_term: 9, ..message(kind, candidate, 9) });
            assert!(asked.sent.is_empty() && asked.log.is_empty());
        }
    }
    assert_eq!(core.status(Instant::now()).term, 2);
}

#[test]
fn a_second_membership_change_is_rejected_while_one_is_pending() {
    let mut core = leader_of_one();
    let add = |name: &str| {
        let (waiter, answer) = oneshot::channel();
        (
            Input::Change {
                request: ChangeRequest::AddLearner(newcomer(name)),
                expected: Expected::default(),
                waiter,
            },
            answer,
        )
    };
    let (first, mut first_answer) = add("x");
    let (second, mut second_answer) = add("y");
    core.handle(first, Instant::now());
    core.handle(second, Instant::now());
    turn(&mut core);
    assert!(first_answer.try_recv().is_err(), "answered before it was applied");
    let refused = second_answer.try_recv().unwrap().unwrap_err();
    assert_eq!(refused.code, ErrorCode::MembershipChangeInProgress);
}

#[test]
fn a_membership_change_is_applied_only_after_its_commit_index_is_durable() {
    let mut core = leader_of_one();
    let (waiter, _answer) = oneshot::channel();
    let request = ChangeRequest::AddLearner(newcomer("x"));
    core.handle(Input::Change { request, expected: Expected::default(), waiter }, Instant::now());
    let (write, _reply) = proposal(b"x");
    core.handle(Input::Propose(vec![write]), Instant::now());

    let mut next = turn(&mut core);
    let entries = *next.log.last().unwrap();
    next = persisted(&mut core, entries);
    assert!(next.applied.is_empty(), "a crash now would forget that the change is committed");
    let commit = *next.log.last().expect("the commit index is written");
    assert_eq!(persisted(&mut core, commit).applied.len(), 2, "the write keeps its place behind the change");
}

#[test]
fn a_single_voter_commits_only_durable_entries() {
    let mut core = leader_of_one();
    let (proposal, _answer) = proposal(b"x");
    core.handle(Input::Propose(vec![proposal]), Instant::now());
    let proposed = turn(&mut core);
    assert!(proposed.applied.is_empty(), "committed before its own fsync");
    let number = *proposed.log.last().unwrap();
    assert_eq!(persisted(&mut core, number).applied.len(), 1);
}

fn proposal(data: &[u8]) -> (Proposal, oneshot::Receiver<Result<Reply, Error>>) {
    let (waiter, answer) = oneshot::channel();
    (
        Proposal { data: data.to_vec(), format: OLDEST, waiter: waiter.into(), charge: Charge::default() },
        answer,
    )
}

fn leader_of_one() -> Core {
    let mut core = member(1, &[1], 5, HardState::default());
    (0..100).for_each(|_| core.tick());
    let mut numbers = turn(&mut core).log;
    while let Some(number) = numbers.pop() {
        numbers.extend(persisted(&mut core, number).log);
    }
    assert_eq!(core.status(Instant::now()).role, Role::Leader);
    core
}

/// Three members and the messages between them.
pub struct Mesh {
    cores: Vec<Core>,
    under_way: Vec<Message>,
    /// Entries that each core has handed out, by position.
    applied: Vec<Vec<Entry>>,
    /// Fetches that the tests complete, with the position of the core.
    fetches: Vec<(usize, FetchJob)>,
    /// Whether any core asked for a snapshot.
    wants_snapshot: bool,
    rng: StdRng,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let cores = (1..=3).map(|id| member(id, &[1, 2, 3], 1, HardState::default())).collect();
        let rng = StdRng::seed_from_u64(seed);
        let (under_way, fetches) = (Vec::new(), Vec::new());
        Self { cores, under_way, applied: vec![Vec::new(); 3], fetches, wants_snapshot: false, rng }
    }

    /// Waits for a leader whose log all members have committed, and returns its position.
    fn elect(&mut self) -> usize {
        for _ in 0..1_000 {
            self.step(true);
            let statuses: Vec<_> = self.cores.iter().map(|core| core.status(Instant::now())).collect();
            let leader = statuses.iter().position(|status| status.role == Role::Leader);
            if let Some(leader) = leader
                && statuses.iter().all(|other| other.commit_index == statuses[leader].last_index)
            {
                return leader;
            }
        }
        panic!("no leader was elected");
    }

    fn settle(&mut self, at: usize) {
        let mut next = turn(&mut self.cores[at]);
        loop {
            let Turn { sent, log, applied, fetches, wants_snapshot, .. } = next;
            self.under_way.extend(sent);
            self.fetches.extend(fetches.into_iter().map(|job| (at, job)));
            self.wants_snapshot |= wants_snapshot;
            if let Some(last) = applied.last() {
                let bytes = applied.iter().map(|entry| entry.data.len() as u64 + 64).sum();
                let done = Applied {
                    index: last.index,
                    bytes,
                    conf_changes: vec![],
                    changed: vec![],
                    membership: None,
                    overlay_bytes: 0,
                    skipped: vec![],
                };
                self.cores[at].on_done(Done::Applied(done), Instant::now());
            }
            self.applied[at].extend(applied);
            let Some(number) = log.last() else { return };
            next = persisted(&mut self.cores[at], *number);
        }
    }

    /// Delivers the oldest message if `is_fair`. Otherwise any message, which may be lost or duplicated.
    fn deliver(&mut self, is_fair: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let at = if is_fair { 0 } else { self.rng.random_range(0..self.under_way.len()) };
        let message = self.under_way.remove(at);
        if !is_fair {
            if self.rng.random_ratio(1, 20) {
                return;
            }
            if self.rng.random_ratio(1, 5) {
                self.under_way.push(message.clone());
            }
        }
        let to = message.to as usize - 1;
        self.cores[to].handle(Input::Messages(vec![message]), Instant::now());
        self.settle(to);
    }

    fn step(&mut self, is_fair: bool) {
        for at in 0..3 {
            self.cores[at].tick();
            self.settle(at);
        }
        for _ in 0..20 {
            self.deliver(is_fair);
        }
    }

    fn propose_everywhere(&mut self, data: &[u8]) {
        for at in 0..3 {
            let (proposal, _) = proposal(data);
            self.cores[at].handle(Input::Propose(vec![proposal]), Instant::now());
            self.settle(at);
        }
    }
}

#[test]
fn duplicated_reordered_and_lost_messages_apply_everything_once_in_one_order() {
    for seed in 0..10 {
        let mut mesh = Mesh::new(seed);
        for round in 0..600_u32 {
            mesh.step(false);
            mesh.propose_everywhere(&round.to_be_bytes());
        }
        for _ in 0..300 {
            mesh.step(true);
        }
        let indexes: Vec<_> = mesh.applied[0].iter().map(|entry| entry.index).collect();
        assert!(indexes.len() > 300, "seed {seed}: only {} entries were committed", indexes.len());
        assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "seed {seed}: a gap or a duplicate");
        assert!(mesh.applied.iter().all(|other| *other == mesh.applied[0]), "seed {seed}: orders differ");
    }
}
