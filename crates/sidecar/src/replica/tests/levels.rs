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
    /// The index of an entry counts without its term.
    ForgetsTerms,
    /// The state of another history is kept, and changed further.
    KeepsStore,
}

struct Client {
    observation: Observation,
    /// Token that its observation ends with, once it is known.
    position: Option<Token>,
    /// A read that waits: its key, and when it arrived.
    waiting: Option<(OpId, usize, u64)>,
    /// The latest value of each key that it has read or written.
    seen: [u64; KEYS.len()],
    /// Whether its session has observed the present history.
    is_present: bool,
}

struct Outcome {
    /// Whether no client read a value before one that it had read or written.
    keeps_sessions: bool,
    is_linearizable: bool,
    local: u64,
}

/// Runs clients of one sidecar at `level`. The value of a key is the number of the step that wrote it.
fn run(seed: u64, level: Level, bug: Bug) -> Outcome {
    run_anew(seed, level, bug, None)
}

/// As [`run`], with a forced new cluster, or a restore, in the middle. From then on, the outcome is that of the new history, which
/// a session sees once a member has answered in it.
fn run_anew(seed: u64, level: Level, bug: Bug, is_restore: Option<bool>) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::new(u64::MAX);
    (cluster.sends_terms, cluster.keeps_store) = (bug != Bug::ForgetsTerms, bug == Bug::KeepsStore);
    cluster.follow(0, true);
    let client = |_| {
        let observation = cluster.observation();
        Client { observation, position: None, waiting: None, seen: [0; KEYS.len()], is_present: true }
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
        if let Some(is_restore) = is_restore
            && step == STEPS / 2
        {
            cluster.begin_again(rng.random_range(0..MEMBERS), is_restore);
            (history, keeps_sessions) = (History::new(), true);
            for (number, client) in clients.iter_mut().enumerate() {
                (client.waiting, client.seen) = (None, [0; KEYS.len()]);
                client.is_present = level == Level::Linearizable;
                if let Some(key) = KEYS.get(number)
                    && let Some(value) = cluster.members[0].get(key.as_bytes(), 0).unwrap()
                {
                    let id = history.invoke(99, key, Invoked::Set(Value::Bytes(value.data.to_vec())), time);
                    history.ok(id, Answer::Done, time + 1);
                }
            }
            continue;
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
                None => pulse = Some((cluster.replica.gate.now_us(), cluster.token(cluster.index()))),
                Some((at_us, token)) => cluster.replica.confirm(at_us, &token),
            },
            9..=12 => {
                if let Some(client) = clients.iter_mut().find(|client| client.position.is_some()) {
                    let position = client.position.take();
                    client.observation.end(position.and_then(|token| cluster.replica.index_of(&token)));
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
                        // Of the lost history, and as old as the limit of age allows.
                        Ok(_) if !client.is_present => {
                            history.failed(id);
                            continue;
                        }
                        Ok(reply) => found = Some(reply),
                        Err(Reason::Behind) if rng.random_ratio(3, 4) => {
                            client.waiting = Some((id, key, received_us));
                            continue;
                        }
                        Err(_) => {}
                    }
                }
                let is_local = found.is_some();
                client.is_present |= !is_local;
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
                    client.position = Some(cluster.token(cluster.index()));
                }
                if level == Level::Session && !is_local {
                    // The process is the session.
                    clients.iter_mut().for_each(|client| client.is_present = true);
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
fn state_of_a_lost_history_is_not_read_once_the_new_one_was_observed() {
    let is_kept = |seed, level, bug, is_restore| {
        let outcome = run_anew(seed, level, bug, Some(is_restore));
        // A session of one connection is no linearizable history.
        let is_enough = matches!(level, Level::Bounded | Level::Stale(None));
        outcome.keeps_sessions && (outcome.is_linearizable || is_enough)
    };
    for level in [Level::Session, Level::Linearizable, Level::Bounded, Level::Stale(None)] {
        for (seed, is_restore) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
            assert!(is_kept(seed, level, Bug::None, is_restore), "{level:?}, seed {seed}, {is_restore}");
        }
        for bug in [Bug::ForgetsTerms, Bug::KeepsStore] {
            assert!(SEEDS.into_iter().any(|seed| !is_kept(seed, level, bug, false)), "{level:?}: {bug:?}");
        }
    }
}

#[test]
fn state_is_confirmed_by_its_term_unless_its_member_sends_none() {
    let mut cluster = Cluster::new(u64::MAX);
    cluster.write("a:1", "1");
    cluster.advance(0, 1);
    cluster.follow(0, true);
    let read = |cluster: &mut Cluster, term| {
        let token = Token { term, ..cluster.token(1) };
        let at_us = cluster.replica.gate.now_us();
        cluster.replica.confirm(at_us, &token);
        cluster.stream();
        let asked = Asked { received_us: at_us - 1, ..cluster.asked(Level::Linearizable) };
        let found = cluster.replica.read(&words("GET a:1"), asked, &mut cluster.observation()).is_ok();
        (found, cluster.replica.index_of(&token))
    };
    assert_eq!((read(&mut cluster, 1), read(&mut cluster, 2)), ((true, Some(1)), (false, None)));
    // A member of an earlier release.
    cluster.sends_terms = false;
    assert_eq!(read(&mut cluster, 2), (true, Some(1)));
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
    cluster.confirm(1, 1);
    let is_demanded = || {
        let demanded = pin!(cluster.replica.demanded());
        demanded.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    let asked = cluster.asked(Level::Linearizable);
    let read = |asked| cluster.replica.read(&words("GET a:1"), asked, &mut cluster.observation());
    assert!(!is_demanded());
    assert_eq!((read(asked), read(asked)), (Err(Reason::Behind), Err(Reason::Behind)));
    assert!(is_demanded() && !is_demanded(), "one for both");
    let at_us = asked.received_us + 1;
    cluster.replica.asks(at_us);
    assert_eq!(read(asked), Err(Reason::Behind));
    assert!(!is_demanded(), "it is on its way");
    cluster.confirm(at_us, 1);
    assert_eq!(read(asked), Ok(Frame::Bulk("1".into())));
    let later = Asked { received_us: at_us, ..asked };
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
