//! Replicas outside of the cluster: a snapshot, each change, and what happens when a member or a follower fails.

use std::collections::BTreeMap;

use bytes::Bytes;
use helios_proto::v1::follow_response::Kind;
use helios_proto::v1::{ErrorCode, FollowHello, FollowRequest, FollowResponse, Records, Role, Token};
use prost::Message as _;
use tonic::Streaming;

use crate::common::{Cluster, Node, PATIENCE, error_code, eventually};

/// A follower that keeps all records.
pub struct Follower {
    stream: Streaming<FollowResponse>,
    pub hello: FollowHello,
    pub records: BTreeMap<Bytes, Bytes>,
    /// Whether the records are the state at `index`.
    pub is_whole: bool,
    pub index: u64,
    pub snapshots: usize,
    fresh_age_ms: Option<u64>,
}

impl Follower {
    pub async fn start(node: &Node, request: FollowRequest) -> Self {
        Self::of(node.follow().follow(request).await.unwrap().into_inner()).await
    }

    pub async fn of(mut stream: Streaming<FollowResponse>) -> Self {
        let hello = match next(&mut stream).await {
            Kind::Hello(hello) => hello,
            other => panic!("{other:?} in place of the hello"),
        };
        assert_eq!(hello.format, 2);
        let is_whole = hello.continues;
        let records = BTreeMap::new();
        Self { stream, hello, records, is_whole, index: 0, snapshots: 0, fresh_age_ms: None }
    }

    async fn step(&mut self) {
        match next(&mut self.stream).await {
            Kind::SnapshotPart(part) => {
                if part.is_first {
                    self.records.clear();
                    (self.is_whole, self.snapshots) = (false, self.snapshots + 1);
                }
                self.apply(&part.records);
            }
            Kind::SnapshotEnd(end) => (self.is_whole, self.index) = (true, end.index),
            Kind::Changes(changes) => {
                self.apply(&changes.records);
                self.index = self.index.max(changes.through);
            }
            Kind::Progress(progress) => {
                assert!(progress.index >= self.index, "{progress:?} after {}", self.index);
                (self.index, self.fresh_age_ms) = (progress.index, progress.fresh_age_ms);
            }
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, records: &[u8]) {
        let Records { is_cleared, records } = Records::decode(records).unwrap();
        if is_cleared {
            self.records.clear();
        }
        for record in records {
            match record.value {
                Some(value) => drop(self.records.insert(record.key, value)),
                None => drop(self.records.remove(&record.key)),
            }
        }
    }

    /// Receives until the condition holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let reached = async {
            while !holds(self) {
                self.step().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
    }

    /// Receives until the stream ends with an error.
    pub async fn error(&mut self) -> ErrorCode {
        let ended = async {
            loop {
                match self.stream.message().await {
                    Ok(message) => drop(message.expect("the stream ended without an error")),
                    Err(status) => return status,
                }
            }
        };
        let status = tokio::time::timeout(PATIENCE, ended).await.expect("the stream did not end");
        error_code::<()>(Err(status))
    }

    /// Whether the value of `key` ends with `value`; the bytes before it are the encoding's.
    pub fn has(&self, key: &str, value: &str) -> bool {
        let raw = self.records.get(format!("d{key}").as_bytes());
        raw.is_some_and(|raw| raw.ends_with(value.as_bytes()))
    }

    fn token(&self) -> Token {
        Token { cluster_id: self.hello.cluster_id.clone(), index: self.index, ..Token::default() }
    }
}

async fn next(stream: &mut Streaming<FollowResponse>) -> Kind {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("the stream stands still");
    message.unwrap().expect("the stream ended").kind.unwrap()
}

fn of_prefix(prefix: &'static str) -> FollowRequest {
    FollowRequest { prefixes: vec![prefix.into()], snapshot_ok: true, ..FollowRequest::default() }
}

async fn run(node: &Node, words: &[&str]) {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(word);
    }
    let () = command.query_async(&mut node.redis().await).await.unwrap();
}

#[tokio::test]
async fn followers_get_a_snapshot_and_each_change_and_continue_on_another_member() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    run(&cluster[leader], &["SET", "app:1", "one"]).await;
    run(&cluster[leader], &["SET", "other", "outside"]).await;
    run(&cluster[leader], &["HSET", "app:h", "field", "value"]).await;

    // The leader sends followers away while another member is up to date.
    let targets = eventually("the leader names the other members", async || {
        let mut stream = cluster[leader].follow().follow(of_prefix("app:")).await.unwrap().into_inner();
        match next(&mut stream).await {
            Kind::GoTo(go_to) if go_to.members.len() == 2 => Some(go_to.members),
            _ => None,
        }
    })
    .await;
    for (target, index) in targets.iter().zip(&followers) {
        assert_eq!(target.name, format!("node-{}", index + 1));
        assert!(target.client_addr.ends_with(&format!(":{}", cluster[*index].ports.client)), "{target:?}");
    }
    let any = FollowRequest { any_member: true, ..of_prefix("app:") };
    let mut at_leader = Follower::start(&cluster[leader], any).await;
    at_leader.until("a snapshot of the leader", |follower| follower.is_whole).await;

    let mut first = Follower::start(&cluster[followers[0]], of_prefix("app:")).await;
    let mut second = Follower::start(&cluster[followers[1]], of_prefix("app:")).await;
    for follower in [&mut first, &mut second] {
        assert!(!follower.hello.continues);
        follower.until("the state", |follower| follower.is_whole && follower.has("app:1", "one")).await;
        follower.until("the hash", |follower| follower.records.len() == 3).await;
    }
    run(&cluster[leader], &["SET", "app:2", "two"]).await;
    run(&cluster[leader], &["SET", "other", "changed"]).await;
    run(&cluster[leader], &["DEL", "app:1"]).await;
    for follower in [&mut at_leader, &mut first, &mut second] {
        follower
            .until("the changes", |follower| follower.has("app:2", "two") && follower.records.len() == 3)
            .await;
        follower
            .until("a fresh state", |follower| follower.fresh_age_ms.is_some_and(|age| age < 60_000))
            .await;
        assert_eq!(follower.snapshots, 1);
        assert!(follower.records.keys().all(|raw| !raw.ends_with(b"other")));
    }

    // A follower whose member was killed continues where it was.
    cluster[followers[0]].kill();
    run(&cluster[leader], &["SET", "app:3", "three"]).await;
    second.until("the change after the kill", |follower| follower.has("app:3", "three")).await;
    let request = FollowRequest {
        after: Some(first.token()),
        incarnation: first.hello.incarnation,
        snapshot_ok: false,
        ..of_prefix("app:")
    };
    let mut continued = Follower::start(&cluster[followers[1]], request.clone()).await;
    assert!(continued.hello.continues);
    continued.records = first.records.clone();
    continued.until("the missed change", |follower| follower.has("app:3", "three")).await;
    assert_eq!((continued.snapshots, &continued.records), (0, &second.records));

    // A position of another history is not continued.
    let foreign = FollowRequest { incarnation: request.incarnation + 1, ..request };
    let foreign = Follower::start(&cluster[followers[1]], foreign).await;
    assert!(!foreign.hello.continues);
    let mut stream = foreign.stream;
    assert!(matches!(next(&mut stream).await, Kind::End(_)), "a snapshot was not allowed");

    assert_eq!(
        cluster[followers[1]].metric("helios_follow_groups ").await,
        Some(1),
        "both have the same prefixes"
    );
    drop((second, continued, stream));
    eventually("no stream is left", async || {
        let counts = [
            cluster[followers[1]].metric("helios_follow_streams ").await?,
            cluster[followers[1]].metric("helios_follow_groups ").await?,
        ];
        (counts == [0, 0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn follower_that_does_not_read_gets_a_new_snapshot_instead_of_a_queue() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    eventually("a leader", async || cluster[0].has_role(Role::Leader).await.then_some(())).await;
    let mut slow =
        Follower::start(&cluster[0], FollowRequest { snapshot_ok: true, ..FollowRequest::default() }).await;
    slow.until("the first snapshot", |follower| follower.is_whole).await;
    // Just below the limit of a command.
    let value = "x".repeat((1 << 20) - 4096);
    for number in 0..24 {
        run(&cluster[0], &["SET", &format!("k{}", number % 12), &value]).await;
    }
    run(&cluster[0], &["SET", "last", "done"]).await;
    slow.until("the second snapshot", |follower| {
        follower.snapshots == 2 && follower.is_whole && follower.has("last", "done")
    })
    .await;
    // The values are in chunks.
    assert_eq!(slow.records.keys().filter(|raw| raw.starts_with(b"d")).count(), 13);
    assert_eq!(cluster[0].metric("helios_follow_cuts_total ").await, Some(1));
    // The stream continues with changes.
    run(&cluster[0], &["FLUSHALL"]).await;
    run(&cluster[0], &["SET", "after", "flush"]).await;
    slow.until("the change", |follower| follower.has("after", "flush") && follower.records.len() == 1).await;
    assert_eq!(slow.snapshots, 2);
}

/// Streams that begin together send parts that were read before their own begin. Each key changes once meanwhile, so that
/// a value that is replaced by an older one stays so.
#[tokio::test]
async fn followers_that_begin_under_writes_have_the_same_state() {
    const KEYS: usize = 6_000;
    const STEP: usize = 25;
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    eventually("a leader", async || cluster[0].has_role(Role::Leader).await.then_some(())).await;
    let mut connection = cluster[0].redis().await;
    let mut write = async |keys: std::ops::Range<usize>, value: &str| {
        let mut pipe = redis::pipe();
        for number in keys {
            // A prime, so that neighbours are far apart.
            let key = format!("k{:04}", number * 7_919 % KEYS);
            match (number % 5, value) {
                (0, "new") => pipe.del(key).ignore(),
                _ => pipe.set(key, format!("{}{value}", "x".repeat(1_000))).ignore(),
            };
        }
        let () = pipe.query_async(&mut connection).await.unwrap();
    };
    write(0..KEYS, "old").await;
    let request = || FollowRequest { snapshot_ok: true, ..FollowRequest::default() };
    let (written, progress) = tokio::sync::watch::channel(0);
    let follow = async |number: usize| {
        // Four begin closely after each other, six times.
        let begin = number / 4 * (KEYS / 6) + number % 4 * STEP;
        progress.clone().wait_for(|written| *written >= begin).await.unwrap();
        let mut follower = Follower::start(&cluster[0], request()).await;
        follower.until("the snapshot", |follower| follower.is_whole).await;
        follower
    };
    let writing = async {
        for start in (0..KEYS).step_by(STEP) {
            write(start..start + STEP, "new").await;
            written.send_replace(start + STEP);
        }
    };
    let begun = futures::future::join_all((0..24).map(follow));
    let (mut followers, ()) = tokio::join!(begun, writing);
    run(&cluster[0], &["SET", "last", "done"]).await;
    let mut expected = Follower::start(&cluster[0], request()).await;
    expected.until("the snapshot", |follower| follower.is_whole && follower.has("last", "done")).await;
    for follower in &mut followers {
        follower.until("the last write", |follower| follower.is_whole && follower.has("last", "done")).await;
        let differs = |(raw, data): &(&Bytes, &Bytes)| expected.records.get(*raw) != Some(*data);
        let stale = follower.records.iter().filter(differs).map(|(raw, _)| raw);
        assert_eq!(stale.collect::<Vec<_>>(), Vec::<&Bytes>::new());
        assert_eq!(follower.records.len(), expected.records.len());
    }
}

#[tokio::test]
async fn prefixes_of_a_request_are_bounded() {
    let mut cluster = Cluster::single("");
    cluster.start_all();
    cluster.wait_ready().await;
    let request = FollowRequest { prefixes: vec!["p".into(); 65], ..FollowRequest::default() };
    let code = error_code(cluster[0].follow().follow(request).await);
    assert_eq!(code, ErrorCode::InvalidArgument);
}
