//! Cost of the counts that ADR 0023 designs, for a write of one element into a collection of a million, printed:
//! `cargo test --release -p helios-state count_costs -- --ignored --nocapture`.
//!
//! The counts are not built. The measurement applies what they would add to an entry: on each level one lookup
//! backwards and one write, and for an element with a record a walk to the record before it. The records have the
//! names and the number that the design gives them, but are fields of a second hash. Each round of the plain writes is
//! followed by one with counts, so that other load meets both.

use std::time::{Duration, Instant};

use helios_proto::v1::Call;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::budget::{ENTRY_BUDGET, Limits};
use crate::collection::Collection;
use crate::commands;
use crate::txn::Txn;
use crate::value::Kind;

const ELEMENTS: u64 = 1_000_000;
const LEVELS: u8 = 2;
const FAN_OUTS: [u64; 2] = [128, 512];
/// Elements of a command that loads a collection.
const LOADED: u64 = 1_000;
/// Commands between two checkpoints of the load.
const CHECKPOINT: u64 = 100;
/// Entries of a round; see [`ROUNDS`].
const ROUND: u64 = 5_000;
/// Rounds of each variant.
const ROUNDS: u64 = 10;
/// Entries that are published together.
const BATCH: u64 = 64;

struct Written {
    kind: Kind,
    command: &'static str,
}

const KINDS: [Written; 3] = [
    Written { kind: Kind::SortedSet, command: "zadd" },
    Written { kind: Kind::Set, command: "sadd" },
    Written { kind: Kind::Hash, command: "hset" },
];

impl Written {
    /// Returns the words of an element: names and scores are spread like those of users and points.
    fn words(&self, number: u64) -> Vec<Bytes> {
        let (name, score) = (name(number), score(number).to_string());
        match self.kind {
            Kind::SortedSet => vec![score.into(), name],
            Kind::Hash => vec![name, bytes(&"v".repeat(32))],
            _ => vec![name],
        }
    }

    /// Returns the name under which the element is ordered in its collection.
    fn ordered_name(&self, number: u64) -> Vec<u8> {
        match self.kind {
            // The sortable form of a score from 0 on has the first bit set.
            Kind::SortedSet => {
                let sortable = (score(number) as f64).to_bits() | 1 << 63;
                [b"s", sortable.to_be_bytes().as_slice(), &name(number)].concat()
            }
            _ => name(number).to_vec(),
        }
    }

    /// Returns the bound below the ordered names of all elements.
    fn first_name(&self) -> &'static [u8] {
        if self.kind == Kind::SortedSet { b"s" } else { b"" }
    }

    fn call(&self, numbers: impl Iterator<Item = u64>) -> Call {
        let words = numbers.flat_map(|number| self.words(number));
        commands::call(self.command, [bytes("key")].into_iter().chain(words).collect())
    }
}

fn mixed(number: u64) -> u64 {
    xxh3_64_with_seed(&number.to_be_bytes(), 1)
}

fn name(number: u64) -> Bytes {
    format!("member-{:016x}", mixed(number)).into()
}

fn score(number: u64) -> u64 {
    mixed(number) % 10_000_000
}

/// Whether an element has a record on `level`.
fn is_on(number: u64, level: u8, fan_out: u64) -> bool {
    xxh3_64_with_seed(&name(number), 2).is_multiple_of(fan_out.pow(level.into()))
}

fn record_name(level: u8, ordered: &[u8]) -> Vec<u8> {
    [&[level], ordered].concat()
}

fn counts_key(fan_out: u64) -> Bytes {
    format!("counts-{fan_out}").into()
}

/// Executes what counts with `fan_out` add to the write of an element; returns the time of the lookups.
fn write_counts(
    txn: &mut Txn<'_>,
    written: &Written,
    number: u64,
    (fan_out, counts): (u64, &Collection),
) -> Duration {
    let mut lookups = Duration::ZERO;
    let ordered = written.ordered_name(number);
    for level in 1..=LEVELS {
        let behind = [record_name(level, &ordered).as_slice(), &[0]].concat();
        let start = Instant::now();
        let (found, _) = counts.range_back(txn, &[level], Some(&behind)).next().unwrap().unwrap();
        lookups += start.elapsed();
        if is_on(number, level, fan_out) {
            let walked = if level == 1 {
                let elements = Collection::find(txn, &bytes("key"), written.kind).ok().flatten().unwrap();
                elements.range(txn, &found[1..], Some(&ordered)).count()
            } else {
                let below = level - 1;
                let (start, end) = (record_name(below, &found[1..]), record_name(below, &ordered));
                counts.range(txn, &start, Some(&end)).count()
            };
            std::hint::black_box(walked);
            counts.put(txn, &record_name(level, &ordered), bytes("12345678"));
        }
        counts.put(txn, &found, bytes("12345678"));
    }
    lookups
}

/// Applies one round of entries, each with one new element; returns its time, and that of the lookups.
fn round(store: &Store, written: &Written, first: u64, fan_out: Option<u64>) -> [Duration; 2] {
    let calls: Vec<_> =
        (first..first + ROUND).map(|number| (number, written.call([number].into_iter()))).collect();
    // In the design the header of the elements names the counts, so that it is no lookup.
    let counts = fan_out.map(|fan_out| {
        let state = store.inner.state();
        let mut txn = Txn::new(state.view(), 0, state.meta.clone(), Limits::DEFAULT_READ);
        let counts = Collection::find(&mut txn, &counts_key(fan_out), Kind::Hash).ok().flatten().unwrap();
        (fan_out, counts)
    });
    let mut lookups = Duration::ZERO;
    let start = Instant::now();
    for calls in calls.chunks(BATCH as usize) {
        let mut batch = store.batch();
        for (number, call) in calls {
            let index = batch.state().meta.applied.index + 1;
            let changes = {
                let meta = batch.state().meta_at(index, 1, 1).unwrap();
                let limits = Limits::of_entry(ENTRY_BUDGET).unwrap();
                let mut txn =
                    Txn::new(batch.state().view(), 0, meta, limits).with_budget_version(ENTRY_BUDGET);
                commands::execute(&mut txn, call).unwrap();
                if let Some((fan_out, counts)) = &counts {
                    lookups += write_counts(&mut txn, written, *number, (*fan_out, counts));
                }
                txn.settle().unwrap();
                txn.finish()
            };
            batch.commit(index, changes);
        }
        batch.publish();
    }
    [start.elapsed(), lookups]
}

/// Loads the collection and its records of counts, in several runs of the engine.
fn load(store: &Store, written: &Written) {
    let apply = |call: Call| {
        let index = store.applied().index + 1;
        let reply = store.apply(index, 1, &command(1, Op::Call(call))).kind.unwrap();
        assert_eq!(code(&reply), None);
    };
    for step in 0..ELEMENTS / LOADED {
        let numbers = step * LOADED..(step + 1) * LOADED;
        apply(written.call(numbers.clone()));
        for fan_out in FAN_OUTS {
            // The record of each level before the first element.
            let firsts =
                (1..=LEVELS).filter(|_| step == 0).map(|level| record_name(level, written.first_name()));
            let on = |level| numbers.clone().filter(move |number| is_on(*number, level, fan_out));
            let others = (1..=LEVELS).flat_map(|level| {
                on(level).map(move |number| record_name(level, &written.ordered_name(number)))
            });
            let fields = firsts.chain(others).flat_map(|name| [Bytes::from(name), bytes("12345678")]);
            let args: Vec<_> = [counts_key(fan_out)].into_iter().chain(fields).collect();
            if args.len() > 1 {
                apply(commands::call("hset", args));
            }
        }
        if step % CHECKPOINT == CHECKPOINT - 1 {
            store.checkpoint().unwrap();
            while store.merge_runs(false, |_| std::ops::ControlFlow::Continue(())).unwrap() {}
        }
    }
}

#[test]
#[ignore = "prints figures, checks nothing"]
fn counts_beside_a_million_elements() {
    for written in KINDS {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("state"), EngineKind::Runs).unwrap();
        load(&store, &written);
        let mut next = ELEMENTS;
        let variants = [None, Some(FAN_OUTS[0]), Some(FAN_OUTS[1])];
        let mut times = [[Duration::ZERO; 2]; 3];
        for _ in 0..ROUNDS {
            for ([whole, lookups], fan_out) in times.iter_mut().zip(variants) {
                let [time, of_lookups] = round(&store, &written, next, fan_out);
                *whole += time;
                *lookups += of_lookups;
                next += ROUND;
            }
        }
        let times = times.map(|pair| pair.map(|time| time.as_nanos() as u64 / (ROUNDS * ROUND)));
        for ([whole, lookups], fan_out) in times.iter().zip(variants) {
            let ratio = times[0][0] as f64 / *whole as f64;
            println!(
                "{} with fan-out {fan_out:?}: {whole} ns, of which lookups {lookups} ns; throughput x {ratio:.2}",
                written.command
            );
        }
    }
}
