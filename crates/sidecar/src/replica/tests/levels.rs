//! Levels of reads: the session of one connection, limits of age, and linearizable reads.

use std::pin::pin;
use std::task::{Context, Waker};

use helios_history::OpId;

use super::*;

const STEPS: u64 = 300;
/// Seeds of each level.
const SEEDS: std::ops::Range<u64> = 0..40;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The index of the last reply of a member is never asked for.
    ForgetsObservations,
    /// A lost write counts as never sent.
    ForgetsUnknown,
    /// A linearizable read that was sent before the request arrived is enough.
    TrustsEarlierReads,
}

struct Client {
    observation: Observation,
    /// The index that its observation ends with, once it is known.
    position: Option<u64>,
    /// A read that waits: its key, and when it arrived.
    waiting: Option<(OpId, usize, u64)>,
    /// The latest value of each key that it has read or written.
    seen: [u64; KEYS.len()],
}

struct Outcome {
    /// Whether no client read a value before one that it had read or written.
    keeps_sessions: bool,
    is_linearizable: bool,
    local: u64,
}

/// Runs clients of one sidecar at `level`. The value of a key is the number of the step that wrote it.
fn run(seed: u64, level: Level, bug: Bug) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::new(u64::MAX);
    cluster.follow(0, true);
    let client = |_| {
        let observation = cluster.observation();
        Client { observation, position: None, waiting: None, seen: [0; KEYS.len()] }
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let mut pulse = None;
    let (mut history, mut keeps_sessions) = (History::new(), true);
    for step in 1..=STEPS {
        let time = 2 * step;
        let moment = cluster.replica.gate.now_us();
        while cluster.replica.gate.now_us() == moment {
            std::hint::spin_loop();
        }
        match rng.random_range(0..24) {
            0 | 1 => cluster.advance(rng.random_range(0..MEMBERS), rng.random_range(1..4)),
            2..=4 => {
                let followed = cluster.followed;
                cluster.advance(followed, rng.random_range(0..4));
                cluster.stream();
            }
            5 if rng.random_ratio(1, 3) => {
                cluster.follow(rng.random_range(0..MEMBERS), rng.random_ratio(1, 3));
            }
            6..=8 => match pulse.take() {
                None => pulse = Some((cluster.replica.gate.now_us(), cluster.index())),
                Some((at_us, index)) => cluster.confirm(at_us, index),
            },
            9..=12 => {
                if let Some(client) = clients.iter_mut().find(|client| client.position.is_some()) {
                    client.observation.end(client.position.take());
                }
            }
            _ => {
                let number = rng.random_range(0..CLIENTS);
                let client = &mut clients[number];
                let is_read = client.waiting.is_some() || rng.random_ratio(3, 4);
                let (id, key, received_us) = client.waiting.take().unwrap_or_else(|| {
                    let key = rng.random_range(0..KEYS.len());
                    let op = if is_read { Invoked::Get } else { Invoked::Set(Value::from(step)) };
                    (history.invoke(number as u64, KEYS[key], op, time), key, cluster.replica.gate.now_us())
                });
                let mut found = None;
                if is_read {
                    let received_us = if bug == Bug::TrustsEarlierReads { 1 } else { received_us };
                    let asked = Asked { level, now_us: cluster.replica.gate.now_us(), received_us };
                    let request = words(&format!("GET {}", KEYS[key]));
                    match cluster.replica.read(&request, asked, &mut client.observation) {
                        Ok(reply) => found = Some(reply),
                        Err(Reason::Behind) if rng.random_ratio(3, 4) => {
                            client.waiting = Some((id, key, received_us));
                            continue;
                        }
                        Err(_) => {}
                    }
                }
                let is_local = found.is_some();
                let mut is_lost = false;
                let value = match found {
                    Some(Frame::Bulk(bytes)) => std::str::from_utf8(&bytes).unwrap().parse().unwrap(),
                    Some(Frame::Null) => 0,
                    Some(other) => panic!("{other:?}"),
                    None if is_read => {
                        cluster.advance(2, u64::MAX / 2);
                        let found = cluster.members[2].get(KEYS[key].as_bytes(), 0).unwrap();
                        found.map_or(0, |value| std::str::from_utf8(&value.data).unwrap().parse().unwrap())
                    }
                    None => {
                        cluster.write(KEYS[key], &step.to_string());
                        is_lost = rng.random_ratio(1, 8);
                        step
                    }
                };
                let answer = match is_read {
                    true => Answer::Value((value > 0).then(|| Value::from(value))),
                    false => Answer::Done,
                };
                history.ok(id, answer, time + 1);
                keeps_sessions &= value >= client.seen[key];
                client.seen[key] = value;
                if is_lost && bug != Bug::ForgetsUnknown {
                    // The write took effect, and its reply is lost. The client looks whether it did.
                    client.observation.end(None);
                    client.position = None;
                } else if !is_local && !is_lost && bug != Bug::ForgetsObservations {
                    client.observation.begin();
                    client.position = Some(cluster.index());
                }
            }
        }
    }
    for (id, ..) in clients.iter_mut().filter_map(|client| client.waiting.take()) {
        history.failed(id);
    }
    let is_linearizable = check(&history).is_legal();
    Outcome { keeps_sessions, is_linearizable, local: cluster.replica.reads.get() }
}

#[test]
fn each_level_keeps_what_it_says_and_a_forgotten_rule_is_noticed() {
    for level in [Level::Session, Level::Bounded, Level::Stale(None), Level::Linearizable] {
        let (mut local, mut linearizable) = (0, 0);
        for seed in SEEDS {
            let outcome = run(seed, level, Bug::None);
            assert!(outcome.keeps_sessions, "{level:?}, seed {seed}");
            local += outcome.local;
            linearizable += u64::from(outcome.is_linearizable);
        }
        println!("{level:?}: {local} local reads, {linearizable} linearizable histories");
        assert!(local > 10 * SEEDS.end, "{level:?}: {local} reads were local");
        let is_always = matches!(level, Level::Session | Level::Linearizable);
        assert_eq!(linearizable == SEEDS.end, is_always, "{level:?}: {linearizable}");
    }
    for level in [Level::Bounded, Level::Stale(None)] {
        for bug in [Bug::ForgetsObservations, Bug::ForgetsUnknown] {
            assert!(
                SEEDS.into_iter().any(|seed| !run(seed, level, bug).keeps_sessions),
                "{level:?}: {bug:?}"
            );
        }
    }
    let is_noticed = SEEDS
        .into_iter()
        .any(|seed| !run(seed, Level::Linearizable, Bug::TrustsEarlierReads).is_linearizable);
    assert!(is_noticed);
}

#[test]
fn limits_of_age_are_those_of_the_level() {
    let mut cluster = Cluster::new(u64::MAX);
    cluster.write("a:1", "1");
    cluster.advance(0, 1);
    cluster.follow(0, true);
    cluster.stream();
    let half = RULES.max_staleness / 2;
    let all = [Level::Session, Level::Bounded, Level::Stale(Some(half)), Level::Stale(None), Level::Lease];
    let answered = |cluster: &Cluster, after: Duration| {
        all.map(|level| {
            let now = cluster.asked(level);
            let asked = Asked { now_us: now.now_us + u64::try_from(after.as_micros()).unwrap(), ..now };
            cluster.replica.read(&words("GET a:1"), asked, &mut cluster.observation()).err()
        })
    };
    let (stale, lease) = (Some(Reason::Stale), Some(Reason::Connection));
    assert_eq!(
        answered(&cluster, Duration::ZERO),
        [stale, stale, stale, None, lease],
        "its age is not known"
    );
    cluster.confirm_now();
    assert_eq!(answered(&cluster, Duration::ZERO), [None, None, None, None, lease]);
    assert_eq!(answered(&cluster, half + Duration::from_secs(1)), [None, None, stale, None, lease]);
    assert_eq!(answered(&cluster, 2 * half + Duration::from_secs(1)), [stale, stale, stale, None, lease]);
    // What another connection does, concerns the session of the process only.
    let mut other = cluster.observation();
    other.begin();
    assert_eq!(answered(&cluster, Duration::ZERO), [Some(Reason::Behind), None, None, None, lease]);
}

#[test]
fn linearizable_reads_share_one_read_at_a_member_that_was_sent_after_they_arrived() {
    let mut cluster = Cluster::new(u64::MAX);
    cluster.write("a:1", "1");
    cluster.advance(0, 1);
    cluster.follow(0, true);
    cluster.stream();
    cluster.confirm_now();
    let is_demanded = || {
        let demanded = pin!(cluster.replica.demanded());
        demanded.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    let asked = cluster.asked(Level::Linearizable);
    let read = |asked| cluster.replica.read(&words("GET a:1"), asked, &mut cluster.observation());
    assert!(!is_demanded());
    assert_eq!((read(asked), read(asked)), (Err(Reason::Behind), Err(Reason::Behind)));
    assert!(is_demanded() && !is_demanded(), "one for both");
    let at_us = cluster.replica.gate.now_us();
    cluster.replica.asks(at_us);
    assert_eq!(read(asked), Err(Reason::Behind));
    assert!(!is_demanded(), "it is on its way");
    cluster.confirm(at_us, 1);
    assert_eq!(read(asked), Ok(Frame::Bulk("1".into())));
    let later = Asked { received_us: at_us + 1, ..asked };
    assert_eq!((read(later), is_demanded()), (Err(Reason::Behind), true));
    cluster.replica.unanswered();
    assert_eq!((read(later), is_demanded()), (Err(Reason::Behind), true), "no member answered");
}

#[test]
fn state_that_is_behind_reaches_the_first_moment_and_then_the_latest() {
    let mut cluster = Cluster::new(u64::MAX);
    (1..=9).for_each(|number: u32| cluster.write("a:1", &number.to_string()));
    cluster.advance(0, 1);
    cluster.follow(0, true);
    [(10, 3), (20, 5), (30, 7)].into_iter().for_each(|(at_us, index)| cluster.confirm(at_us, index));
    let mut fresh_us = |entries| {
        cluster.advance(0, entries);
        cluster.stream();
        cluster.replica.held().unwrap().fresh_us.load(SeqCst)
    };
    assert_eq!([fresh_us(0), fresh_us(2), fresh_us(2), fresh_us(2)], [0, 10, 10, 30]);
}
