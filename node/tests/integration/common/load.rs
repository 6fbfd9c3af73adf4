//! Steady writers that record the acknowledged writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use helios_proto::v1::Entry;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{connect, eventually};

const WRITERS: usize = 4;
/// Timeout of one attempt; the next goes to another node.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Writers that set a new key each time, on one node after another, and retry each write until it is
/// acknowledged.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: JoinSet<Report>,
}

#[derive(Debug, Default)]
pub struct Report {
    /// Acknowledged writes, key to value.
    pub written: BTreeMap<String, String>,
    /// Longest duration of one write, including all attempts.
    pub longest: Duration,
    /// Number of failed attempts.
    pub failures: usize,
}

impl Load {
    pub fn start(ports: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for number in 0..WRITERS {
            let writer = Writer {
                number,
                ports: ports.to_vec(),
                at: number % ports.len(),
                connection: None,
                report: Report::default(),
            };
            writers.spawn(writer.run(Arc::clone(&stop), Arc::clone(&acknowledged)));
        }
        Self { stop, acknowledged, writers }
    }

    /// Waits until `count` more writes are acknowledged.
    pub async fn wait_for(&self, count: u64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually(&format!("{count} more writes are acknowledged"), async || {
            (self.acknowledged.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Stops the writers, each after its present write, and returns their reports together.
    pub async fn finish(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        while let Some(report) = self.writers.join_next().await {
            let Report { written, longest, failures } = report.unwrap();
            total.written.extend(written);
            total.longest = total.longest.max(longest);
            total.failures += failures;
        }
        total
    }
}

impl Report {
    /// Panics unless `data` contains each acknowledged write.
    pub fn assert_kept(&self, data: &[Entry]) {
        let held: BTreeMap<&[u8], &[u8]> =
            data.iter().map(|entry| (&entry.key[..], &entry.value[..])).collect();
        let lost: Vec<_> = self
            .written
            .iter()
            .filter(|(key, value)| held.get(key.as_bytes()) != Some(&value.as_bytes()))
            .collect();
        assert!(!self.written.is_empty(), "nothing was written");
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost: {lost:?}",
            lost.len(),
            self.written.len()
        );
    }
}

struct Writer {
    number: usize,
    ports: Vec<u16>,
    /// Index in `ports` of the next attempt's node.
    at: usize,
    connection: Option<MultiplexedConnection>,
    report: Report,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Report {
        let mut sequence = 0;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("load:{}:{sequence:06}", self.number);
            let value = format!("value {sequence} of writer {}", self.number);
            let started = Instant::now();
            while self.try_set(&key, &value).await.is_err() {
                self.report.failures += 1;
                self.connection = None;
                self.at = (self.at + 1) % self.ports.len();
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            self.report.longest = self.report.longest.max(started.elapsed());
            self.report.written.insert(key, value);
            acknowledged.fetch_add(1, Ordering::Relaxed);
            sequence += 1;
        }
        self.report
    }

    async fn try_set(&mut self, key: &str, value: &str) -> redis::RedisResult<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(self.ports[self.at], TRY_TIMEOUT).await?),
        };
        redis::cmd("SET").arg(key).arg(value).exec_async(connection).await
    }
}
