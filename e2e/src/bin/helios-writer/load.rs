//! The load: each worker sets `PREFIX:WORKER:n` to `n` for n = 1, 2, 3 and so on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::link::{Link, Server, pause, set};
use crate::tally::Tally;

pub struct Load {
    pub server: Server,
    pub prefix: String,
    /// Writes per second of all workers together; 0: as many as possible.
    pub rate: u32,
    pub retry_for: Duration,
}

/// Writes of one worker: 1 to `last`, except those in `failed`. Stored compactly, so that a writer may run
/// for long.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub worker: u16,
    pub last: u64,
    pub failed: BTreeSet<u64>,
}

impl Written {
    pub fn acknowledged(&self) -> impl Iterator<Item = u64> {
        (1..=self.last).filter(|n| !self.failed.contains(n))
    }
}

pub fn key(prefix: &str, worker: u16, n: u64) -> String {
    format!("{prefix}:{worker}:{n}")
}

impl Load {
    /// Writes with `workers` workers until `stop`; a write in flight is completed.
    pub async fn run(&self, workers: u16, tally: &Arc<Tally>, stop: &CancellationToken) -> Vec<Written> {
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            tasks.spawn(
                Worker {
                    written: Written { worker, ..Written::default() },
                    prefix: self.prefix.clone(),
                    link: Link::new(self.server.clone()),
                    retry_for: self.retry_for,
                    every: self.every(workers),
                    tally: Arc::clone(tally),
                }
                .run(stop.clone()),
            );
        }
        tasks.join_all().await
    }

    fn every(&self, workers: u16) -> Option<Duration> {
        (self.rate > 0).then(|| Duration::from_secs(1) * u32::from(workers) / self.rate)
    }
}

struct Worker {
    written: Written,
    prefix: String,
    link: Link,
    retry_for: Duration,
    every: Option<Duration>,
    tally: Arc<Tally>,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) -> Written {
        let mut pace = self.every.map(|every| {
            let mut pace = interval(every);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        loop {
            let turn = async {
                match &mut pace {
                    Some(pace) => _ = pace.tick().await,
                    None => tokio::task::yield_now().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.written,
                () = turn => self.write_next().await,
            }
        }
    }

    async fn write_next(&mut self) {
        let n = self.written.last + 1;
        // Setting a key to the same value twice is harmless, so an attempt of unknown outcome may be
        // repeated.
        let command = set(&key(&self.prefix, self.written.worker, n), &n.to_string(), None);
        let began = Instant::now();
        let deadline = began + self.retry_for;
        let mut attempts = 0;
        let acknowledged = loop {
            attempts += 1;
            match self.link.attempt::<redis::Value>(&command, deadline).await {
                Ok(redis::Value::Okay) => break true,
                Ok(other) => self.tally.error(&format!("SET answered {other:?}")),
                Err(error) => self.tally.error(&error.to_string()),
            }
            if !pause(deadline).await {
                break false;
            }
        };
        self.written.last = n;
        if acknowledged {
            self.tally.acknowledged(began.elapsed(), attempts > 1);
        } else {
            self.written.failed.insert(n);
            self.tally.failed();
        }
    }
}
