//! Followers: one that applies pages and effects has the selected part of the state and nothing else, whatever the
//! commands and whenever the pages are read.

use std::collections::{BTreeMap, BTreeSet};

use helios_proto::v1::{Call, Transaction};
use proptest::prelude::*;

use super::*;
use crate::follow::{Cursor, Effects, Selection};
use crate::{Limits, Lost, Replica, value};

fn call(words: &[&str]) -> Op {
    let args = words[1..].iter().map(|word| bytes(word)).collect();
    Op::Call(Call { name: words[0].to_owned(), args, ..Call::default() })
}

fn all_of(ops: Vec<Op>) -> Op {
    let steps = ops.into_iter().map(|op| command(0, op)).collect();
    Op::Transaction(Transaction { steps, ..Transaction::default() })
}

fn selected(prefixes: &[&str]) -> Selection {
    Selection::new(prefixes.iter().map(|prefix| bytes(prefix)))
}

/// Returns all selected records.
fn whole(store: &Store, selection: &Selection) -> BTreeMap<Bytes, Bytes> {
    let all = store.pairs(selection, Cursor::default(), usize::MAX).unwrap();
    assert_eq!(all.next, None);
    all.pairs.into_iter().collect()
}

/// A follower that reads pages of a few records, with changes between them.
struct Follower {
    selection: Selection,
    held: BTreeMap<Bytes, Bytes>,
    replica: Replica,
    through: u64,
    cursor: Option<Cursor>,
    /// Index of the last page.
    paged: u64,
}

impl Follower {
    fn new(store: &Store, selection: Selection) -> Self {
        let through = store.record_elements(true);
        let (held, replica) = (BTreeMap::new(), Replica::default());
        Self { selection, held, replica, through, cursor: Some(Cursor::default()), paged: 0 }
    }

    /// Begins again with a snapshot of `store`.
    fn restart(&mut self, store: &Store) {
        *self = Self::new(store, self.selection.clone());
    }

    fn page(&mut self, store: &Store, max_bytes: usize) {
        let Some(cursor) = self.cursor.take() else { return };
        let page = store.pairs(&self.selection, cursor, max_bytes).unwrap();
        let records = page.pairs.into_iter().map(|(raw, data)| (raw, Some(data))).collect();
        self.apply(Effects { records, ..Effects::default() }, None);
        (self.cursor, self.paged) = (page.next, page.index);
    }

    fn follow(&mut self, store: &Store) -> Result<(), Lost> {
        let effects = store.effects_after(self.through, &self.selection)?;
        self.through = self.through.max(effects.through);
        self.apply(effects, Some(self.through));
        Ok(())
    }

    fn apply(&mut self, effects: Effects, through: Option<u64>) {
        let Effects { is_cleared, records, .. } = effects;
        let given: Vec<_> = records.clone().into_iter().collect();
        self.replica.apply(is_cleared, &given, through).unwrap();
        if is_cleared {
            self.held.clear();
        }
        let id_of =
            |slot: Option<&Bytes>| slot.and_then(|raw| value::encoded_elements_id(raw)).map(<[u8]>::to_vec);
        let named: BTreeSet<_> = records.values().filter_map(|slot| id_of(slot.as_ref())).collect();
        let keys = records.keys().filter(|raw| value::is_data_key(raw));
        let gone: BTreeSet<_> =
            keys.filter_map(|raw| id_of(self.held.get(raw))).filter(|id| !named.contains(id)).collect();
        self.held.retain(|raw, _| value::element_id(raw).is_none_or(|id| !gone.contains(id)));
        for (raw, slot) in records {
            match slot {
                Some(data) => drop(self.held.insert(raw, data)),
                None => drop(self.held.remove(&raw)),
            }
        }
    }

    /// Whether what it has is the state at an index.
    fn is_whole(&self) -> bool {
        self.cursor.is_none() && self.through >= self.paged
    }

    fn catch_up(&mut self, store: &Store) {
        while self.cursor.is_some() {
            self.page(store, 200);
        }
        while self.through < store.applied().index {
            self.follow(store).unwrap();
        }
        assert!(self.is_whole());
        self.check(store);
    }

    /// Asserts that the follower, and the replica with all that is derived from the records, have the selected state.
    fn check(&self, store: &Store) {
        let expected = whole(store, &self.selection);
        assert_eq!(self.held, expected);
        let replica = self.replica.store();
        assert_eq!(whole(replica, &self.selection), expected);
        let mut all = expected.clone();
        let keys: Vec<_> = expected.iter().filter(|(raw, _)| value::is_data_key(raw)).collect();
        for (raw, data) in &keys {
            let key = value::user_key(raw);
            let expiry = crate::Value::decode((*data).clone()).unwrap().expire_at_ms;
            all.extend(expiry.map(|at_ms| (value::expiry_key(at_ms, &key), Bytes::new())));
            for name in ["type", "pttl", "hgetall", "smembers", "zrange", "lrange"] {
                let mut args = vec![key.clone()];
                args.extend(name.ends_with("range").then(|| [bytes("0"), bytes("-1")]).into_iter().flatten());
                let call = Call { name: name.to_owned(), args, ..Call::default() };
                for now_ms in [store.clock_ms(), store.clock_ms() + 30] {
                    let answers = [store, replica].map(|of| of.query(&call, now_ms, Limits::DEFAULT_READ));
                    assert_eq!(format!("{:?}", answers[0]), format!("{:?}", answers[1]), "{name} {key:?}");
                }
            }
        }
        assert_eq!(replica.key_count(), keys.len() as u64);
        let state = replica.inner.state();
        let mut held: BTreeMap<_, _> = state.view().range(b"", None).map(|pair| pair.unwrap()).collect();
        // The record of a checkpoint.
        held.remove(value::META_KEY);
        assert_eq!(held, all, "the expiry index");
        let mut copy = Replica::default();
        copy.apply(
            false,
            &expected.into_iter().map(|(raw, data)| (raw, Some(data))).collect::<Vec<_>>(),
            None,
        )
        .unwrap();
        assert_eq!(self.replica.bytes(), copy.bytes());
    }
}

#[test]
fn collection_that_was_renamed_away_and_back_has_no_element_that_was_removed_meanwhile() {
    let mut machine = Machine::in_memory();
    machine.apply(0, call(&["hset", "a:1", "f", "x"]));
    machine.apply(0, call(&["hset", "a:1", "g", "x"]));
    let mut follower = Follower::new(&machine.store, selected(&["a:"]));
    follower.catch_up(&machine.store);
    for command in [["rename", "a:1", "b:1"], ["hdel", "b:1", "f"], ["rename", "b:1", "a:1"]] {
        machine.apply(0, call(&command));
    }
    follower.catch_up(&machine.store);
    assert_eq!(follower.held.len(), 2, "the header and the element g");
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Op),
    Page(usize),
    Follow,
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop::sample::select(vec!["a:1", "a:2", "b:1", "b:2"]);
    let field = || prop::sample::select(vec!["f", "g", "h", "i"]);
    let one = prop_oneof![
        3 => (key(), field()).prop_map(|(key, field)| call(&["hset", key, field, "x"])),
        1 => (key(), field()).prop_map(|(key, field)| call(&["hdel", key, field])),
        2 => (key(), field()).prop_map(|(key, field)| call(&["sadd", key, field])),
        1 => (key(), field()).prop_map(|(key, field)| call(&["srem", key, field])),
        2 => (key(), field()).prop_map(|(key, field)| call(&["zadd", key, "1", field])),
        2 => (key(), field()).prop_map(|(key, field)| call(&["rpush", key, field])),
        1 => key().prop_map(|key| call(&["lpop", key])),
        4 => (key(), key()).prop_map(|(from, to)| call(&["rename", from, to])),
        1 => (key(), key()).prop_map(|(from, to)| call(&["copy", from, to, "replace"])),
        1 => (key(), key(), field()).prop_map(|(from, to, field)| call(&["smove", from, to, field])),
        2 => key().prop_map(|key| delete(&[key])),
        2 => (key(), 0..60_u64).prop_map(|(key, at_ms)| set_until(key, "v", at_ms)),
        1 => (key(), 0..60_u64).prop_map(|(key, at_ms)| expire(key, at_ms, 0)),
        1 => Just(flush_all()),
        2 => (0..6_u32).prop_map(purge),
    ];
    let one = one.boxed();
    prop_oneof![6 => one.clone(), 1 => prop::collection::vec(one.prop_filter("not in a transaction", |op| {
        !matches!(op, Op::PurgeExpired(_) | Op::FlushAll(_))
    }), 2..4).prop_map(all_of)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => op().prop_map(Step::Apply),
        1 => (1..600_usize).prop_map(Step::Page),
        1 => Just(Step::Follow),
        1 => Just(Step::Checkpoint),
    ]
}

proptest! {
    #[test]
    fn follower_has_the_selected_state_at_every_index_after_its_snapshot(
        before in prop::collection::vec(op(), 0..12),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut machine = Machine::in_memory();
        for (now_ms, op) in (0..).zip(before) {
            machine.apply(now_ms, op);
        }
        let all = [selected(&["a:"]), Selection::default(), selected(&["a:1", "b:"])];
        let mut followers = all.map(|selection| Follower::new(&machine.store, selection));
        for (now_ms, step) in (12..).zip(steps) {
            match step {
                Step::Apply(op) => drop(machine.apply(now_ms, op)),
                Step::Page(bytes) => followers.iter_mut().for_each(|follower| follower.page(&machine.store, bytes)),
                Step::Follow => for follower in &mut followers {
                    while follower.through < machine.store.applied().index {
                        follower.follow(&machine.store).unwrap();
                    }
                    if follower.is_whole() {
                        follower.check(&machine.store);
                    }
                },
                Step::Checkpoint => {
                    machine.store.checkpoint().unwrap();
                    for follower in &followers {
                        follower.replica.store().checkpoint().unwrap();
                    }
                }
            }
        }
        followers.iter_mut().for_each(|follower| follower.catch_up(&machine.store));
    }

    /// Two members apply the same log, each as far as it has come. The stream is resumed on either, and sometimes begins
    /// again with a snapshot.
    #[test]
    fn replica_has_the_state_after_its_stream_was_resumed_on_another_member_or_began_again(
        ops in prop::collection::vec(op(), 1..40),
        turns in prop::collection::vec((0..2_usize, 0..6_usize, 0..10_u8), 1..30),
    ) {
        let log: Vec<_> = ops.into_iter().zip(0..).map(|(op, now_ms)| command(now_ms, op)).collect();
        let members = [Store::in_memory(), Store::in_memory()];
        for member in &members {
            member.record_elements(true);
        }
        let mut follower = Follower::new(&members[0], selected(&["a:"]));
        for (at, entries, chance) in turns {
            let member = &members[at];
            let end = (member.applied().index as usize + entries).min(log.len());
            replay(member, &log[..end]);
            if chance == 0 {
                follower.restart(member);
            }
            while follower.cursor.is_some() {
                follower.page(member, 200);
            }
            // A member that is behind has nothing to send.
            while follower.through < member.applied().index {
                follower.follow(member).unwrap();
            }
            if follower.is_whole() && follower.through == member.applied().index {
                follower.check(member);
            }
        }
        replay(&members[1], &log);
        follower.catch_up(&members[1]);
    }

    /// Two databases that differ only outside the prefixes have the same effects and pages.
    #[test]
    fn follower_gets_the_same_from_databases_that_differ_outside_its_prefixes(
        ops in prop::collection::vec((any::<bool>(), prop::sample::select(vec!["hset", "sadd", "del"])), 1..40),
    ) {
        let selection = selected(&["a:"]);
        let read = |other: &str| {
            let mut machine = Machine::in_memory();
            let mut follower = Follower::new(&machine.store, selection.clone());
            let mut seen = Vec::new();
            for (position, (is_inside, name)) in ops.iter().enumerate() {
                let (key, word) = if *is_inside { ("a:1", "x") } else { ("b:1", other) };
                machine.apply(0, match *name {
                    "hset" => call(&["hset", &format!("{key}h"), word, word]),
                    "sadd" => call(&["sadd", &format!("{key}s"), word]),
                    _ => delete(&[&format!("{key}{}", if position % 2 == 0 { 'h' } else { 's' })]),
                });
                machine.apply(0, purge(9));
                seen.push(machine.store.effects_after(follower.through, &selection).unwrap());
                follower.follow(&machine.store).unwrap();
                seen.last_mut().unwrap().through = 0;
            }
            let pages = machine.store.pairs(&selection, Cursor::default(), 1 << 20).unwrap().pairs;
            (seen, pages)
        };
        prop_assert_eq!(read("one"), read("two two"));
    }

    #[test]
    fn selection_has_the_keys_that_begin_with_any_of_the_prefixes(
        prefixes in prop::collection::vec("[ab]{1,3}", 1..6), key in "[ab]{0,4}",
    ) {
        let selection = Selection::new(prefixes.iter().map(|prefix| bytes(prefix)));
        let expected = prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()));
        prop_assert_eq!(selection.contains(key.as_bytes()), expected);
    }
}

#[test]
fn empty_prefix_selects_all_keys() {
    assert_eq!(selected(&["a", ""]), Selection::default());
    assert!(selected(&[]).contains(b"anything"));
    assert_eq!(selected(&["ab", "a", "b"]).prefixes(), [bytes("a"), bytes("b")]);
}

#[test]
fn elements_are_recorded_only_while_they_are_wanted() {
    let mut machine = Machine::in_memory();
    let selection = Selection::default();
    machine.apply(0, call(&["hset", "h", "f", "x"]));
    assert!(machine.store.effects_after(1, &selection).is_err(), "nothing is recorded");
    assert_eq!(machine.store.record_elements(true), 1);
    assert!(machine.store.effects_after(0, &selection).is_err(), "the first entry was not recorded");
    machine.apply(0, call(&["hset", "h", "g", "x"]));
    assert_eq!(machine.store.record_elements(true), 2, "already on");
    let effects = machine.store.effects_after(1, &selection).unwrap();
    assert_eq!((effects.records.len(), effects.through, effects.is_last), (2, 2, true));
    machine.store.record_elements(false);
    assert!(machine.store.effects_after(2, &selection).is_err());
}

#[test]
fn replica_refuses_records_that_it_does_not_know_and_keeps_its_state() {
    let mut replica = Replica::default();
    let value = |key: &str| crate::Value {
        kind: crate::Kind::String,
        data: bytes(key),
        revision: 1,
        expire_at_ms: None,
    };
    replica.apply(false, &[(bytes("dk"), Some(value("v").encode()))], Some(4)).unwrap();
    for unknown in
        [(bytes("e12345678k"), Some(bytes(""))), (bytes("dk"), Some(bytes("x"))), (bytes("s1"), None)]
    {
        let good = (bytes("dother"), Some(value("w").encode()));
        assert!(replica.apply(true, &[good, unknown], Some(5)).is_err());
    }
    assert_eq!((replica.store().key_count(), replica.store().applied().index), (1, 4));
    replica.advance(9);
    assert_eq!(replica.store().applied().index, 9);
    assert!(replica.store().get(b"k", 0).unwrap().is_some() && replica.bytes() > 0);
    replica.apply(true, &[], Some(10)).unwrap();
    assert_eq!((replica.store().key_count(), replica.bytes()), (0, 0));
}

#[test]
fn renamed_collection_comes_with_all_elements_and_a_too_large_one_ends_the_effects() {
    let mut machine = Machine::in_memory();
    machine.apply(0, call(&["hset", "tmp", "f", "x", "g", "y"]));
    let large = "x".repeat(400 << 10);
    for field in ["1", "2", "3", "4"] {
        machine.apply(0, call(&["hset", "large", field, &large]));
    }
    let mut follower = Follower::new(&machine.store, selected(&["a:"]));
    let mut other = Follower::new(&machine.store, selected(&["b:"]));
    follower.catch_up(&machine.store);
    machine.apply(0, call(&["rename", "tmp", "a:h"]));
    follower.catch_up(&machine.store);
    assert_eq!(follower.held.len(), 3);
    machine.apply(0, call(&["rename", "large", "a:l"]));
    let at = machine.store.applied().index;
    assert_eq!(follower.follow(&machine.store).unwrap_err(), Lost { oldest: at + 1 });
    other.catch_up(&machine.store);
}
