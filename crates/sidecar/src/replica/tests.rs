//! The replica of a model cluster, with members that lag, streams that move and answers that are late: the history of the
//! application is linearizable, and would not be if a rule of the gate were left out.

use std::sync::Arc;

use helios_history::{Answer, History, Op as Invoked, Value, check};
use helios_proto::v1::follow_response::Kind;
use helios_proto::v1::{
    Changes, Command, FollowHello, FollowProgress, GoTo, Record, Records, Set, SnapshotEnd, SnapshotPart,
    command::Op,
};
use helios_state::{Applied, Cursor, Selection};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::feed::{End, Feed};
use super::gate::Observation;
use super::*;
use crate::request::words;

mod levels;

const CLUSTER: &str = "demo";
const MEMBERS: usize = 3;
const CLIENTS: usize = 3;
const KEYS: [&str; 2] = ["a:1", "a:2"];
const RULES: Rules = Rules {
    max_staleness: Duration::from_secs(3_600),
    cut_off_after: Duration::from_secs(3),
    level: Level::Session,
    offline: Offline::ServeStale,
};

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The index of the last reply of a member is never asked for.
    ForgetsWrites,
    /// A lost write counts as never sent.
    ForgetsUnknown,
    /// A later moment is taken for that of the state.
    TrustsTime,
}

fn set(key: &str, value: &str) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    Command { op: Some(Op::Set(Set { key, value, ..Set::default() })), ..Command::default() }
}

fn encoded(is_cleared: bool, records: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) -> Bytes {
    let records = records.into_iter().map(|(key, value)| Record { key, value }).collect();
    Records { is_cleared, records }.encode_to_vec().into()
}

fn hello(cluster: &str, incarnation: u64, continues: bool, prefix: &'static str) -> Kind {
    let prefixes = vec![Bytes::from_static(prefix.as_bytes())];
    let (cluster_id, member) = (cluster.to_owned(), "m".to_owned());
    Kind::Hello(FollowHello { cluster_id, incarnation, member, format: 1, continues, prefixes })
}

/// The members' states, and the stream from one of them.
struct Cluster {
    /// Each entry with its term.
    log: Vec<(u64, Command)>,
    members: Vec<Store>,
    followed: usize,
    /// The state of the followed member of a lost history, until another one is followed.
    lost: Option<Store>,
    /// The present history: cluster, incarnation, and term.
    origin: (&'static str, u64, u64),
    /// Whether members send terms to followers.
    sends_terms: bool,
    /// Whether the sidecar does not notice another incarnation.
    keeps_store: bool,
    feed: Feed,
    replica: Arc<Replica>,
}

impl Cluster {
    fn new(limit_bytes: u64) -> Self {
        let (feed, replica) = (Feed::new(limit_bytes), Arc::new(Replica::new(RULES)));
        let (log, members) = (Vec::new(), Self::blank());
        let (followed, lost, sends_terms, keeps_store) = (0, None, true, false);
        let origin = (CLUSTER, 1, 1);
        Self { log, members, followed, lost, origin, sends_terms, keeps_store, feed, replica }
    }

    fn blank() -> Vec<Store> {
        let blank = |_| {
            let member = Store::in_memory();
            member.record_elements(true);
            member
        };
        (0..MEMBERS).map(blank).collect()
    }

    /// Loses the entries after those that `survivor` has applied, and all members but it; or restores a backup with these
    /// entries as another cluster.
    fn begin_again(&mut self, survivor: usize, is_restore: bool) {
        self.lost = Some(self.members[self.followed].clone());
        self.log.truncate(usize::try_from(self.members[survivor].applied().index).unwrap());
        let (cluster, incarnation, term) = self.origin;
        self.origin = if is_restore { ("restored", 1, 1) } else { (cluster, incarnation + 1, term + 1) };
        self.members = Self::blank();
        // A leader reads once an entry of its term is committed.
        self.write("b:1", "");
        (0..MEMBERS).for_each(|member| self.advance(member, self.index()));
    }

    fn index(&self) -> u64 {
        self.log.len() as u64
    }

    fn write(&mut self, key: &str, value: &str) {
        self.log.push((self.origin.2, set(key, value)));
    }

    fn advance(&self, member: usize, entries: u64) {
        let store = &self.members[member];
        let end = (store.applied().index + entries).min(self.index());
        for index in store.applied().index + 1..=end {
            let (term, command) = &self.log[index as usize - 1];
            store.apply(index, *term, command);
        }
    }

    fn receive(&mut self, kind: Kind) {
        self.feed.receive(kind, &self.replica).unwrap();
    }

    /// Follows another member: continues there, or begins with its snapshot.
    fn follow(&mut self, member: usize, needs_snapshot: bool) {
        (self.followed, self.lost) = (member, None);
        self.feed.end(&self.replica);
        let (cluster, incarnation, _) = self.origin;
        let incarnation = if self.keeps_store { 1 } else { incarnation };
        let request = self.feed.request(&[], false);
        let is_known = request.after.is_some_and(|after| after.cluster_id == cluster);
        let continues = is_known && request.incarnation == incarnation && !needs_snapshot;
        self.receive(hello(cluster, incarnation, continues, "a:"));
        if continues {
            return;
        }
        let pages = self.members[member].pairs(&selection(), Cursor::default(), usize::MAX).unwrap();
        let records = encoded(false, pages.pairs.into_iter().map(|(key, value)| (key, Some(value))));
        self.receive(Kind::SnapshotPart(SnapshotPart { is_first: true, records }));
        let term = self.term_of(&self.members[member]);
        self.receive(Kind::SnapshotEnd(SnapshotEnd { index: pages.index, term }));
    }

    fn term_of(&self, store: &Store) -> u64 {
        if self.sends_terms { store.applied().term.max(1) } else { 0 }
    }

    fn stream(&mut self) {
        let position = self.replica.size().0;
        let store = self.lost.as_ref().unwrap_or(&self.members[self.followed]).clone();
        if position < store.applied().index {
            let effects = store.effects_after(position, &selection()).unwrap();
            let records = encoded(effects.is_cleared, effects.records);
            self.receive(Kind::Changes(Changes {
                from: position,
                through: effects.through,
                now_ms: 5,
                records,
            }));
        }
        let Applied { index, term: _ } = store.applied();
        let term = self.term_of(&store);
        self.receive(Kind::Progress(FollowProgress { index, fresh_age_ms: None, now_ms: 5, term }));
    }

    fn token(&self, index: u64) -> Token {
        let entry = usize::try_from(index).ok().and_then(|index| self.log.get(index.checked_sub(1)?));
        Token { cluster_id: self.origin.0.to_owned(), term: entry.map_or(0, |(term, _)| *term), index }
    }

    fn confirm(&self, at_us: u64, index: u64) {
        self.replica.confirm(at_us, &self.token(index));
    }

    fn confirm_now(&self) {
        self.confirm(self.replica.gate.now_us(), self.index());
    }

    fn read(&self, line: &str) -> Result<Frame, Reason> {
        self.replica.read(&words(line), self.asked(Level::Session), &mut self.observation())
    }

    /// Returns what a read sees that has just arrived.
    fn asked(&self, level: Level) -> Asked {
        let now_us = self.replica.gate.now_us();
        Asked { level, now_us, received_us: now_us }
    }

    /// Returns the observations of a client that has observed nothing yet.
    fn observation(&self) -> Observation {
        Observation::new(Arc::clone(&self.replica.gate))
    }
}

fn selection() -> Selection {
    Selection::new([Bytes::from_static(b"a:")])
}

/// Runs clients of one sidecar; returns whether their history is linearizable, and the number of local reads.
fn history_is_legal(seed: u64, bug: Bug) -> (bool, u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::new(u64::MAX);
    cluster.follow(0, true);
    let mut observations: Vec<_> = (0..CLIENTS).map(|_| cluster.observation()).collect();
    // The index that a client's observation ends with, once it is known.
    let mut positions = [None; CLIENTS];
    // A linearizable read that is not answered yet.
    let mut pulse = None;
    let (mut history, mut time) = (History::new(), 0);
    for step in 0..300_u64 {
        time += 2;
        // No two steps are at one moment of the gate's clock: what is later than an unknown write depends on the seed alone.
        let moment = cluster.replica.gate.now_us();
        while cluster.replica.gate.now_us() == moment {
            std::hint::spin_loop();
        }
        match rng.random_range(0..20) {
            0 | 1 => cluster.advance(rng.random_range(0..MEMBERS), rng.random_range(1..4)),
            2..=4 => {
                let followed = cluster.followed;
                cluster.advance(followed, rng.random_range(0..4));
                cluster.stream();
            }
            5 if rng.random_ratio(1, 3) => {
                cluster.follow(rng.random_range(0..MEMBERS), rng.random_ratio(1, 3));
            }
            6 | 7 => match pulse.take() {
                None => pulse = Some((cluster.replica.gate.now_us(), cluster.index())),
                Some((_, index)) if bug == Bug::TrustsTime => {
                    cluster.confirm(cluster.replica.gate.now_us(), index)
                }
                Some((at_us, index)) => cluster.confirm(at_us, index),
            },
            8..=13 => {
                if let Some(client) = positions.iter().position(Option::is_some) {
                    observations[client].end(positions[client].take());
                }
            }
            _ => {
                let client = rng.random_range(0..CLIENTS);
                let key = KEYS[rng.random_range(0..KEYS.len())];
                let process = client as u64;
                let is_read = rng.random_ratio(3, 4);
                let asked = cluster.asked(Level::Session);
                let request = words(&format!("GET {key}"));
                if is_read && let Ok(reply) = cluster.replica.read(&request, asked, &mut observations[client])
                {
                    let id = history.invoke(process, key, Invoked::Get, time);
                    let value = match reply {
                        Frame::Bulk(bytes) => Some(Value::Bytes(bytes.to_vec())),
                        Frame::Null => None,
                        other => panic!("{other:?}"),
                    };
                    history.ok(id, Answer::Value(value), time + 1);
                    continue;
                }
                // A member that lags does not answer: all have the whole log before they do.
                if is_read {
                    let found = {
                        cluster.advance(2, u64::MAX / 2);
                        cluster.members[2].get(key.as_bytes(), 0).unwrap()
                    };
                    let id = history.invoke(process, key, Invoked::Get, time);
                    let value = found.map(|value| Value::Bytes(value.data.to_vec()));
                    history.ok(id, Answer::Value(value), time + 1);
                } else {
                    let id = history.invoke(process, key, Invoked::Set(Value::from(step)), time);
                    cluster.write(key, &step.to_string());
                    if rng.random_ratio(1, 8) {
                        // The write took effect, and its reply is lost. The client looks whether it did.
                        history.ok(id, Answer::Done, time + 1);
                        if bug != Bug::ForgetsUnknown {
                            observations[client].end(None);
                            positions[client] = None;
                        }
                        continue;
                    }
                    history.ok(id, Answer::Done, time + 1);
                }
                if bug != Bug::ForgetsWrites {
                    observations[client].begin();
                    positions[client] = Some(cluster.index());
                }
            }
        }
    }
    (check(&history).is_legal(), cluster.replica.reads.get())
}

#[test]
fn application_sees_one_database_whatever_lags_and_a_forgotten_rule_is_noticed() {
    const SEEDS: std::ops::Range<u64> = 0..60;
    let mut local = 0;
    for seed in SEEDS {
        let (is_legal, reads) = history_is_legal(seed, Bug::None);
        assert!(is_legal, "seed {seed}");
        local += reads;
    }
    assert!(local > 10 * SEEDS.end, "{local} reads were local");
    for bug in [Bug::ForgetsWrites, Bug::ForgetsUnknown, Bug::TrustsTime] {
        let is_found = SEEDS.clone().any(|seed| !history_is_legal(seed, bug).0);
        assert!(is_found, "{bug:?} was not noticed");
    }
}

#[test]
fn state_of_a_member_that_is_behind_is_not_read_until_it_has_all_that_was_read_before() {
    let mut cluster = Cluster::new(u64::MAX);
    (1..=3).for_each(|number: u32| cluster.write("a:1", &number.to_string()));
    cluster.advance(0, 3);
    cluster.advance(1, 2);
    cluster.follow(0, true);
    assert_eq!(cluster.read("GET a:1"), Err(Reason::Stale), "its age is not known");
    cluster.stream();
    cluster.confirm_now();
    assert_eq!(cluster.read("GET a:1"), Ok(Frame::Bulk("3".into())));
    cluster.follow(1, true);
    let at_us = cluster.replica.gate.now_us();
    cluster.confirm(at_us, 2);
    assert_eq!(cluster.read("GET a:1"), Err(Reason::Behind));
    cluster.advance(1, 1);
    cluster.stream();
    assert_eq!(cluster.read("GET a:1"), Ok(Frame::Bulk("3".into())));
    assert_eq!(cluster.read("GET b:1"), Err(Reason::Command), "another prefix");
    let late = at_us + u64::try_from(RULES.max_staleness.as_micros()).unwrap() + 1_000_000;
    let late = Asked { now_us: late, ..cluster.asked(Level::Session) };
    let found = cluster.replica.read(&words("GET a:1"), late, &mut cluster.observation());
    assert_eq!(found, Err(Reason::Stale));
}

#[test]
fn without_an_answer_of_any_member_a_client_reads_old_state_unless_it_has_observed_more() {
    let mut cluster = Cluster::new(u64::MAX);
    cluster.write("a:1", "1");
    cluster.advance(0, 1);
    cluster.follow(0, true);
    cluster.stream();
    cluster.confirm_now();
    cluster.replica.answered();
    let late_us = |after: Duration| cluster.replica.gate.now_us() + u64::try_from(after.as_micros()).unwrap();
    let age = RULES.max_staleness + Duration::from_secs(1);
    let offline = |line: &str, after, has_contact, observation: &mut Observation| {
        let asked = Asked { now_us: late_us(after), ..cluster.asked(Level::Session) };
        let explicit = Asked { level: Level::Stale(Some(RULES.max_staleness)), ..asked };
        let found = cluster.replica.read_offline(&words(line), explicit, has_contact, observation);
        assert_eq!(found, None, "the limit of a connection is kept");
        cluster.replica.read_offline(&words(line), asked, has_contact, observation)
    };
    let value = Some(Frame::Bulk("1".into()));
    let [mut reader, mut writer, mut unlucky] = [(); 3].map(|()| cluster.observation());

    // Members that answer without a quorum: all have to be asked first, and for as long as for a cut.
    assert_eq!(offline("GET a:1", age, true, &mut reader), None);
    assert_eq!(offline("GET a:1", age, false, &mut reader), value);
    cluster.replica.has_asked_all();
    assert_eq!(offline("GET a:1", RULES.cut_off_after / 2, true, &mut reader), None);
    assert_eq!(offline("GET a:1", age, true, &mut reader), value);
    assert_eq!(offline("GET b:1", age, true, &mut reader), None, "another prefix");
    cluster.replica.answered();
    assert_eq!(offline("GET a:1", age, true, &mut reader), None);

    // The session of a cut is the connection.
    writer.begin();
    assert_eq!(offline("GET a:1", age, false, &mut writer), None, "the index of the write is not known");
    writer.end(Some(2));
    assert_eq!(offline("GET a:1", age, false, &mut writer), None, "the write is not in the state");
    unlucky.unknown();
    assert_eq!(offline("GET a:1", age, false, &mut unlucky), None, "the write may have taken effect");
    assert_eq!(offline("GET a:1", age, false, &mut reader), value);
    assert_eq!((cluster.replica.stale_reads.get(), cluster.replica.reads.get()), (3, 0));

    let refusing = Replica::new(Rules { offline: Offline::Refuse, ..RULES });
    assert!(!refusing.serves_stale(u64::MAX, false) && !Replica::new(RULES).serves_stale(u64::MAX, false));
}

#[test]
fn old_state_is_served_while_a_snapshot_is_loaded_and_a_cut_snapshot_is_no_state() {
    let mut cluster = Cluster::new(u64::MAX);
    cluster.write("a:1", "old");
    cluster.advance(0, 1);
    cluster.follow(0, true);
    cluster.stream();
    cluster.confirm_now();
    let part = |is_first| Kind::SnapshotPart(SnapshotPart { is_first, records: encoded(false, []) });
    cluster.receive(hello(CLUSTER, 1, false, "a:"));
    cluster.receive(Kind::Progress(FollowProgress { index: 9, fresh_age_ms: None, now_ms: 5, term: 1 }));
    assert_eq!(cluster.replica.size().0, 1, "the index of the snapshot is not that of the old state");
    let early = Changes { from: 1, through: 9, now_ms: 5, records: encoded(false, []) };
    assert!(matches!(cluster.feed.receive(Kind::Changes(early), &cluster.replica), Err(End::Failed(_))));
    cluster.receive(part(true));
    cluster.receive(part(false));
    assert_eq!(cluster.read("GET a:1"), Ok(Frame::Bulk("old".into())));
    assert!(cluster.feed.is_loading());
    cluster.feed.end(&cluster.replica);
    assert!(!cluster.feed.is_loading() && cluster.feed.request(&[], false).after.is_some());
    let end = cluster.feed.receive(part(false), &cluster.replica);
    assert!(matches!(end, Err(End::Failed(_))), "the rest of another stream");
    assert_eq!(cluster.read("GET a:1"), Ok(Frame::Bulk("old".into())));
    assert!(matches!(cluster.feed.receive(Kind::GoTo(GoTo::default()), &cluster.replica), Err(End::GoTo)));
    let gap = Changes { from: 7, through: 8, now_ms: 5, records: encoded(false, []) };
    assert!(matches!(cluster.feed.receive(Kind::Changes(gap), &cluster.replica), Err(End::Failed(_))));
}

#[test]
fn state_of_another_history_or_of_other_keys_is_dropped() {
    let mut cluster = Cluster::new(u64::MAX);
    cluster.write("a:1", "v");
    cluster.advance(0, 1);
    for (incarnation, prefix) in [(2, "a:"), (1, "b:")] {
        cluster.follow(0, true);
        cluster.stream();
        cluster.confirm_now();
        assert!(cluster.read("GET a:1").is_ok());
        let begun = cluster.feed.receive(hello(CLUSTER, incarnation, true, prefix), &cluster.replica);
        assert!(matches!(begun, Err(End::Failed(_))), "a snapshot is needed");
        assert_eq!(cluster.read("GET a:1"), Err(Reason::NoState));
        assert_eq!(cluster.feed.request(&[], false).after, None);
    }
    assert!(matches!(
        cluster
            .feed
            .receive(Kind::Hello(FollowHello { format: 3, ..FollowHello::default() }), &cluster.replica),
        Err(End::Format(3))
    ));
}

#[test]
fn memory_is_bounded_and_the_old_state_makes_room_for_a_new_one() {
    let mut cluster = Cluster::new(4_000);
    let value = "x".repeat(2_000);
    cluster.write("a:1", &value);
    cluster.advance(0, 1);
    cluster.follow(0, true);
    cluster.stream();
    cluster.confirm_now();
    assert!(cluster.read("EXISTS a:1").is_ok());
    // Both do not fit.
    cluster.follow(0, true);
    cluster.confirm_now();
    assert!(cluster.read("EXISTS a:1").is_ok());
    assert!((2_000..4_000).contains(&cluster.replica.bytes()));
    cluster.write("a:2", &value);
    cluster.advance(0, 1);
    let effects = cluster.members[0].effects_after(1, &selection()).unwrap();
    let records = encoded(false, effects.records);
    let changes = Changes { from: 1, through: 2, now_ms: 5, records };
    let end = cluster.feed.receive(Kind::Changes(changes), &cluster.replica);
    assert!(matches!(end, Err(End::TooLarge { limit: 4_000 })));
    cluster.feed.clear(&cluster.replica);
    assert_eq!((cluster.read("EXISTS a:1"), cluster.replica.bytes()), (Err(Reason::NoState), 0));
}
