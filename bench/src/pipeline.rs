//! Pipelined writers, and the times of their acknowledgements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{Protocol, Resp};
use crate::cluster::Cluster;
use crate::load::{Values, key, percentile};
use crate::say;

pub const CONNECTIONS: u64 = 16;
pub const PIPELINE: u64 = 128;
/// Time without an acknowledgement that counts as a stall.
pub const STALL: Duration = Duration::from_millis(100);
/// Longest time in which all writes of one pipeline are acknowledged, refused ones being sent again.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(10);
const PROGRESS: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each key once.
    Once,
    /// Random keys until the writers are stopped.
    Random,
}

/// Acknowledgements of all writers.
pub struct Answers {
    started: Instant,
    last: Instant,
    pub acknowledged: u64,
    /// Number of pipelines that were sent again, because a write was refused.
    pub retries: u64,
    /// Time of each pipeline until all its writes were acknowledged.
    pipelines: Vec<Duration>,
    /// Times without an acknowledgement that were longer than [`STALL`].
    pub stalls: Vec<Duration>,
}

impl Answers {
    fn new(now: Instant) -> Self {
        Self {
            started: now,
            last: now,
            acknowledged: 0,
            retries: 0,
            pipelines: Vec::new(),
            stalls: Vec::new(),
        }
    }

    fn acknowledge(&mut self, now: Instant) {
        self.acknowledged += 1;
        let silence = now - self.last;
        if silence > STALL {
            say(&format!("no write was acknowledged for {silence:.0?}"));
            self.stalls.push(silence);
        }
        self.last = now;
    }

    /// Returns the acknowledged writes per second.
    pub fn throughput(&self) -> f64 {
        self.acknowledged as f64 / (self.last - self.started).as_secs_f64().max(f64::EPSILON)
    }

    /// Returns p50, p99, p99.9 and the maximum of the time of a pipeline; zeros without one.
    pub fn latencies(&mut self) -> [Duration; 4] {
        if self.pipelines.is_empty() {
            return [Duration::ZERO; 4];
        }
        self.pipelines.sort_unstable();
        [500, 990, 999, 1_000].map(|permille| percentile(&self.pipelines, permille))
    }
}

type Shared = Arc<Mutex<Answers>>;

fn locked(answers: &Shared) -> std::sync::MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writers that run.
pub struct Writers {
    stop: Arc<AtomicBool>,
    answers: Shared,
    tasks: JoinSet<Result<()>>,
}

impl Writers {
    pub async fn start(port: u16, keys: u64, order: Order) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Resp::connect(port).await?);
        }
        let values = Values::new();
        let answers = Arc::new(Mutex::new(Answers::new(Instant::now())));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (number, client) in (0..).zip(clients) {
            let writer =
                Writer { client, number, keys, values: values.clone(), answers: Arc::clone(&answers) };
            match order {
                Order::Once => tasks.spawn(writer.write_once()),
                Order::Random => tasks.spawn(writer.overwrite(Arc::clone(&stop))),
            };
        }
        Ok(Self { stop, answers, tasks })
    }

    pub fn acknowledged(&self) -> u64 {
        locked(&self.answers).acknowledged
    }

    /// Returns the error of a writer that has failed.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.tasks.try_join_next().map_or(Ok(()), |ended| ended?)
    }

    /// Waits until the writers end, or for `period`.
    pub async fn run(&mut self, what: &str, period: Option<Duration>) -> Result<()> {
        let started = Instant::now();
        let end = period.map(|period| started + period);
        let mut progress = started + PROGRESS;
        loop {
            let next = end.map_or(progress, |end| end.min(progress));
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => ended??,
                    None => return Ok(()),
                },
                () = sleep_until(next) => {
                    if end.is_some_and(|end| next >= end) {
                        return Ok(());
                    }
                    progress += PROGRESS;
                    say(&format!("{what}: {} writes acknowledged", self.acknowledged()));
                }
            }
        }
    }

    /// Stops the writers and waits for the answers to what they have sent.
    pub async fn finish(mut self) -> Result<Answers> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let mut answers = locked(&self.answers);
        let now = answers.last;
        Ok(std::mem::replace(&mut answers, Answers::new(now)))
    }
}

/// Writes each of the keys once, through the leader.
pub async fn write_all(cluster: &Cluster, keys: u64) -> Result<Answers> {
    let port = cluster.members[cluster.leader().await?].port(Protocol::Redis)?;
    let mut writers = Writers::start(port, keys, Order::Once).await?;
    let ended = writers.run("load", None).await;
    ended.with_context(|| format!("after {} of {keys} writes", writers.acknowledged()))?;
    writers.finish().await
}

/// The writer of one connection.
struct Writer {
    client: Resp,
    number: u64,
    keys: u64,
    values: Values,
    answers: Shared,
}

impl Writer {
    async fn write_once(mut self) -> Result<()> {
        for start in (self.number * PIPELINE..self.keys).step_by((CONNECTIONS * PIPELINE) as usize) {
            let numbers: Vec<_> = (start..self.keys.min(start + PIPELINE)).collect();
            self.pipeline(&numbers).await?;
        }
        Ok(())
    }

    async fn overwrite(mut self, stop: Arc<AtomicBool>) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.number);
        while !stop.load(Ordering::Relaxed) {
            let numbers: Vec<_> = (0..PIPELINE).map(|_| rng.random_range(0..self.keys)).collect();
            self.pipeline(&numbers).await?;
        }
        Ok(())
    }

    /// Writes the keys, and again while one of them is refused.
    async fn pipeline(&mut self, numbers: &[u64]) -> Result<()> {
        let pairs: Vec<_> = numbers.iter().map(|number| (key(*number), self.values.of(*number))).collect();
        let answers = &self.answers;
        let sent = Instant::now();
        loop {
            let writing = self.client.set_each(&pairs, || locked(answers).acknowledge(Instant::now()));
            let Ok(refused) = timeout(PATIENCE, writing).await else {
                bail!("a pipeline was not answered within {PATIENCE:?}");
            };
            let Some(error) = refused? else { break };
            if sent.elapsed() > PATIENCE {
                bail!("writes were refused for {PATIENCE:?}: {error}");
            }
            locked(answers).retries += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        locked(answers).pipelines.push(sent.elapsed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stall_is_a_time_without_any_acknowledgement() {
        let start = Instant::now();
        let mut answers = Answers::new(start);
        for ms in [90, 180, 300, 310, 460] {
            answers.acknowledge(start + Duration::from_millis(ms));
        }
        assert_eq!(answers.stalls, [120, 150].map(Duration::from_millis));
        assert_eq!(answers.acknowledged, 5);
        assert_eq!(answers.throughput().round(), 11.0);
    }
}
