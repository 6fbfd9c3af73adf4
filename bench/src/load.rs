//! One round of load: closed-loop clients, each of which sends its next request as soon as it is answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Operation, Protocol};
use crate::cluster::{Cluster, Counters};
use crate::machine;
use crate::server::cpu_of;

pub const VALUE_BYTES: usize = 128;
pub const KEY_BYTES: usize = 16;

/// Returns the bytes of so many keys and values.
pub fn user_bytes(keys: u64) -> u64 {
    keys * (KEY_BYTES + VALUE_BYTES) as u64
}

/// Time after which connections are open and caches warm.
const WARM_UP: Duration = Duration::from_millis(300);

/// Result of one round of one system.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub operations: usize,
    pub errors: usize,
    /// Operations per second.
    pub throughput: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// CPU time per operation, of all members.
    pub server_cpu: Duration,
    pub client_cpu: Duration,
    /// Share of all cores used by processes other than members and clients.
    pub others: f64,
    pub fsyncs_per_operation: Option<f64>,
    pub operations_per_read_round: Option<f64>,
}

pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key.iter_mut().rev().take(12) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

pub fn value() -> Bytes {
    let mut rng = StdRng::seed_from_u64(1);
    (0..VALUE_BYTES).map(|_| rng.random_range(b' '..=b'~')).collect()
}

/// Bytes of which [`Values`] are parts: more than the window of a compressor.
const POOL_BYTES: usize = 16 << 20;

/// Values that differ, and that no compressor makes smaller.
#[derive(Clone)]
pub struct Values(Bytes);

impl Values {
    pub fn new() -> Self {
        let mut pool = vec![0; POOL_BYTES];
        StdRng::seed_from_u64(1).fill(&mut pool[..]);
        Self(pool.into())
    }

    /// Returns the value of the key with this number.
    pub fn of(&self, number: u64) -> &[u8] {
        // The golden ratio spreads neighbours over the pool.
        let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (POOL_BYTES - VALUE_BYTES) as u64;
        &self.0[at as usize..][..VALUE_BYTES]
    }
}

/// Writes the first `keys` keys once.
pub async fn fill(clients: Vec<Client>, keys: u64) -> Result<()> {
    let count = clients.len() as u64;
    let mut tasks = JoinSet::new();
    for (first, mut client) in (0..).zip(clients) {
        tasks.spawn(async move {
            let value = value();
            for number in (first..keys).step_by(count as usize) {
                client.set(&key(number), &value).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Runs closed-loop clients at the leader for `period`.
pub async fn many_clients(
    cluster: &Cluster,
    operation: Operation,
    clients: usize,
    keys: u64,
    period: Duration,
) -> Result<Round> {
    let leader = cluster.leader().await?;
    let port = cluster.members[leader].port(Protocol::Redis)?;
    let clients = Client::connect_many(Protocol::Redis, port, clients, clients).await?;
    round(cluster, leader, clients, operation, keys, period).await
}

/// Drives `clients` for `period`; the other systems on the machine are idle meanwhile.
pub async fn round(
    cluster: &Cluster,
    leader: usize,
    clients: Vec<Client>,
    operation: Operation,
    keys: u64,
    period: Duration,
) -> Result<Round> {
    let start = Instant::now() + WARM_UP;
    let end = start + period;
    let mut tasks = JoinSet::new();
    for (seed, client) in (0..).zip(clients) {
        tasks.spawn(one(client, operation, keys, seed, start, end));
    }
    tokio::time::sleep_until(start).await;
    let before = Usage::of(cluster, leader).await;
    tokio::time::sleep_until(end).await;
    let after = Usage::of(cluster, leader).await;
    let (mut times, mut errors) = (Vec::new(), 0);
    while let Some(ended) = tasks.join_next().await {
        let (some, failed) = ended?;
        times.extend(some);
        errors += failed;
    }
    ensure!(!times.is_empty(), "no {operation} was answered within {period:?}");
    times.sort_unstable();
    Ok(summary(&times, errors, period, &before, &after))
}

async fn one(
    mut client: Client,
    operation: Operation,
    keys: u64,
    seed: u64,
    start: Instant,
    end: Instant,
) -> (Vec<Duration>, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let value = value();
    let (mut times, mut errors) = (Vec::new(), 0);
    let mut now = Instant::now();
    while now < end {
        let key = key(rng.random_range(0..keys));
        let asked = now;
        let answer = match operation {
            Operation::Write => client.set(&key, &value).await,
            Operation::Read => client.get(&key).await.and_then(|found| {
                ensure!(found, "a key is missing");
                Ok(())
            }),
        };
        now = Instant::now();
        match answer {
            Ok(()) if asked >= start && now <= end => times.push(now - asked),
            Ok(()) => {}
            Err(_) => {
                errors += 1;
                // Pauses, so that a broken connection is not used in a tight loop.
                tokio::time::sleep(Duration::from_millis(10)).await;
                now = Instant::now();
            }
        }
    }
    (times, errors)
}

struct Usage {
    at: Instant,
    servers: Duration,
    clients: Duration,
    machine: Duration,
    counters: Option<Counters>,
}

impl Usage {
    async fn of(cluster: &Cluster, leader: usize) -> Self {
        Self {
            at: Instant::now(),
            servers: cluster.cpu(),
            clients: cpu_of("self").unwrap_or_default(),
            machine: machine::busy().unwrap_or_default(),
            counters: cluster.counters(leader).await,
        }
    }
}

fn summary(times: &[Duration], errors: usize, period: Duration, before: &Usage, after: &Usage) -> Round {
    let operations = times.len();
    let per_operation = |used: Duration| used.div_f64(operations as f64);
    let (servers, clients) = (after.servers - before.servers, after.clients - before.clients);
    let elapsed = after.at - before.at;
    let others = (after.machine.saturating_sub(before.machine)).saturating_sub(servers + clients);
    let delta = before.counters.zip(after.counters).map(|(before, after)| Counters {
        leader_fsyncs: after.leader_fsyncs - before.leader_fsyncs,
        read_rounds: after.read_rounds - before.read_rounds,
    });
    Round {
        operations,
        errors,
        throughput: operations as f64 / period.as_secs_f64(),
        p50: percentile(times, 500),
        p99: percentile(times, 990),
        server_cpu: per_operation(servers),
        client_cpu: per_operation(clients),
        others: others.as_secs_f64() / elapsed.as_secs_f64() / machine::cores() as f64,
        fsyncs_per_operation: delta.map(|delta| delta.leader_fsyncs / operations as f64),
        operations_per_read_round: delta
            .filter(|delta| delta.read_rounds > 0.0)
            .map(|delta| operations as f64 / delta.read_rounds),
    }
}

/// Returns a percentile of sorted, non-empty `times`, in tenths of a percent: 500 is the median.
pub fn percentile(times: &[Duration], permille: usize) -> Duration {
    times[(times.len() * permille / 1_000).min(times.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_fixed_length() {
        assert_eq!(&key(0), b"key:000000000000");
        assert_eq!(&key(123_456), b"key:000000123456");
    }

    #[test]
    fn percentile_is_taken_from_sorted_times() {
        let times: Vec<_> = (0..100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 500), Duration::from_millis(50));
        assert_eq!(percentile(&times, 990), Duration::from_millis(99));
        assert_eq!(percentile(&times[..1], 999), Duration::ZERO);
    }
}
