//! Bounds of scripts: calls that once ended the process, and scripts that ran on after their client was gone.

use std::time::Instant;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Mounted, Node, Ports, eventually, temporary_directory};

/// SHA-256 of `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const BACKTRACKS: &str = "redis.log(redis.LOG_WARNING, 'begins ' .. ARGV[1]) \
    return string.find(('a'):rep(60), ('a*'):rep(30) .. 'b')";
/// Number of scripts that may run at the same time.
const SLOTS: usize = 16;
const TIME_LIMIT_SECONDS: u64 = 5;

struct Single {
    node: Node,
    _mount: Mounted,
    _ports: Ports,
    _dir: TempDir,
}

impl Single {
    async fn start() -> Self {
        let (dir, ports) = (temporary_directory(), Ports::take());
        let mut mount = Mounted::new(&dir.path().join("auth"));
        let user = |(name, role)| format!("- {{name: {name}, password_sha256: {SECRET}, role: {role}}}\n");
        let users = [("reader", "read-only"), ("writer", "read-write")].map(user).concat();
        mount.put(&[("users.yaml", &format!("users:\n{users}"))]);
        let config = format!("auth: {{users_file: '{}'}}\n", mount.file("users.yaml"));
        let mut node = Node::new(dir.path(), "node-1", ports.node(0), "bootstrap: single", &config);
        node.start();
        node.wait_ready().await;
        Self { node, _mount: mount, _ports: ports, _dir: dir }
    }

    async fn user(&self, name: &str) -> MultiplexedConnection {
        let mut connection = self.node.redis().await;
        let () = redis::cmd("AUTH").arg(name).arg("secret").query_async(&mut connection).await.unwrap();
        connection
    }

    /// Sends the script without reading its reply; returns once the script runs.
    async fn backtrack(&self, label: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.node.ports.client)).await.unwrap();
        let request = format!("AUTH writer secret\r\nEVAL \"{BACKTRACKS}\" 0 {label}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let begins = format!("begins {label}");
        eventually("the script runs", async || self.node.log().contains(&begins).then_some(())).await;
        stream
    }
}

async fn text(connection: &mut MultiplexedConnection, words: &[&str]) -> String {
    let mut command = redis::Cmd::new();
    command.arg(words);
    match command.query_async::<redis::Value>(connection).await {
        Ok(redis::Value::Okay) => "OK".to_owned(),
        Ok(redis::Value::BulkString(bytes)) => String::from_utf8(bytes).unwrap(),
        Ok(redis::Value::Int(number)) => number.to_string(),
        Ok(redis::Value::Nil) => "nil".to_owned(),
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn pattern_deeper_than_the_limit_is_an_error_and_the_process_stays_up() {
    let single = Single::start().await;
    let mut reader = single.user("reader").await;
    let script = "return string.find(string.rep('a',2^18), string.rep('.?',2^18))";
    let answer = text(&mut reader, &["EVAL_RO", script, "0"]).await;
    assert!(answer.contains("pattern too complex"), "{answer}");
    let cycle = text(&mut reader, &["EVAL_RO", "local t={} t[1]=t t[2]=t return t", "0"]).await;
    assert!(cycle.contains("reached lua stack limit"), "{cycle}");
    assert_eq!(text(&mut reader, &["GET", "k"]).await, "nil");
}

#[tokio::test]
async fn read_only_user_runs_eval_ro_on_declared_keys_only() {
    let single = Single::start().await;
    let (mut reader, mut writer) = (single.user("reader").await, single.user("writer").await);
    for key in ["k", "other"] {
        assert_eq!(text(&mut writer, &["SET", key, "v"]).await, "OK");
    }
    let get = "return redis.call('get', ARGV[1])";
    assert_eq!(text(&mut reader, &["EVAL_RO", get, "1", "k", "k"]).await, "v");
    for (script, argument) in [
        (get, "other"),
        ("return redis.call('keys', ARGV[1])", "*"),
        ("return redis.call('sort_ro', 'k', 'by', ARGV[1])", "other*"),
    ] {
        let answer = text(&mut reader, &["EVAL_RO", script, "1", "k", argument]).await;
        assert!(answer.contains("NoPerm"), "{script}: {answer}");
    }
    assert!(text(&mut reader, &["EVAL", "return 1", "0"]).await.contains("NoPerm"));
    let answer = text(&mut reader, &["EVAL_RO", "return redis.call('set', KEYS[1], 'w')", "1", "k"]).await;
    assert!(!answer.contains("OK"), "{answer}");
    // A user who may write may read keys that the script does not declare.
    assert_eq!(text(&mut writer, &["EVAL", get, "0", "other"]).await, "v");
}

#[tokio::test]
async fn backtracking_pattern_is_stopped_by_script_kill_and_by_the_time_limit() {
    let single = Single::start().await;
    let (mut client, mut other) = (single.user("writer").await, single.user("writer").await);
    let words = ["EVAL", BACKTRACKS, "0", "killed"];
    let (answer, ()) = tokio::join!(
        text(&mut client, &words),
        eventually("it is killed", async || {
            (text(&mut other, &["SCRIPT", "KILL"]).await == "OK").then_some(())
        })
    );
    assert!(answer.contains("SCRIPT KILL"), "{answer}");
    let answer = text(&mut client, &["EVAL", BACKTRACKS, "0", "late"]).await;
    assert!(answer.contains(&format!("stopped after {TIME_LIMIT_SECONDS} seconds")), "{answer}");
}

#[tokio::test]
async fn backtracking_pattern_is_stopped_when_its_client_disconnects() {
    let single = Single::start().await;
    let began = Instant::now();
    let mut streams = Vec::new();
    for number in 0..SLOTS {
        streams.push(single.backtrack(&format!("of-{number}-")).await);
    }
    drop(streams);
    // This script needs one of the slots that the others had.
    let mut client = single.user("writer").await;
    assert_eq!(text(&mut client, &["EVAL", "return 1", "0"]).await, "1");
    assert!(began.elapsed().as_secs() < TIME_LIMIT_SECONDS, "the scripts ran until their time limit");
}

#[tokio::test]
async fn process_with_a_backtracking_pattern_ends_on_sigterm() {
    let mut single = Single::start().await;
    let _stream = single.backtrack("until-the-end").await;
    assert!(single.node.terminate().await.success());
}
