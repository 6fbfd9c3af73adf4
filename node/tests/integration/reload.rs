//! The configuration: checked and printed without a node, and reloaded by a running one.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Node, PATIENCE, Ports, eventually, free_standing, http, temporary_directory};

fn heliosd(arguments: &[&str], file: &str) -> (i32, String, String) {
    let dir = temporary_directory();
    std::fs::write(dir.path().join("heliosd.yaml"), file).unwrap();
    let mut command = free_standing(dir.path());
    command.args(arguments).args(["--config", "heliosd.yaml"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something was made");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn configuration_is_checked_and_printed_without_a_node() {
    let good = "node: {name: a}\nclient: {password: hunter2}\nraft: {preset: wan}\n";
    assert_eq!(
        heliosd(&["config", "check"], good),
        (0, "a: the configuration can be used\n".into(), String::new())
    );
    let (code, printed, _) = heliosd(&["config", "print", "-data-dir=./elsewhere"], good);
    assert_eq!(code, 0);
    assert!(printed.contains("preset: wan") && printed.contains("data_dir: ./elsewhere"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    // The printed text is a valid configuration.
    assert_eq!(heliosd(&["config", "check"], &printed).0, 0);
    for bad in ["node: {nam: a}", "{}", "node: {name: a}\nraft: {preset: lann}", "node: {name: a"] {
        let (code, printed, error) = heliosd(&["config", "check"], bad);
        assert_eq!((code, printed.as_str(), error.lines().count()), (78, "", 1), "{error}");
    }
    // Files of the earlier documents are printed with the present keys.
    let old = "atlas: {listen: ':6380', raft: {node_id: node-2, bind_addr: '127.0.0.1:7001'}}\n";
    let (code, printed, _) = heliosd(&["config", "print"], old);
    assert!(code == 0 && printed.contains("name: node-2") && !printed.contains("atlas"), "{printed}");
}

struct Running {
    node: Node,
    file: std::path::PathBuf,
    text: String,
    _dir: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        let (dir, ports) = (temporary_directory(), Ports::take());
        let more = "log: {level: info}\nclient: {request_timeout: 5s}\n";
        let mut node = Node::new(dir.path(), "node-1", ports.node(0), "bootstrap: single", more);
        node.start();
        node.wait_ready().await;
        let file = dir.path().join("node-1/node.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        Self { node, file, text, _dir: dir }
    }

    fn write(&self, changes: &[(&str, &str)]) {
        let text = changes.iter().fold(self.text.clone(), |text, (from, to)| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        });
        // Replaced atomically, as editors do, so that the node never reads half a file.
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let (code, body) = http(self.node.ports.gateway, method, path, "").await.unwrap();
        (code, serde_json::from_str(&body).unwrap())
    }

    async fn running(&self, section: &str, name: &str) -> Value {
        self.ask("GET", "/config").await.1["config"][section][name].clone()
    }
}

#[tokio::test]
async fn changed_file_takes_effect_at_once_or_reports_the_needed_restart() {
    let running = Running::start().await;
    let hash = running.ask("GET", "/config").await.1["hash"].clone();
    running.write(&[("request_timeout: 5s", "request_timeout: 3s"), ("level: info", "level: debug")]);
    eventually("the change is applied", async || {
        (running.running("client", "request_timeout").await == "3s").then_some(())
    })
    .await;
    assert_eq!(running.running("log", "level").await, "debug");
    assert_ne!(running.ask("GET", "/config").await.1["hash"], hash);
    eventually("more is logged", async || running.node.log().contains("DEBUG").then_some(())).await;
    assert_eq!(running.ask("GET", "/config/diff").await, (200, json!({ "changes": [] })));
    let text = std::fs::read(&running.file).unwrap();
    let reported = running.node.status().await.config_file_hash;
    assert_eq!(
        reported,
        format!("{:08x}", crc32c::crc32c(&text)),
        "the hash by which the operator sees the reload"
    );

    // A change that needs a restart is reported, and not applied.
    running.write(&[("request_timeout: 5s", "request_timeout: 2s, max_connections: 77")]);
    eventually("the reloadable part is applied", async || {
        (running.running("client", "request_timeout").await == "2s").then_some(())
    })
    .await;
    let (_, diff) = running.ask("GET", "/config/diff").await;
    assert_eq!(diff["changes"][0]["key"], "client.max_connections", "{diff}");
    assert_eq!(diff["changes"][0]["change"], "restart");
    assert_eq!(running.running("client", "max_connections").await, 10_000);
    let (code, answer) = running.ask("POST", "/config/reload").await;
    assert_eq!((code, &answer["applied"]), (200, &json!([])), "{answer}");
    assert_eq!(answer["needs_restart"][0]["key"], "client.max_connections");
}

#[tokio::test]
async fn invalid_file_changes_nothing_and_sighup_reloads() {
    let running = Running::start().await;
    for (from, to, reason) in [
        ("request_timeout: 5s", "request_timeout: soon", "client.request_timeout"),
        ("name: node-1", "name: node-2", "node.name"),
        ("bootstrap: single", "bootstrap: sometimes", "bootstrap"),
    ] {
        running.write(&[("level: info", "level: debug"), (from, to)]);
        let (code, answer) = running.ask("POST", "/config/reload").await;
        let message = answer["error"]["message"].as_str().unwrap().to_owned();
        assert!(code == 400 && message.contains(reason), "{message}");
        assert_eq!(running.running("log", "level").await, "info");
    }
    eventually("the failure is logged", async || running.node.log().contains("not reloaded").then_some(()))
        .await;
    running.write(&[]);
    running.node.signal(Signal::HUP);
    let text = running.text.replace("level: info", "level: warn");
    std::fs::write(&running.file, text).unwrap();
    running.node.signal(Signal::HUP);
    eventually("the level changes", async || (running.running("log", "level").await == "warn").then_some(()))
        .await;
    assert!(running.node.status().await.ready);
}

#[tokio::test]
async fn reloaded_idle_timeout_closes_open_connections() {
    let running = Running::start().await;
    let mut idle = TcpStream::connect(("127.0.0.1", running.node.ports.client)).await.unwrap();
    idle.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 7];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    running.write(&[("request_timeout: 5s", "request_timeout: 5s, idle_timeout: 50ms")]);
    let ended = tokio::time::timeout(PATIENCE, idle.read(&mut answer)).await;
    assert_eq!(ended.expect("it is closed").unwrap(), 0);
}
