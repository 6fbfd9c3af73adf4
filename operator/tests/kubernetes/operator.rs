//! The operator's real process, and what it says of itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::server::{Process, Server, free_port};

pub struct Operator {
    process: Process,
    port: u16,
    log: PathBuf,
}

/// Samples by name and labels, as in the text format.
pub type Samples = BTreeMap<String, f64>;

impl Operator {
    pub fn start(server: &Server, identity: &str) -> Self {
        Self::start_with(server, identity, &[])
    }

    pub fn start_with(server: &Server, identity: &str, arguments: &[&str]) -> Self {
        let port = free_port();
        let log = server.directory().join(format!("{identity}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_helios-operator"));
        command.env("KUBECONFIG", server.kubeconfig());
        command.args(["--http-addr", &format!("127.0.0.1:{port}"), "--identity", identity]);
        command.args(["--lease-namespace", "default", "--node-image", "heliosd:test"]).args(arguments);
        Self { process: Process::start(&mut command, &log), port, log }
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the operator does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Its metrics; none before it listens.
    pub fn metrics(&self) -> Samples {
        self.scrape().map(|text| parse(&text)).unwrap_or_default()
    }

    fn scrape(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: operator\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn parse(text: &str) -> Samples {
    let samples = text.lines().filter_map(|line| line.strip_prefix("helios_operator_")?.rsplit_once(' '));
    samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// Sum of all samples of the metric `name` whose labels `counts` accepts.
pub fn sum(samples: &Samples, name: &str, counts: impl Fn(&str) -> bool) -> f64 {
    let of_metric = samples.iter().filter(|(key, _)| key.split('{').next() == Some(name));
    of_metric.filter(|(key, _)| counts(key)).map(|(_, value)| value).sum()
}
