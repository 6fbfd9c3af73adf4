//! Users, their roles, and reload of the users file.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use helios_proto::v1::kv_client::KvClient;
use helios_proto::v1::{BaseRequest, ErrorCode, GetRequest, LogRequest, PutRequest, RequestId, WatchRequest};
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::common::{Mounted, Node, PATIENCE, Ports, error_code, eventually, http_with, temporary_directory};

/// SHA-256 of the passwords `secret` and `other`.
pub const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
pub const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

pub struct Guarded {
    pub node: Node,
    mount: Mounted,
    _ports: Ports,
    _dir: TempDir,
}

fn user(name: &str, hash: &str, role: &str) -> String {
    format!("- {{name: {name}, password_sha256: {hash}, role: {role}}}\n")
}

fn all_users() -> String {
    let roles = [("reader", "read-only"), ("writer", "read-write"), ("boss", "admin")];
    roles.map(|(name, role)| user(name, SECRET, role)).concat()
}

impl Guarded {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a node with more keys for the section `auth`.
    async fn start_with(auth: &str) -> Self {
        let (dir, ports) = (temporary_directory(), Ports::take());
        let mut mount = Mounted::new(&dir.path().join("auth"));
        mount.put(&[("users.yaml", &format!("users:\n{}", all_users())), ("token", "t0ken\n")]);
        let config = format!(
            "auth: {{users_file: '{}'{auth}}}\ngateway: {{token_file: '{}'}}\n",
            mount.file("users.yaml"),
            mount.file("token")
        );
        let mut node = Node::new(dir.path(), "node-1", ports.node(0), "bootstrap: single", &config);
        node.start();
        node.wait_ready().await;
        Self { node, mount, _ports: ports, _dir: dir }
    }

    pub fn put_users(&mut self, users: &str) {
        self.mount.put(&[("users.yaml", &format!("users:\n{users}")), ("token", "t0ken")]);
    }

    pub async fn as_user(&self, name: &str) -> MultiplexedConnection {
        let mut connection = self.node.redis().await;
        let () = redis::cmd("AUTH").arg(name).arg("secret").query_async(&mut connection).await.unwrap();
        connection
    }

    pub async fn http(&self, method: &str, path: &str, authorization: &str, body: &str) -> u16 {
        let headers = format!("content-type: application/json\r\n{authorization}");
        http_with(self.node.ports.gateway, method, path, &headers, body).await.unwrap().0
    }

    pub fn kv(&self) -> KvClient<Channel> {
        self.node.kv()
    }
}

/// Returns the first word of the reply: `OK` or the error's code.
pub async fn first_word(connection: &mut MultiplexedConnection, words: &[&str]) -> String {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    let answer: RedisResult<redis::Value> = command.query_async(connection).await;
    match answer {
        Ok(_) => "OK".to_owned(),
        Err(error) => error.code().unwrap_or("ERR").to_owned(),
    }
}

#[tokio::test]
async fn each_role_may_run_only_its_commands_over_redis() {
    let guarded = Guarded::start().await;
    let cases: [(&[&str], [&str; 3]); 12] = [
        (&["GET", "k"], ["OK", "OK", "OK"]),
        (&["PUBLISH", "c", "m"], ["OK", "OK", "OK"]),
        (&["SET", "k", "v"], ["NOPERM", "OK", "OK"]),
        (&["FLUSHALL"], ["NOPERM", "NOPERM", "OK"]),
        (&["CONFIG", "RESETSTAT"], ["NOPERM", "NOPERM", "OK"]),
        (&["CLIENT", "LIST"], ["NOPERM", "NOPERM", "OK"]),
        (&["ACL", "WHOAMI"], ["OK", "OK", "OK"]),
        // A script has the rights of its client.
        (&["EVAL_RO", "return redis.call('get', KEYS[1])", "1", "k"], ["OK", "OK", "OK"]),
        (&["EVAL", "return redis.call('set', 'k', 'v')", "0"], ["NOPERM", "OK", "OK"]),
        (&["EVAL", "return redis.call('flushall')", "0"], ["NOPERM", "NOPERM", "OK"]),
        (&["SCRIPT", "FLUSH"], ["NOPERM", "OK", "OK"]),
        (&["CLIENT", "KILL", "ID", "999"], ["NOPERM", "NOPERM", "OK"]),
    ];
    for (position, name) in ["reader", "writer", "boss"].into_iter().enumerate() {
        let mut connection = guarded.as_user(name).await;
        for (words, expected) in &cases {
            assert_eq!(first_word(&mut connection, words).await, expected[position], "{name}: {words:?}");
        }
        let who: String = redis::cmd("ACL").arg("WHOAMI").query_async(&mut connection).await.unwrap();
        assert_eq!(who, name);
    }
    let mut boss = guarded.as_user("boss").await;
    let users: Vec<String> = redis::cmd("ACL").arg("LIST").query_async(&mut boss).await.unwrap();
    assert_eq!(users.len(), 3);
    assert!(!users.concat().contains(&SECRET[..8]), "{users:?}");
    let mut stranger = guarded.node.redis().await;
    assert_eq!(first_word(&mut stranger, &["GET", "k"]).await, "NOAUTH");
    for wrong in [["boss", "wrong"], ["nobody", "secret"], ["default", "secret"]] {
        assert_eq!(first_word(&mut stranger, &["AUTH", wrong[0], wrong[1]]).await, "WRONGPASS");
    }
    assert_eq!(first_word(&mut stranger, &["AUTH", "secret"]).await, "WRONGPASS");
    assert_eq!(first_word(&mut stranger, &["HELLO", "3", "AUTH", "boss", "secret"]).await, "OK");
    assert_eq!(first_word(&mut stranger, &["GET", "k"]).await, "OK");
    // A command that is rejected while it is queued fails the transaction.
    let mut reader = guarded.as_user("reader").await;
    for (words, expected) in
        [(&["MULTI"][..], "OK"), (&["SET", "k", "v"], "NOPERM"), (&["EXEC"], "EXECABORT")]
    {
        assert_eq!(first_word(&mut reader, words).await, expected, "{words:?}");
    }
    assert!(!guarded.node.log().contains("secret") && !guarded.node.log().contains(&SECRET[..8]));
}

#[tokio::test]
async fn changed_users_file_takes_effect_at_once_for_the_changed_users_only() {
    let mut guarded = Guarded::start().await;
    let (mut reader, mut writer, mut boss) =
        (guarded.as_user("reader").await, guarded.as_user("writer").await, guarded.as_user("boss").await);
    // The reader is removed, the writer's password changed.
    guarded.put_users(&[user("writer", OTHER, "read-write"), user("boss", SECRET, "admin")].concat());
    for connection in [&mut reader, &mut writer] {
        eventually("the connection is not authenticated any more", async || {
            (first_word(connection, &["GET", "k"]).await == "NOAUTH").then_some(())
        })
        .await;
    }
    assert_eq!(first_word(&mut boss, &["GET", "k"]).await, "OK");
    assert_eq!(first_word(&mut writer, &["AUTH", "writer", "secret"]).await, "WRONGPASS");
    assert_eq!(first_word(&mut writer, &["AUTH", "writer", "other"]).await, "OK");
    assert_eq!(first_word(&mut writer, &["SET", "k", "v"]).await, "OK");
    // An invalid file changes nothing.
    guarded.put_users("nonsense");
    eventually("the file is refused", async || {
        guarded.node.log().contains("users not reloaded").then_some(())
    })
    .await;
    assert_eq!(first_word(&mut boss, &["GET", "k"]).await, "OK");
}

#[tokio::test]
async fn http_and_grpc_authenticate_the_same_users() {
    let guarded = Guarded::start().await;
    // Users and passwords reader:secret, writer:secret, boss:secret, boss:wrong.
    let reader = "authorization: Basic cmVhZGVyOnNlY3JldA==\r\n";
    let writer = "authorization: Basic d3JpdGVyOnNlY3JldA==\r\n";
    let boss = "authorization: Basic Ym9zczpzZWNyZXQ=\r\n";
    let wrong = "authorization: Basic Ym9zczp3cm9uZw==\r\n";
    let token = "authorization: Bearer t0ken\r\n";
    let put = r#"{"key": "k", "value": "v"}"#;
    for (method, path, body, expected) in [
        ("GET", "/status", "", [401, 401, 200, 200, 200, 200]),
        ("POST", "/put", put, [401, 401, 403, 200, 200, 200]),
        ("POST", "/snapshot", "", [401, 401, 403, 403, 200, 200]),
        ("GET", "/livez", "", [200; 6]),
    ] {
        let mut codes = Vec::new();
        for authorization in ["", wrong, reader, writer, boss, token] {
            codes.push(guarded.http(method, path, authorization, body).await);
        }
        assert_eq!(codes, expected, "{method} {path}");
    }

    let with = |basic: &str| {
        let value = basic.trim().trim_start_matches("authorization: ").parse().unwrap();
        move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", value);
            request
        }
    };
    let get = || GetRequest { key: "k".into(), ..GetRequest::default() };
    let put = || PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let signed = |basic: &str| with(basic)(Request::new(())).metadata().clone();
    let request = |basic: &str, body| {
        let mut request = Request::new(body);
        *request.metadata_mut() = signed(basic);
        request
    };
    assert_eq!(error_code(guarded.kv().get(get()).await), ErrorCode::Unauthenticated);
    let denied: Result<_, Status> = guarded.kv().put(put()).await;
    assert_eq!(error_code(denied), ErrorCode::Unauthenticated);
    guarded.kv().get(request(reader, get())).await.unwrap();
    let mut writing = Request::new(put());
    *writing.metadata_mut() = signed(reader);
    assert_eq!(error_code(guarded.kv().put(writing).await), ErrorCode::Forbidden);
    let mut writing = Request::new(put());
    *writing.metadata_mut() = signed(writer);
    guarded.kv().put(writing).await.unwrap();
}

#[tokio::test]
async fn client_ids_of_one_user_do_not_evict_records_of_another() {
    let guarded = Guarded::start().await;
    let put = async |user: &str, client: String, retry: bool| {
        let request_id = Some(RequestId { client_id: client.into(), sequence: 1, retry });
        let put = PutRequest { key: "k".into(), value: "v".into(), request_id, ..PutRequest::default() };
        let mut request = Request::new(put);
        let basic = STANDARD.encode(format!("{user}:secret"));
        request.metadata_mut().insert("authorization", format!("Basic {basic}").parse().unwrap());
        guarded.kv().put(request).await.map(|answer| answer.into_inner().revision)
    };
    let first = put("boss", "kept".to_owned(), false).await.unwrap();
    for number in 0..1_100 {
        put("writer", format!("fresh {number}"), false).await.unwrap();
    }
    assert_eq!(put("boss", "kept".to_owned(), true).await.unwrap(), first, "remembered");
    let forgotten = put("writer", "fresh 0".to_owned(), true).await;
    assert_eq!(error_code(forgotten), ErrorCode::OutcomeUnknown, "its own made room");
}

/// Credentials reader:secret, writer:secret, boss:secret.
const READER: &str = "Basic cmVhZGVyOnNlY3JldA==";
const WRITER: &str = "Basic d3JpdGVyOnNlY3JldA==";
const BOSS: &str = "Basic Ym9zczpzZWNyZXQ=";

pub fn signed<T>(authorization: &str, body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    request
}

#[tokio::test]
async fn password_guesses_are_delayed_logged_and_counted_on_every_port() {
    const PERIOD: Duration = Duration::from_secs(3);
    let guarded = Guarded::start_with(", max_delay: 100ms").await;
    let end = Instant::now() + PERIOD;
    let over_redis = async || {
        let (mut connection, mut count) = (guarded.node.redis().await, 0);
        while Instant::now() < end {
            count +=
                usize::from(first_word(&mut connection, &["AUTH", "boss", "guess"]).await == "WRONGPASS");
        }
        count
    };
    let over_http = async || {
        let mut count = 0;
        while Instant::now() < end {
            let authorization = "authorization: Basic Ym9zczp3cm9uZw==\r\n";
            count += usize::from(guarded.http("GET", "/status", authorization, "").await == 401);
        }
        count
    };
    let over_grpc = async || {
        let mut count = 0;
        while Instant::now() < end {
            let get = GetRequest { key: "k".into(), ..GetRequest::default() };
            let answer = guarded.kv().get(signed("Basic Ym9zczp3cm9uZw==", get)).await;
            count += usize::from(error_code(answer) == ErrorCode::Unauthenticated);
        }
        count
    };
    let redis = futures::future::join_all((0..20).map(|_| over_redis()));
    let (redis, http, grpc) = tokio::join!(redis, over_http(), over_grpc());
    let count = redis.iter().sum::<usize>() + http + grpc;
    // One guess each 100 ms, the first ones, and those that waited at the end. Without a delay there are
    // thousands.
    assert!((10..100).contains(&count), "{count} guesses in {PERIOD:?}");
    assert!(http > 0 && grpc > 0 && redis.iter().any(|count| *count > 0), "{redis:?} {http} {grpc}");
    let metric = "helios_rejected_total{reason=\"wrong_password\"}";
    assert_eq!(guarded.node.metric(metric).await, Some(count as u64));
    let log = guarded.node.log();
    let lines = log.lines().filter(|line| line.contains("wrong user or password")).count();
    assert!((3..=3 * 8 * 2).contains(&lines), "{lines} lines of {count} guesses");
    assert!(log.contains("127.0.0.1") && !log.contains("guess\""), "{log}");

    // The right password is accepted in its turn, and authenticated connections are not delayed.
    let mut boss = guarded.as_user("boss").await;
    assert_eq!(first_word(&mut boss, &["PING"]).await, "OK");
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(first_word(&mut boss, &["GET", "k"]).await, "OK");
    }
    let mut kv = guarded.kv();
    for _ in 0..100 {
        let get = GetRequest { key: "k".into(), ..GetRequest::default() };
        kv.get(signed(BOSS, get)).await.unwrap();
    }
    assert!(started.elapsed() < 50 * Duration::from_millis(100), "each request of a known connection waits");
}

#[tokio::test]
async fn watch_and_status_stream_end_when_their_user_is_removed_or_changed() {
    let mut guarded = Guarded::start().await;
    let watch = async |authorization: &str| {
        let request = WatchRequest { key: "k".into(), ..WatchRequest::default() };
        let mut stream = guarded.kv().watch(signed(authorization, request)).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        stream
    };
    let page = async |authorization: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", guarded.node.ports.gateway)).await.unwrap();
        let request = format!(
            "GET /status/stream HTTP/1.1\r\nhost: localhost\r\nauthorization: {authorization}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        stream
    };
    let (mut reader, mut writer, mut boss) = (watch(READER).await, watch(WRITER).await, watch(BOSS).await);
    let mut pages = [page(READER).await, page(WRITER).await, page("Bearer t0ken").await];
    let mut boss_page = page(BOSS).await;
    // The reader is removed, the writer's role and the token are changed.
    let users = [user("writer", SECRET, "read-only"), user("boss", SECRET, "admin")].concat();
    guarded.mount.put(&[("users.yaml", &format!("users:\n{users}")), ("token", "another")]);
    for stream in [&mut reader, &mut writer] {
        let ended = tokio::time::timeout(PATIENCE, stream.message()).await.expect("the watch did not end");
        assert_eq!(error_code(ended), ErrorCode::Unauthenticated);
        assert!(stream.message().await.unwrap().is_none());
    }
    for stream in &mut pages {
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        ended.expect("the status stream did not end").unwrap();
    }
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    guarded.kv().put(signed(BOSS, put)).await.unwrap();
    // A watch also receives progress notifications without events.
    while boss.message().await.unwrap().unwrap().events.is_empty() {}
    // Two more updates of the status stream, one each second.
    for _ in 0..2 {
        assert!(boss_page.read(&mut [0; 100_000]).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn backup_user_reads_and_takes_backups_and_its_streams_end_with_it() {
    let mut guarded = Guarded::start().await;
    let others = all_users();
    guarded.put_users(&[others.as_str(), &user("archiver", SECRET, "backup")].concat());
    eventually("the new user is known", async || guarded.node.log().contains("users reloaded").then_some(()))
        .await;
    let mut archiver = guarded.as_user("archiver").await;
    let cases: [(&[&str], &str); 6] = [
        (&["GET", "k"], "OK"),
        (&["SET", "k", "v"], "NOPERM"),
        (&["FLUSHALL"], "NOPERM"),
        (&["CLIENT", "LIST"], "NOPERM"),
        (&["EVAL_RO", "return redis.call('get', KEYS[1])", "1", "k"], "OK"),
        // As for a read-only user: only keys that are declared.
        (&["EVAL_RO", "return redis.call('get', 'k')", "0"], "NOPERM"),
    ];
    for (words, expected) in cases {
        assert_eq!(first_word(&mut archiver, words).await, expected, "{words:?}");
    }
    let authorization = format!("Basic {}", STANDARD.encode("archiver:secret"));
    let header = format!("authorization: {authorization}\r\n");
    assert_eq!(guarded.http("GET", "/status", &header, "").await, 200);
    assert_eq!(guarded.http("POST", "/put", &header, r#"{"key": "k", "value": "v"}"#).await, 403);

    for other in [READER, WRITER] {
        let refused = guarded.node.archive().base(signed(other, BaseRequest::default())).await.map(drop);
        assert_eq!(error_code(refused), ErrorCode::Forbidden);
    }
    for may in [BOSS, authorization.as_str()] {
        guarded.node.archive().base(signed(may, BaseRequest::default())).await.unwrap();
    }
    let status = guarded.node.status().await;
    let log = LogRequest {
        from_index: status.first_index,
        cluster_id: status.cluster_id,
        incarnation: status.incarnation,
    };
    let mut log = guarded.node.archive().log(signed(&authorization, log)).await.unwrap().into_inner();
    log.message().await.unwrap().unwrap();
    guarded.put_users(&others);
    let ended = eventually("the log ends with its user", async || log.message().await.err()).await;
    assert_eq!(error_code::<()>(Err(ended)), ErrorCode::Unauthenticated);
}
