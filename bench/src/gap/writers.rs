//! Paced writers that record the acknowledged writes with their times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::client::{Client, Protocol};
use crate::load::value;
use crate::wait_for;

pub const COUNT: usize = 8;
pub const PACE: Duration = Duration::from_millis(5);
/// Timeout of one write, short so that a write lost with the ended leader does not hide that others are
/// served again.
pub const PATIENCE: Duration = Duration::from_millis(100);
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// Longest wait for writes: with `wan` timings an election takes up to ten seconds, on a busy disk.
const WAIT: Duration = Duration::from_secs(60);
/// Timeout of a read, in which no other load runs.
const READ_PATIENCE: Duration = Duration::from_secs(10);

pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<(String, Instant)>>,
}

/// Keys of acknowledged writes, each with the time of the acknowledgement.
pub struct Written(Vec<(String, Instant)>);

impl Writers {
    /// Starts the writers; their keys begin with `prefix`, which must be unique.
    pub fn start(protocol: Protocol, ports: &[u16], prefix: &str) -> Self {
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for number in 0..COUNT {
            let writer = Writer {
                protocol,
                ports: ports.to_vec(),
                at: number % ports.len(),
                client: None,
                prefix: format!("{prefix}:{number}"),
            };
            tasks.spawn(writer.run(Arc::clone(&stop), Arc::clone(&acknowledged)));
        }
        Self { stop, acknowledged, tasks }
    }

    /// Waits until `count` more writes are acknowledged.
    pub async fn wait_for(&self, count: usize) -> Result<()> {
        let target = self.acknowledged.load(Ordering::Relaxed) + count;
        wait_for(WAIT, &format!("{count} more acknowledged writes"), async || {
            Ok((self.acknowledged.load(Ordering::Relaxed) >= target).then_some(()))
        })
        .await
    }

    pub async fn finish(mut self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            written.extend(ended?);
        }
        written.sort_by_key(|(_, at)| *at);
        Ok(Written(written))
    }
}

impl Written {
    /// Returns the times of the acknowledgements, in order.
    pub fn times(&self) -> Vec<Instant> {
        self.0.iter().map(|(_, at)| *at).collect()
    }

    /// Returns the number of acknowledged writes that cannot be read any more.
    pub async fn missing(&self, protocol: Protocol, ports: &[u16]) -> Result<usize> {
        let mut tasks = JoinSet::new();
        for number in 0..COUNT {
            let mut client = Client::connect(protocol, ports[number % ports.len()]).await?;
            let keys: Vec<_> =
                self.0.iter().skip(number).step_by(COUNT).map(|(key, _)| key.clone()).collect();
            tasks.spawn(async move {
                let mut missing = 0;
                for key in keys {
                    match timeout(READ_PATIENCE, client.get(key.as_bytes())).await {
                        Ok(found) => missing += usize::from(!found?),
                        Err(_) => bail!("a read was not answered within {READ_PATIENCE:?}"),
                    }
                }
                Ok(missing)
            });
        }
        let mut missing = 0;
        while let Some(ended) = tasks.join_next().await {
            missing += ended??;
        }
        Ok(missing)
    }
}

struct Writer {
    protocol: Protocol,
    ports: Vec<u16>,
    /// Index in `ports` of the next write's member.
    at: usize,
    client: Option<Client>,
    prefix: String,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicUsize>) -> Vec<(String, Instant)> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written = Vec::new();
        for sequence in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // A key is never written twice: a write that timed out may still be applied.
            let key = format!("{}:{sequence}", self.prefix);
            match timeout(PATIENCE, self.write(&key)).await {
                Ok(Ok(())) => {
                    written.push((key, Instant::now()));
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    pace.tick().await;
                }
                _ => {
                    self.client = None;
                    self.at = (self.at + 1) % self.ports.len();
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        written
    }

    async fn write(&mut self, key: &str) -> Result<()> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(self.protocol, self.ports[self.at]).await?),
        };
        client.set(key.as_bytes(), &value()).await
    }
}
