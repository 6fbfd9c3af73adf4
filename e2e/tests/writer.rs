//! Tests of the load generator, on whose verdict all stories depend: against a real Redis that loses writes,
//! changes them, and stops answering.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use helios_e2e::report::{EXIT_LOST, Report, Window};

const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn lost_writes_are_reported() {
    let redis = Redis::start();
    let writer = Writer::start(&redis);
    // Enough writes for the witness clients to have contended, before and after the loss.
    let before: Window = writer.post("await/600");
    redis.query("FLUSHALL");
    writer.post::<Window>("await/600");
    let (code, report) = writer.terminate();
    assert_eq!(code, i32::from(EXIT_LOST));
    assert!(report.missing >= before.acknowledged, "{report:?}");
    assert_eq!((report.wrong, report.unread, report.window.failed), (0, 0, 0), "{report:?}");
    assert!(!report.examples.is_empty());
    let objection = report.witnessed.objection.unwrap();
    assert!(objection.contains("no order of the operations"), "{objection}");
}

#[test]
fn changed_value_is_reported() {
    let redis = Redis::start();
    let writer = Writer::start(&redis);
    writer.post::<Window>("await/100");
    redis.query("SET load:0:1 other");
    let (code, report) = writer.terminate();
    assert_eq!(code, i32::from(EXIT_LOST));
    assert_eq!((report.missing, report.wrong, report.examples), (0, 1, vec!["load:0:1".to_owned()]));
}

#[test]
fn stopped_server_causes_a_gap_and_failures_but_no_loss() {
    let redis = Redis::start();
    let writer = Writer::start(&redis);
    writer.post::<Window>("await/100");
    writer.post::<Window>("mark");
    redis.signal("-STOP");
    // Longer than the time for which a write is retried; the test needs this time to pass.
    std::thread::sleep(Duration::from_millis(1600));
    redis.signal("-CONT");
    writer.post::<Window>("await/100");
    let still: Window = writer.post("mark");
    writer.post::<Window>("await/100");
    let after: Window = writer.post("mark");
    let (code, report) = writer.terminate();
    assert!(still.longest_gap_ms >= 1500.0 && still.failed > 0, "{still:?}");
    assert!(after.longest_gap_ms < 1000.0 && after.failed == 0, "{after:?}");
    assert_eq!((code, report.is_intact(), report.window.failed), (0, true, still.failed), "{report:?}");
    assert!(report.witnessed.operations > 20 && report.witnessed.unknown > 0, "{:?}", report.witnessed);
    assert!(report.window.errors.contains_key("no answer in time"), "{:?}", report.window.errors);
}

#[test]
fn set_get_reports_an_unreachable_server_in_one_line() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let output = Command::new(env!("CARGO_BIN_EXE_helios-writer"))
        .args(["set-get", "--retry-for", "200ms", "--addr", &address])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(&address) && said.contains("cannot connect") && said.lines().count() == 1,
        "{said}"
    );
}

struct Writer {
    process: Child,
    control: String,
}

impl Writer {
    fn start(redis: &Redis) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_helios-writer"))
            .args([
                "run",
                "--prefix",
                "load",
                "--workers",
                "2",
                "--control",
                "127.0.0.1:0",
                "--addr",
                &redis.address,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let control = line.trim().strip_prefix("control on ").unwrap().to_owned();
        Self { process, control }
    }

    fn post<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let mut stream = TcpStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(stream, "POST /{path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{path}: {head}");
        serde_json::from_str(body).unwrap()
    }

    fn terminate(mut self) -> (i32, Report) {
        signal(&self.process, "-TERM");
        let mut said = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let code = self.process.wait().unwrap().code().unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        (code, serde_json::from_str(&said).unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

struct Redis {
    process: Child,
    address: String,
}

impl Redis {
    fn start() -> Self {
        let port = free_port();
        // Debian's redis-tools contains the server, too, under the name of its checker.
        let program = if installed("redis-server") { "redis-server" } else { "redis-check-rdb" };
        let process = Command::new(program)
            .arg0("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("this test needs Redis: install redis-tools");
        let redis = Self { process, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(&redis.address).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    fn query(&self, command: &str) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{command}\r\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert_eq!(answer, "+OK\r\n", "{command}");
    }

    fn signal(&self, name: &str) {
        signal(&self.process, name);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).exists())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(process: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &process.id().to_string()]).status().unwrap().success());
}
