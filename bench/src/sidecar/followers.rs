//! Many replicas that follow the members at once: tasks of the benchmark, each of which receives and asks what a
//! sidecar does, and holds no state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use helios_proto::v1::follow_client::FollowClient;
use helios_proto::v1::follow_response::Kind;
use helios_proto::v1::{FollowRequest, FollowResponse, Records};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{Setup, WRITES, member_ports};
use crate::client::{Protocol, Resp};
use crate::cluster::Cluster;
use crate::load::{VALUE_BYTES, key};
use crate::scale::figures::{Figures, ms};
use crate::stats::short;
use crate::wait_for;

/// Longest time until all followers have a snapshot.
const PATIENCE: Duration = Duration::from_secs(180);
/// One in so many followers reads the values, for the age of what it received.
const SAMPLED: usize = 25;
/// Connections that write.
const WRITERS: u32 = 16;
/// Interval of the reads by which a sidecar knows the age of its state.
const PULSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Begin of a value that has the time of its write.
const STAMP: &[u8] = b"stamp:";
const STAMP_DIGITS: usize = 16;
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Writers of values that have the time at which they were sent.
pub struct Stamps {
    started: Instant,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<u64>>,
}

impl Stamps {
    /// Starts [`WRITES`] writes a second.
    pub async fn start(setup: &Setup<'_>, cluster: &Cluster) -> Result<Self> {
        let port = cluster.members[cluster.leader().await?].port(Protocol::Redis)?;
        let (started, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let (mut client, stop, keys) = (Resp::connect(port).await?, Arc::clone(&stop), setup.keys);
            tasks.spawn(async move {
                let mut rng = StdRng::seed_from_u64(number.into());
                let mut ticks = interval(Duration::from_secs(1) * WRITERS / WRITES);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let value = stamp(started.elapsed());
                    client.set(&key(rng.random_range(0..keys)), &value).await?;
                    count += 1;
                }
                Ok(count)
            });
        }
        Ok(Self { started, stop, tasks })
    }

    /// Stops the writers; returns the number of writes.
    pub async fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        while let Some(ended) = self.tasks.join_next().await {
            count += ended??;
        }
        Ok(count)
    }
}

fn stamp(time: Duration) -> Vec<u8> {
    let mut value = STAMP.to_vec();
    value.extend_from_slice(format!("{:0width$}", time.as_micros(), width = STAMP_DIGITS).as_bytes());
    value.resize(VALUE_BYTES, b'.');
    value
}

/// Returns the time in a stored value.
fn stamped(raw: &[u8]) -> Option<Duration> {
    let at = raw.windows(STAMP.len()).position(|window| window == STAMP)? + STAMP.len();
    let digits = std::str::from_utf8(raw.get(at..at + STAMP_DIGITS)?).ok()?;
    digits.parse().ok().map(Duration::from_micros)
}

pub async fn measure(setup: &Setup<'_>, cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    for count in &setup.options.followers {
        followers(setup, cluster, *count, figures).await?;
    }
    Ok(())
}

/// Counts of all followers.
#[derive(Default)]
struct Received {
    /// Followers with the state at one index.
    current: AtomicUsize,
    snapshots: AtomicUsize,
    messages: AtomicUsize,
}

async fn followers(setup: &Setup<'_>, cluster: &Cluster, count: usize, figures: &mut Figures) -> Result<()> {
    let leader = cluster.leader().await?;
    let term = cluster.members[leader].metric("helios_raft_term").await.context("the term")?;
    let stamps = Stamps::start(setup, cluster).await?;
    let alone = cores(cluster, setup.period()).await;

    let attached = Instant::now();
    let received = Arc::new(Received::default());
    let (sampled, mut samples) = mpsc::unbounded_channel();
    let members = member_ports(cluster)?;
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let follower = Follower {
            number,
            members: members.clone(),
            received: Arc::clone(&received),
            samples: (number % SAMPLED == 0).then(|| sampled.clone()),
            written_from: stamps.started,
        };
        tasks.spawn(follower.run());
    }
    wait_for(PATIENCE, &format!("{count} followers with a snapshot"), async || {
        if let Some(ended) = tasks.try_join_next() {
            bail!("a follower ended: {:#}", ended?.err().context("without an error")?);
        }
        Ok((received.current.load(Ordering::Relaxed) == count).then_some(()))
    })
    .await?;
    figures.push(
        format!("{count} replicas attach at once, until the last has all keys"),
        ms(attached.elapsed()),
        "500 in 20 s",
    );

    while samples.try_recv().is_ok() {}
    let (snapshots, messages) = (&received.snapshots, &received.messages);
    let (cut, sent) = (snapshots.load(Ordering::Relaxed), messages.load(Ordering::Relaxed));
    let beside = cores(cluster, setup.period()).await;
    let (cut, sent) = (snapshots.load(Ordering::Relaxed) - cut, messages.load(Ordering::Relaxed) - sent);
    let mut ages: Vec<Duration> = std::iter::from_fn(|| samples.try_recv().ok()).collect();
    ages.sort_unstable();
    ensure!(!ages.is_empty(), "no change was received");
    let at = |permille| ms(crate::load::percentile(&ages, permille));
    let writes = stamps.finish().await?;
    figures.push(
        format!("{count} replicas at {WRITES} writes/s: from a write's begin to its arrival at a replica"),
        format!(
            "p50 {}, p99 {}, most {}; {cut} snapshots; {} messages/s to each; {writes} writes in all",
            at(500),
            at(990),
            at(1_000),
            short(sent as f64 / count as f64 / setup.period().as_secs_f64())
        ),
        "p99 <= 50 ms with 500",
    );
    let now_leads = cluster.leader().await?;
    let now_term = cluster.members[now_leads].metric("helios_raft_term").await.context("the term")?;
    let each = |all: &[f64]| {
        let others = all.iter().enumerate().filter(|(index, _)| *index != leader);
        let others: Vec<_> = others.map(|(_, cores)| short(*cores)).collect();
        format!("leader {}, followers {}", short(all[leader]), others.join(" and "))
    };
    let change = 100.0 * (beside[leader] / alone[leader] - 1.0);
    let kept = if (now_leads, now_term) == (leader, term) {
        "the leader and the term are the same"
    } else {
        "**the leader or the term changed**"
    };
    figures.push(
        format!("cores that the members need with {count} replicas, and without"),
        format!("{}; without: {}; leader {change:+.0} %; {kept}", each(&beside), each(&alone)),
        "leader +3 % at most, a follower 1 at most, no election",
    );
    tasks.shutdown().await;
    wait_for(PATIENCE, "members without followers", async || {
        for member in &cluster.members {
            if member.metric("helios_follow_streams").await != Some(0.0) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Returns the cores that each member needs in the next `period`.
async fn cores(cluster: &Cluster, period: Duration) -> Vec<f64> {
    let cpu = || cluster.members.iter().map(|member| member.server.cpu()).collect::<Vec<_>>();
    let (before, started) = (cpu(), Instant::now());
    sleep(period).await;
    let seconds = started.elapsed().as_secs_f64();
    let used = cpu().into_iter().zip(before).map(|(after, before)| after - before);
    used.map(|used| used.as_secs_f64() / seconds).collect()
}

/// Asks for the index of a linearizable read, as a sidecar does.
async fn beat(port: u16) -> Result<()> {
    let mut client = Resp::connect(port).await?;
    let mut ticks = interval(PULSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        client.read_index(&key(0)).await?;
    }
}

struct Follower {
    number: usize,
    /// Ports for Redis and for gRPC.
    members: Vec<(u16, u16)>,
    received: Arc<Received>,
    /// For the ages of the changes that it receives.
    samples: Option<mpsc::UnboundedSender<Duration>>,
    written_from: Instant,
}

impl Follower {
    /// Follows one member after the other until one serves it, then without end.
    async fn run(self) -> Result<()> {
        let count = self.members.len();
        // Those that begin at the leader spread over the others.
        let step = 1 + self.number / count % (count - 1);
        for attempt in 0.. {
            let (redis, grpc) = self.members[(self.number + attempt * step) % count];
            // The leader sends followers to other members; another error is one of an overloaded machine.
            if let Ok(stream) = self.open(grpc).await {
                let has_begun = tokio::select! {
                    received = self.receive(stream) => received?,
                    result = beat(redis) => { result?; false }
                };
                ensure!(!has_begun, "the stream of a follower ended");
            }
            sleep(RETRY_PAUSE).await;
        }
        Ok(())
    }

    async fn open(&self, port: u16) -> Result<Streaming<FollowResponse>> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let channel: Channel = endpoint.connect().await?;
        let mut client = FollowClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = FollowRequest { snapshot_ok: true, ..FollowRequest::default() };
        Ok(client.follow(request).await?.into_inner())
    }

    /// Receives until the stream ends; returns whether it had begun.
    async fn receive(&self, mut stream: Streaming<FollowResponse>) -> Result<bool> {
        let mut is_current = false;
        while let Some(message) = stream.message().await? {
            self.received.messages.fetch_add(1, Ordering::Relaxed);
            match message.kind {
                Some(Kind::GoTo(_)) => return Ok(false),
                Some(Kind::SnapshotPart(part)) if part.is_first => {
                    self.received.snapshots.fetch_add(1, Ordering::Relaxed);
                }
                Some(Kind::SnapshotEnd(_)) if !is_current => {
                    is_current = true;
                    self.received.current.fetch_add(1, Ordering::Relaxed);
                }
                Some(Kind::Changes(changes)) if is_current => self.sample(&changes.records)?,
                _ => {}
            }
        }
        Ok(is_current)
    }

    fn sample(&self, records: &[u8]) -> Result<()> {
        let Some(samples) = &self.samples else { return Ok(()) };
        let now = self.written_from.elapsed();
        for record in Records::decode(records)?.records {
            if let Some(time) = record.value.as_deref().and_then(stamped) {
                samples.send(now.saturating_sub(time)).context("the measurement ended")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_write_is_found_in_its_value() {
        let time = Duration::from_micros(1_234_567);
        let value = stamp(time);
        assert_eq!(value.len(), VALUE_BYTES);
        assert_eq!(stamped(&[b"head", &value[..]].concat()), Some(time));
        assert_eq!(stamped(b"stamp:12"), None);
        assert_eq!(stamped(b"other"), None);
    }
}
