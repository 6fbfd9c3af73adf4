//! Test fixture: `heliosd dev` with three members in one process, on ports reserved for this test, and
//! `heliosctl`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Default client port; `heliosd dev --port` shifts all ports by the distance from it.
const CLIENT: u16 = 6379;
const BASES: [u16; 5] = [CLIENT, 7000, 8443, 9090, 50051];
/// Port offsets far from the default and from those used by the tests of `heliosd dev` itself.
const OFFSETS: std::ops::Range<u16> = 30..50;
const STEP: u16 = 8;
const MEMBERS: u16 = 3;

pub struct Dev {
    process: Child,
    blank: Option<Child>,
    /// Pipe of the process's output, kept open because the process continues to print.
    _banner: BufReader<ChildStdout>,
    pub endpoints: String,
    offset: u16,
    _ports: File,
    dir: tempfile::TempDir,
}

impl Dev {
    /// Starts the process; returns when it prints that it is up.
    pub fn start() -> Self {
        let (offset, ports) = free_ports();
        let dir = tempfile::tempdir().unwrap();
        let mut process = Command::new(heliosd())
            .args(["dev", "--port", &(CLIENT + offset).to_string()])
            .env_clear()
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut banner = BufReader::new(process.stdout.take().unwrap());
        let up = (&mut banner).lines().any(|line| line.unwrap() == "Try:");
        assert!(up, "heliosd dev ended before it was up");
        let endpoints = (0..MEMBERS).map(|n| format!("127.0.0.1:{}", 7000 + offset + n)).collect::<Vec<_>>();
        Self {
            process,
            blank: None,
            _banner: banner,
            endpoints: endpoints.join(","),
            offset,
            _ports: ports,
            dir,
        }
    }

    /// gRPC client ports of the members, separated by commas.
    pub fn members(&self) -> String {
        let addresses = (0..MEMBERS).map(|n| format!("127.0.0.1:{}", 50051 + self.offset + n));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Redis ports of the members, separated by commas.
    pub fn clients(&self) -> String {
        let addresses = (0..MEMBERS).map(|n| format!("127.0.0.1:{}", CLIENT + self.offset + n));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// HTTP port of the first member.
    pub fn gateway(&self) -> String {
        format!("127.0.0.1:{}", 8443 + self.offset)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub fn ctl(&self, words: &[&str]) -> Output {
        ctl(&[&["--endpoint", &self.endpoints], words].concat())
    }

    /// Returns the output of a command that must succeed.
    pub fn done(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a node that belongs to no cluster, at the address of [`Self::absent_member`]; returns when it
    /// listens.
    pub fn start_blank(&mut self) {
        let (address, client) =
            (self.absent_member(), format!("127.0.0.1:{}", CLIENT + self.offset + MEMBERS));
        let node = Command::new(heliosd())
            .args(["--raft-node-id", "node-4", "--listen", &client, "--raft-addr", &address])
            .arg("--data-dir")
            .arg(self.dir.path().join("blank"))
            .env_clear()
            .stdin(Stdio::null())
            .spawn();
        let node = self.blank.insert(node.unwrap());
        while TcpStream::connect(&address).is_err() {
            assert!(node.try_wait().unwrap().is_none(), "the blank node ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns a peer address at which no member listens.
    pub fn absent_member(&self) -> String {
        format!("127.0.0.1:{}", 7000 + self.offset + MEMBERS)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        for process in self.blank.iter_mut().chain([&mut self.process]) {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Runs heliosctl without the environment variables of the test process.
pub fn ctl(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heliosctl"))
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Returns the path of heliosd, which `cargo test --workspace` builds beside this test.
pub fn heliosd() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_heliosctl")).with_file_name("heliosd");
    assert!(path.exists(), "{} is missing; run `cargo build -p helios-node` first", path.display());
    path
}

pub fn free_ports() -> (u16, File) {
    // A file lock does not exclude threads of one process, so a mutex does.
    static SEARCH: Mutex<()> = Mutex::new(());
    let _alone = SEARCH.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = std::env::temp_dir().join("helios-test-ports");
    std::fs::create_dir_all(&dir).unwrap();
    for offset in OFFSETS.map(|at| at * STEP) {
        let lock = File::create(dir.join((CLIENT + offset).to_string())).unwrap();
        let all = || BASES.iter().flat_map(|base| (0..=MEMBERS).map(move |n| base + offset + n));
        if lock.try_lock().is_ok() && all().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return (offset, lock);
        }
    }
    panic!("no free ports left for tests");
}
