//! Tests of the limits of log and overlay in memory while entries are not applied, and snapshots and checkpoints fail.

use helios_proto::v1::command::Op;
use helios_proto::v1::{Command, Delete, Set};
use prost::Message as _;

use super::*;
use crate::types::Charge;
use helios_proto::Error;

const MIB: u64 = 1 << 20;
/// Below the limit of the entries that are handed out and not applied.
const LIMIT: u64 = 24 * MIB;

type Answer = oneshot::Receiver<Result<Reply, Error>>;

/// A core whose log writes complete at once, and whose snapshots fail.
struct Rig {
    core: Core,
    now: Instant,
    overlay_bytes: u64,
    snapshots_wanted: usize,
    applied: Vec<u64>,
    /// Whether the apply thread hangs; `pending` is what it has not reported.
    holds_applies: bool,
    pending: Option<Applied>,
    /// Most bytes that were handed out to the apply thread before it completed any.
    most_applying: u64,
}

impl Rig {
    fn new(core: Core) -> Self {
        Self {
            core,
            now: Instant::now(),
            overlay_bytes: 0,
            snapshots_wanted: 0,
            applied: Vec::new(),
            holds_applies: false,
            pending: None,
            most_applying: 0,
        }
    }

    /// The leader of a cluster of one.
    fn leader() -> Self {
        let mut core = member(1, &[1], 5, HardState::default());
        core.settings.max_log_bytes = LIMIT;
        core.settings.max_overlay_bytes = LIMIT;
        let mut rig = Self::new(core);
        for _ in 0..100 {
            rig.core.tick();
            rig.run();
        }
        assert_eq!(rig.core.status(rig.now).role, Role::Leader);
        rig
    }

    fn run(&mut self) {
        loop {
            let mut done = Vec::new();
            let mut applying = 0;
            for effect in self.core.drain(self.now) {
                match effect {
                    Effect::Log(LogJob::Append { number, .. }) => done.push(Done::Persisted(number)),
                    Effect::Apply(ApplyJob::Entries { entries, bytes }) => {
                        applying += bytes;
                        self.applied.extend(entries.iter().map(|(entry, _)| entry.index));
                        let index = entries.last().unwrap().0.index;
                        let bytes = bytes + self.pending.take().map_or(0, |pending| pending.bytes);
                        self.pending = Some(self.applied_at(index, bytes));
                    }
                    Effect::Apply(ApplyJob::Restore { index }) => {
                        let membership = Arc::clone(&self.core.membership);
                        done.push(Done::Restored { index, membership, bytes: 0 });
                    }
                    Effect::BuildSnapshot { .. } => {
                        self.snapshots_wanted += 1;
                        done.push(Done::SnapshotFailed);
                    }
                    _ => {}
                }
            }
            self.most_applying = self.most_applying.max(applying);
            let applied = self.pending.take_if(|_| !self.holds_applies);
            done.extend(applied.map(Done::Applied));
            if done.is_empty() {
                return;
            }
            done.into_iter().for_each(|done| self.core.on_done(done, self.now));
        }
    }

    fn applied_at(&self, index: u64, bytes: u64) -> Applied {
        let overlay_bytes = self.overlay_bytes;
        Applied { index, bytes, overlay_bytes, ..Applied::default() }
    }

    fn propose(&mut self, op: Op) -> Answer {
        let data = Command { op: Some(op), ..Command::default() }.encode_to_vec();
        let (waiter, answer) = oneshot::channel();
        let proposal = Proposal { data, format: OLDEST, waiter: waiter.into(), charge: Charge::default() };
        self.core.handle(Input::Propose(vec![proposal]), self.now);
        answer
    }

    fn set(&mut self, bytes: u64) -> Answer {
        self.propose(Op::Set(Set { value: vec![7; bytes as usize].into(), ..Set::default() }))
    }

    /// Proposes writes of 1 MiB, one per second.
    fn write_slowly(&mut self, count: usize) -> Vec<Answer> {
        let write = |_| {
            let answer = self.set(MIB);
            self.run();
            self.now += Duration::from_secs(1);
            answer
        };
        (0..count).map(write).collect()
    }

    fn log_bytes(&self) -> u64 {
        self.core.raft.log().memory_bytes() + self.core.raft.unstable_bytes()
    }

    fn last_index(&self) -> u64 {
        self.core.status(self.now).last_index
    }
}

fn refusals(answers: &mut [Answer]) -> Vec<Error> {
    answers.iter_mut().filter_map(|answer| answer.try_recv().ok()?.err()).collect()
}

#[test]
fn a_leader_whose_applies_hang_rejects_writes_at_the_limit_of_its_log() {
    let mut rig = Rig::leader();
    rig.holds_applies = true;
    let mut answers = rig.write_slowly(300);
    assert!((LIMIT / 2..LIMIT + 2 * MIB).contains(&rig.log_bytes()), "{} bytes", rig.log_bytes());
    let refused = refusals(&mut answers);
    assert!(refused.len() > 200, "{}", refused.len());
    let last = refused.last().unwrap();
    assert_eq!(last.code, ErrorCode::Overloaded);
    for part in ["25165824", "raft.max_log_bytes", "node-1"] {
        assert!(last.message.contains(part), "{last}");
    }
    assert!(last.is_retryable());
    // Writes that free room are accepted up to a higher limit.
    let mut delete = rig.propose(Op::Delete(Delete::default()));
    rig.run();
    assert!(refusals(std::slice::from_mut(&mut delete)).is_empty());
    rig.holds_applies = false;
    rig.run();
    assert!(rig.log_bytes() <= LIMIT / 4, "{} bytes after all is applied", rig.log_bytes());
    let mut answer = rig.set(MIB);
    let before = rig.last_index();
    rig.run();
    assert!(refusals(std::slice::from_mut(&mut answer)).is_empty());
    assert_eq!(rig.last_index(), before + 1);
}

#[test]
fn failed_snapshots_are_retried_and_reject_no_write() {
    let mut rig = Rig::leader();
    let mut answers = rig.write_slowly(300);
    assert!(rig.snapshots_wanted > 10, "failed snapshots are not retried");
    assert!(refusals(&mut answers).is_empty());
    assert!(rig.core.raft.log().bytes() > 300 * MIB, "the log was purged without a snapshot");
    assert!(rig.log_bytes() <= LIMIT / 4, "{} bytes in memory", rig.log_bytes());
}

#[test]
fn a_leader_slows_down_writes_from_half_of_its_limit_on() {
    let mut rig = Rig::leader();
    rig.holds_applies = true;
    for _ in 0..LIMIT / MIB / 2 + 1 {
        drop(rig.set(MIB));
        rig.run();
    }
    assert!(rig.log_bytes() > LIMIT / 2);
    rig.now += Duration::from_secs(60);
    // The rate is about 3 MiB per second: a burst is proposed at once, about a second's worth waits, the rest is
    // rejected.
    let (before, mut answers) = (rig.last_index(), Vec::new());
    for _ in 0..200 {
        answers.push(rig.set(64 << 10));
    }
    rig.run();
    let at_once = rig.last_index() - before;
    let refused = refusals(&mut answers).len() as u64;
    assert!((1..10).contains(&at_once), "{at_once} at once");
    assert!((100..190).contains(&refused), "{refused} refused");
    for _ in 0..200 {
        rig.now += Duration::from_millis(10);
        rig.run();
    }
    assert_eq!(rig.last_index() - before, 200 - refused, "all waiting writes are proposed");
}

#[test]
fn a_leader_rejects_writes_while_the_overlay_is_at_its_limit() {
    let mut rig = Rig::leader();
    rig.overlay_bytes = LIMIT;
    drop(rig.set(10));
    rig.run();
    let mut answer = [rig.set(10)];
    rig.run();
    let refused = refusals(&mut answer);
    assert_eq!(refused[0].code, ErrorCode::Overloaded);
    assert!(refused[0].message.contains("state.max_overlay_bytes"), "{}", refused[0]);
    rig.core.on_done(Done::Overlay { bytes: 0, durable: 0, state_bytes: 0 }, rig.now);
    let mut answer = [rig.set(10)];
    rig.run();
    assert!(refusals(&mut answer).is_empty());
}

/// Append of one entry of 1 MiB after index `after`.
fn large_append(after: u64) -> Message {
    let large = Entry { index: after + 1, term: 1, data: vec![7; MIB as usize], ..Entry::default() };
    Message { index: after, log_term: 1, entries: vec![large], ..append(1, after, 1) }
}

#[test]
fn a_follower_drops_entries_beyond_the_limit_of_its_log_until_earlier_ones_are_applied() {
    let mut core = follower(HardState { term: 1, ..HardState::default() });
    core.settings.max_log_bytes = LIMIT;
    let mut rig = Rig::new(core);
    for _ in 0..200 {
        let after = rig.last_index();
        rig.core.handle(Input::Messages(vec![large_append(after)]), rig.now);
        rig.run();
    }
    let limit = LIMIT + LIMIT / 4;
    assert!((LIMIT..limit + 2 * MIB).contains(&rig.log_bytes()), "{} bytes", rig.log_bytes());
    // It still accepts messages with only a commit index.
    let after = rig.last_index();
    let commit =
        Message { index: after, log_term: 1, commit: after, ..message(MessageType::MsgAppend, 2, 1) };
    rig.core.handle(Input::Messages(vec![commit]), rig.now);
    rig.run();
    assert_eq!(rig.applied.last(), Some(&after));
    rig.core.handle(Input::Messages(vec![large_append(after)]), rig.now);
    rig.run();
    assert_eq!(rig.last_index(), after + 1, "there is room again");
}

/// A member that starts with `count` committed, unapplied entries of 1 MiB after the first five.
fn started_behind(count: u64) -> Rig {
    let behind = member(1, &[1, 2, 3], 5, HardState::default());
    let large = |index| Entry { index, term: 1, data: vec![7; MIB as usize], ..Entry::default() };
    let entries =
        (BASE.index + 1..=5).map(|index| entry(index, 1)).chain((6..6 + count).map(large)).collect();
    let hard_state = HardState { term: 1, commit: 5 + count, ..HardState::default() };
    let log = Log::in_memory(BASE, entries, hard_state, conf_state(&[1, 2, 3]));
    let core = Core::new(behind.settings.clone(), log, Arc::clone(&behind.membership), 5, 1, Instant::now());
    Rig::new(core.unwrap())
}

#[test]
fn a_start_applies_a_long_log_in_bounded_batches() {
    let mut rig = started_behind(200);
    rig.run();
    assert_eq!(rig.applied, (6..=205).collect::<Vec<_>>(), "all, in order");
    assert!(rig.most_applying <= 72 * MIB, "{} bytes at once", rig.most_applying);
}

#[test]
fn a_start_waits_for_checkpoints_while_the_overlay_is_over_its_limit() {
    let mut rig = started_behind(200);
    rig.core.settings.max_overlay_bytes = LIMIT;
    rig.overlay_bytes = LIMIT + LIMIT / 4;
    rig.run();
    let first = rig.applied.len();
    assert!(first < 80, "{first} entries without a checkpoint");
    for _ in 0..10 {
        rig.core.on_done(Done::Overlay { bytes: 0, durable: 0, state_bytes: 0 }, rig.now);
        rig.run();
    }
    assert_eq!(rig.applied, (6..=205).collect::<Vec<_>>());
}

#[test]
fn an_installed_snapshot_replaces_the_entries_that_wait_to_be_applied() {
    let mut rig = started_behind(200);
    rig.core.settings.max_overlay_bytes = LIMIT;
    rig.overlay_bytes = LIMIT + LIMIT / 4;
    rig.run();
    let before = *rig.applied.last().unwrap();
    assert!(before < 205);
    rig.core.handle(Input::Messages(vec![snapshot(2, 300)]), rig.now);
    rig.run();
    assert_eq!((rig.applied.last(), rig.core.applying.index()), (Some(&before), 300));
    let next = Message { commit: 301, ..append(2, 300, 2) };
    rig.core.handle(Input::Messages(vec![next]), rig.now);
    rig.overlay_bytes = 0;
    rig.run();
    assert_eq!(rig.applied.last(), Some(&301));
    assert_eq!(rig.applied.iter().filter(|index| **index > before).count(), 1);
}
