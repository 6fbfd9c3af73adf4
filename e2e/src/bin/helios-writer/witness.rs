//! Witness clients: beside the load, a few clients read and write the same few keys without retries; their
//! history is checked for linearizability by `helios-history`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use helios_e2e::report::Witnessed;
use helios_history::redis::{answer, command, is_outcome_unknown};
use helios_history::{History, Op, Outcome, Value, Verdict, check};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::link::{Link, LinkError, Server};

const CLIENTS: u64 = 3;
/// Number of keys, small so that clients contend.
const REGISTERS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(30);
/// Operations after which a client stops.
const MAX_OPERATIONS: u64 = 20_000;
/// Timeout of an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which the final reads are retried; longer than an election and the restart of a member.
const RETRY_FOR: Duration = Duration::from_secs(30);

struct Shared {
    server: Server,
    /// Prefix of each key, unique to this run, so that each key is absent at first.
    prefix: String,
    started: Instant,
    history: Mutex<History>,
    next_value: AtomicU64,
}

/// Runs the clients until `stop`, reads each key once more, and checks the history.
pub async fn witness(server: Server, prefix: &str, stop: &CancellationToken) -> Witnessed {
    let shared = Arc::new(Shared {
        server,
        prefix: format!("{prefix}:{:016x}", rand::random::<u64>()),
        started: Instant::now(),
        history: Mutex::default(),
        next_value: AtomicU64::new(1),
    });
    let mut clients = JoinSet::new();
    for process in 0..CLIENTS {
        clients.spawn(Arc::clone(&shared).operate_until(process, stop.clone()));
    }
    clients.join_all().await;
    shared.read_all().await;
    let history = std::mem::take(&mut *shared.history());
    // Takes some seconds in the worst case; nothing else needs this thread any more.
    judge(&history)
}

fn judge(history: &History) -> Witnessed {
    let operations = history.operations();
    let unknown = operations.iter().filter(|operation| operation.outcome == Outcome::Maybe).count();
    let verdict = check(history);
    Witnessed {
        operations: operations.len() as u64,
        unknown: unknown as u64,
        objection: (verdict != Verdict::Legal).then(|| verdict.to_string()),
    }
}

impl Shared {
    async fn operate_until(self: Arc<Self>, process: u64, stop: CancellationToken) {
        let mut link = Link::new(self.server.clone());
        let mut rng = StdRng::seed_from_u64(process);
        for _ in 0..MAX_OPERATIONS {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            let (key, op) = self.choose(&mut rng);
            self.ask(&mut link, process, &key, op).await;
        }
    }

    fn choose(&self, rng: &mut StdRng) -> (String, Op) {
        if rng.random_ratio(1, 4) {
            let op = if rng.random() { Op::Incr(rng.random_range(1..=3)) } else { Op::Get };
            return (self.counter(), op);
        }
        let value = || Value::from(self.next_value.fetch_add(1, Ordering::Relaxed));
        let op = match rng.random_range(0..10) {
            0..5 => Op::Get,
            5..8 => Op::Set(value()),
            8 => Op::SetIfAbsent(value()),
            _ => Op::Delete,
        };
        (self.register(rng.random_range(0..REGISTERS)), op)
    }

    async fn ask(&self, link: &mut Link, process: u64, key: &str, op: Op) {
        let id = self.history().invoke(process, key, op.clone(), self.now());
        let reply = link.attempt::<redis::Value>(&command(key, &op), Instant::now() + TIMEOUT).await;
        let now = self.now();
        match reply.map(|reply| answer(&op, reply)) {
            Ok(Ok(answer)) => self.history().ok(id, answer, now),
            Err(LinkError::Connect(_) | LinkError::ConnectTimeout) => self.history().failed(id),
            Err(LinkError::Refused(error)) if !is_outcome_unknown(&error) => self.history().failed(id),
            Ok(Err(_)) | Err(_) => self.history().maybe(id),
        }
    }

    async fn read_all(&self) {
        let mut link = Link::new(self.server.clone());
        let deadline = Instant::now() + RETRY_FOR;
        for key in (0..REGISTERS).map(|number| self.register(number)).chain([self.counter()]) {
            let id = self.history().invoke(CLIENTS, &key, Op::Get, self.now());
            let reply = link.persist::<redis::Value>(&command(&key, &Op::Get), deadline).await;
            if let Some(answer) = reply.ok().and_then(|reply| answer(&Op::Get, reply).ok()) {
                let now = self.now();
                self.history().ok(id, answer, now);
            }
        }
    }

    fn register(&self, number: u32) -> String {
        format!("{}:register:{number}", self.prefix)
    }

    fn counter(&self) -> String {
        format!("{}:counter", self.prefix)
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns microseconds of a monotonic clock.
    fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}
