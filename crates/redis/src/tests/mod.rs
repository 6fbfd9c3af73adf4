//! Tests with a real listener over a store that applies each write at once.

mod blocking;
mod clients;
mod collections;
mod commands;
mod connections;
mod fuzz;
mod handshakes;
mod introspection;
mod memory;
mod notifications;
mod pauses;
mod pipelines;
mod prefixes;
mod pubsub;
mod script_bounds;
mod scripts;
mod sorting;
mod transactions;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::{Command, Member, Membership, Reply, Role, StatusResponse, Token, command::Op};
use helios_service::auth::{Access, AccessOptions};
use helios_service::database::{Ack, Database, Freshness, WriteRequest};
use helios_service::pubsub::Broker;
use helios_service::rejections::Rejections;
use helios_service::tls::{Acceptor, Protocol, Slots};
use helios_state::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Limits, Metrics, serve};

const PATIENCE: Duration = Duration::from_secs(10);
const CLUSTER_ID: &str = "demo";

/// Database of a single voter, without a log.
#[derive(Clone)]
struct LocalDb(Arc<Inner>);

struct Inner {
    store: Store,
    /// Clock of the database in milliseconds; 0: the wall clock.
    clock_ms: AtomicU64,
    broker: Arc<Broker>,
    last_index: Mutex<u64>,
    /// Sizes of the batches written.
    batches: Mutex<Vec<usize>>,
    /// Ack level of the last write.
    ack: Mutex<Ack>,
    after: Mutex<Option<Token>>,
    barriers: AtomicUsize,
    role: Mutex<Role>,
    followers_are_masters: AtomicBool,
    write_error: Mutex<Option<Error>>,
    read_error: Mutex<Option<Error>>,
    /// Number of batches submitted so far.
    waiting: AtomicUsize,
    /// Gate of writes; each waits for a permit.
    gate: tokio::sync::Semaphore,
}

impl LocalDb {
    fn new(store: Store) -> Self {
        Self(Arc::new(Inner {
            store,
            clock_ms: AtomicU64::new(0),
            broker: Arc::default(),
            last_index: Mutex::new(0),
            batches: Mutex::default(),
            ack: Mutex::default(),
            after: Mutex::default(),
            barriers: AtomicUsize::new(0),
            role: Mutex::new(Role::Leader),
            followers_are_masters: AtomicBool::new(false),
            write_error: Mutex::default(),
            read_error: Mutex::default(),
            waiting: AtomicUsize::new(0),
            gate: tokio::sync::Semaphore::new(1),
        }))
    }

    fn apply(&self, op: Op) -> Reply {
        let mut index = self.0.last_index.lock().unwrap();
        *index += 1;
        let budget = helios_state::ENTRY_BUDGET;
        let command = Command { now_ms: now_ms(), op: Some(op), budget, ..Command::default() };
        self.0.store.apply(*index, 1, &command)
    }

    fn take_batches(&self) -> Vec<usize> {
        std::mem::take(&mut *self.0.batches.lock().unwrap())
    }

    fn take_barriers(&self) -> usize {
        self.0.barriers.swap(0, Ordering::SeqCst)
    }
}

impl Database for LocalDb {
    async fn submit(&self, writes: Vec<WriteRequest>, ack: Ack) -> Vec<Result<Reply, Error>> {
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let _permit = self.0.gate.acquire().await.unwrap();
        *self.0.ack.lock().unwrap() = ack;
        self.0.batches.lock().unwrap().push(writes.len());
        let failure = self.0.write_error.lock().unwrap().clone();
        writes
            .into_iter()
            .map(|write| match &failure {
                Some(error) => Err(error.clone()),
                None => Ok(self.apply(write.op)),
            })
            .collect()
    }

    async fn await_fresh(&self, freshness: Freshness, after: Option<&Token>) -> Result<(), Error> {
        *self.0.after.lock().unwrap() = after.cloned();
        if freshness == Freshness::Stale(None) {
            return Ok(());
        }
        self.0.barriers.fetch_add(1, Ordering::SeqCst);
        match &*self.0.read_error.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn cluster_id(&self) -> String {
        CLUSTER_ID.to_owned()
    }

    async fn wait_replicas(&self, index: u64, replicas: u64, _: Duration) -> Result<u64, Error> {
        assert!(index <= *self.0.last_index.lock().unwrap());
        Ok(if index == 0 { 0 } else { replicas })
    }

    async fn publish(&self, channel: Bytes, payload: Bytes) -> u64 {
        self.0.broker.publish(&channel, &payload)
    }

    fn broker(&self) -> &Arc<Broker> {
        &self.0.broker
    }

    fn reports_followers_as_masters(&self) -> bool {
        self.0.followers_are_masters.load(Ordering::SeqCst)
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn now_ms(&self) -> u64 {
        match self.0.clock_ms.load(Ordering::SeqCst) {
            0 => now_ms(),
            set => set,
        }
    }

    fn status(&self) -> StatusResponse {
        let member = |id: u64| Member {
            id,
            name: format!("demo-{id}"),
            client_addr: format!("demo-{id}.demo:6379"),
            ..Member::default()
        };
        let last_index = *self.0.last_index.lock().unwrap();
        StatusResponse {
            name: "demo-1".into(),
            cluster_id: CLUSTER_ID.into(),
            member_id: 1,
            role: (*self.0.role.lock().unwrap()).into(),
            term: 7,
            leader_id: 1,
            leader_name: "demo-1".into(),
            last_index,
            commit_index: last_index,
            applied_index: last_index,
            membership: Some(Membership { members: vec![member(1), member(2)], ..Membership::default() }),
            ..StatusResponse::default()
        }
    }
}

struct Server {
    db: LocalDb,
    port: u16,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start() -> Self {
        Self::with(Limits::default(), None).await
    }

    async fn with(limits: Limits, password: Option<&str>) -> Self {
        Self::over(Store::in_memory(), limits, password).await
    }

    /// Starts a server with these limits on the cost of reads.
    async fn with_reads(elements: u64, bytes: u64) -> Self {
        let reads = helios_state::Limits { elements, bytes, ..helios_state::Limits::DEFAULT_READ };
        Self::over(Store::in_memory_within(reads), Limits::default(), None).await
    }

    async fn over(store: Store, limits: Limits, password: Option<&str>) -> Self {
        let options = password.map_or_else(AccessOptions::default, AccessOptions::with_password);
        Self::guarded(store, limits, options).await
    }

    async fn guarded(store: Store, limits: Limits, options: AccessOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (db, shutdown) = (LocalDb::new(store), CancellationToken::new());
        let access = Arc::new(Access::load(options).unwrap());
        let rejections = Rejections::default();
        let acceptor = Acceptor {
            name: "client",
            protocol: Protocol::Redis,
            tls: None,
            rejections,
            open: Default::default(),
            slots: Slots::new(1),
        };
        let serving =
            serve(listener, acceptor, db.clone(), limits, access, Metrics::default(), shutdown.clone());
        Self { db, port, shutdown, task: tokio::spawn(serving) }
    }

    async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(("127.0.0.1", self.port)).await.unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn send(&mut self, wire: impl AsRef<[u8]>) {
        self.stream.write_all(wire.as_ref()).await.unwrap();
    }

    /// Sends a command as clients do, of any length.
    async fn send_words(&mut self, words: &[&str]) {
        let bulks: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        self.send(format!("*{}\r\n{bulks}", words.len())).await;
    }

    /// Reads as many bytes as `wire` has and compares.
    async fn expect(&mut self, wire: &str) {
        let mut received = Vec::new();
        let mut rest = (&mut self.stream).take(wire.len() as u64);
        let complete = timeout(PATIENCE, rest.read_to_end(&mut received)).await;
        let received = String::from_utf8_lossy(&received);
        assert!(complete.is_ok(), "timed out after {received:?}, expected {wire:?}");
        assert_eq!(received, wire);
    }

    /// Sends an inline command and expects exactly this reply, its last CRLF left out.
    async fn check(&mut self, command: &str, reply: &str) {
        self.send(format!("{command}\r\n")).await;
        self.expect(&format!("{reply}\r\n")).await;
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(timeout(PATIENCE, self.stream.read_u8()).await.unwrap().unwrap());
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Sends a command and returns the text of its bulk or verbatim string.
    async fn text(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n")).await;
        let header = self.line().await;
        let length: usize = header[1..].parse().unwrap_or_else(|_| panic!("not a bulk string: {header}"));
        let mut text = vec![0; length + 2];
        timeout(PATIENCE, self.stream.read_exact(&mut text)).await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Sends a `SCAN` and returns its cursor and keys.
    async fn scan(&mut self, command: &str) -> (String, Vec<String>) {
        self.send(format!("{command}\r\n")).await;
        assert_eq!(self.line().await, "*2");
        self.line().await;
        let cursor = self.line().await;
        let count: usize = self.line().await[1..].parse().unwrap();
        let mut keys = Vec::new();
        for _ in 0..count {
            self.line().await;
            keys.push(self.line().await);
        }
        (cursor, keys)
    }

    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}
