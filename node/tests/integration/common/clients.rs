//! Clients that record a history of requests and replies, so that it can be checked for linearizability.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use helios_history::redis::{answer, command};
use helios_history::{Answer, History, Op, OpId, Outcome, Value, Verdict, check};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Cluster, connect, eventually, is_outcome_unknown};

const CLIENTS_PER_NODE: usize = 2;
/// Number of keys, small so that clients contend.
const REGISTERS: u32 = 4;
const COUNTERS: u32 = 2;
/// Operations after which a client stops.
const MAX_OPERATIONS: usize = 5_000;
/// Timeout of a reply, longer than a node takes to reply that it cannot serve.
const TIMEOUT: Duration = Duration::from_secs(3);
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Clients of all nodes; each client talks to one node.
pub struct Clients {
    shared: Arc<Shared>,
    running: JoinSet<()>,
}

struct Shared {
    stop: AtomicBool,
    started: Instant,
    history: Mutex<History>,
    next_value: AtomicU64,
    /// Number of answered requests, by node.
    answered: Vec<AtomicU64>,
}

struct Client {
    node: usize,
    process: u64,
    port: u16,
    rng: StdRng,
    shared: Arc<Shared>,
}

impl Clients {
    pub fn start(ports: &[u16]) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            started: Instant::now(),
            history: Mutex::default(),
            next_value: AtomicU64::new(1),
            answered: ports.iter().map(|_| AtomicU64::new(0)).collect(),
        });
        let mut running = JoinSet::new();
        for process in 0..ports.len() * CLIENTS_PER_NODE {
            let node = process % ports.len();
            let process = process as u64;
            let rng = StdRng::seed_from_u64(process);
            let client = Client { node, process, port: ports[node], rng, shared: Arc::clone(&shared) };
            running.spawn(client.run());
        }
        Self { shared, running }
    }

    /// Returns the number of requests that `node` has answered.
    pub fn answered(&self, node: usize) -> u64 {
        self.shared.answered[node].load(Ordering::Relaxed)
    }

    /// Waits until each of `nodes` has answered `count` more requests.
    pub async fn wait_for(&self, nodes: impl IntoIterator<Item = usize>, count: u64) {
        for node in nodes {
            let target = self.answered(node) + count;
            eventually(&format!("node {node} answers {count} more questions"), async || {
                (self.answered(node) >= target).then_some(())
            })
            .await;
        }
    }

    /// Ends all clients, waits until all nodes hold the same data, reads all keys once more on every node,
    /// and panics unless the history is linearizable.
    pub async fn finish(mut self, cluster: &Cluster) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap();
        }
        cluster.agreed_data().await;
        for node in cluster.nodes() {
            let mut connection = node.redis().await;
            for key in registers().chain(counters()) {
                // A busy machine may have one more election, in which a read fails.
                eventually("a read after the faults", async || {
                    let asked = self.shared.ask(&mut connection, u64::MAX, &key, Op::Get).await;
                    asked.inspect_err(|error| println!("GET {key}: {error}")).ok()
                })
                .await;
            }
        }
        let history = self.shared.history.lock().unwrap();
        let operations = history.operations();
        let unknown = operations.iter().filter(|operation| operation.outcome == Outcome::Maybe).count();
        let verdict = check(&history);
        println!("{} operations, {unknown} of unknown outcome: {verdict}", operations.len());
        if verdict != Verdict::Legal {
            let path = std::env::temp_dir().join(format!("helios-history-{}.jsonl", std::process::id()));
            std::fs::write(&path, history.to_porcupine_json()).unwrap();
            panic!("the whole history is in {}: {verdict}", path.display());
        }
    }
}

fn registers() -> impl Iterator<Item = String> {
    (0..REGISTERS).map(|number| format!("register {number}"))
}

fn counters() -> impl Iterator<Item = String> {
    (0..COUNTERS).map(|number| format!("counter {number}"))
}

impl Client {
    async fn run(mut self) {
        let mut connection = None;
        let mut asked = 0;
        while asked < MAX_OPERATIONS && !self.shared.stop.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                connection = connect(self.port, TIMEOUT).await.ok();
                if connection.is_none() {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                continue;
            };
            let (key, op) = self.choose();
            asked += 1;
            match self.shared.ask(open, self.process, &key, op).await {
                Ok(()) => drop(self.shared.answered[self.node].fetch_add(1, Ordering::Relaxed)),
                // Pauses, so that a node that refuses at once is not asked in a tight loop.
                Err(_) => {
                    connection = None;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    fn choose(&mut self) -> (String, Op) {
        if self.rng.random_ratio(1, 4) {
            let key = format!("counter {}", self.rng.random_range(0..COUNTERS));
            let op = if self.rng.random() { Op::Incr(self.rng.random_range(1..=3)) } else { Op::Get };
            return (key, op);
        }
        let key = format!("register {}", self.rng.random_range(0..REGISTERS));
        let value = || Value::from(self.shared.next_value.fetch_add(1, Ordering::Relaxed));
        let op = match self.rng.random_range(0..10) {
            0..5 => Op::Get,
            5..8 => Op::Set(value()),
            8 => Op::SetIfAbsent(value()),
            _ => Op::Delete,
        };
        (key, op)
    }
}

impl Shared {
    async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        process: u64,
        key: &str,
        op: Op,
    ) -> redis::RedisResult<()> {
        let id = self.history.lock().unwrap().invoke(process, key, op.clone(), self.now());
        let reply: redis::RedisResult<redis::Value> = command(key, &op).query_async(connection).await;
        let answer = reply.and_then(|reply| Ok(answer(&op, reply)?));
        let now = self.now();
        self.record(id, answer.as_ref(), now);
        answer.map(drop)
    }

    fn record(&self, id: OpId, answer: Result<&Answer, &redis::RedisError>, now: u64) {
        let mut history = self.history.lock().unwrap();
        match answer {
            Ok(answer) => history.ok(id, answer.clone(), now),
            Err(error) if is_outcome_unknown(error) => history.maybe(id),
            Err(_) => history.failed(id),
        }
    }

    /// Returns microseconds of a monotonic clock.
    fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}
