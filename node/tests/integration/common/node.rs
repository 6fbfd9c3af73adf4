//! A `heliosd` process, its directory and its ports.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use helios_proto::tls::{ClientTls, dial};
use helios_proto::v1::archive_client::ArchiveClient;
use helios_proto::v1::cluster_client::ClusterClient;
use helios_proto::v1::follow_client::FollowClient;
use helios_proto::v1::kv_client::KvClient;
use helios_proto::v1::{Consistency, Entry, RangeRequest, Role, StatusRequest, StatusResponse};
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use super::ports::NodePorts;
use super::{connect, eventually, http};

const RPC_TIMEOUT: Duration = Duration::from_secs(30);
const QUICK_TIMEOUT: Duration = Duration::from_secs(1);
const PAGE: u32 = 10_000;

pub struct Node {
    pub name: String,
    pub ports: NodePorts,
    dir: PathBuf,
    /// Text of the configuration file, if the node has one.
    config: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    open_files: Option<u64>,
    /// File `cgroup.procs` of the control group that the process joins.
    group: Option<PathBuf>,
    child: Option<Child>,
    /// Pid of the process that was started last.
    pid: Arc<AtomicU32>,
    /// Channel for polling a node that may be gone or stopped. It is kept, because each new connection would
    /// leave a port in TIME_WAIT.
    quick: Channel,
    /// Client identity for the peer port.
    tls: Arc<Mutex<Option<ClientTls>>>,
}

impl Node {
    /// Returns a node that is not started yet. `config` is appended to the sections that every node of a test
    /// has.
    pub fn new(dir: &Path, name: &str, ports: NodePorts, bootstrap: &str, config: &str) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let NodePorts { client, peer, grpc, metrics, gateway } = ports;
        let config = format!(
            "node: {{name: {name}, data_dir: '{}', {bootstrap}}}\n\
             listen: {{client: '127.0.0.1:{client}', peer: '127.0.0.1:{peer}', grpc: '127.0.0.1:{grpc}', \
             metrics: '127.0.0.1:{metrics}', gateway: '127.0.0.1:{gateway}'}}\n{config}\n",
            dir.join("data").display()
        );
        let mut node = Self::started_by(&dir, name, ports, &["--config", "node.yaml"], &[]);
        node.config = Some(config);
        node
    }

    /// Returns a node that is started in `dir` with the given flags and environment variables.
    pub fn started_by(
        dir: &Path,
        name: &str,
        ports: NodePorts,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let tls = Arc::default();
        Self {
            name: name.to_owned(),
            ports,
            dir: dir.to_owned(),
            config: None,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            open_files: None,
            group: None,
            child: None,
            pid: Arc::default(),
            quick: peer_channel(ports.peer, QUICK_TIMEOUT, Arc::clone(&tls)),
            tls,
        }
    }

    pub fn directory(&self) -> &Path {
        &self.dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn peer_addr(&self) -> String {
        format!("127.0.0.1:{}", self.ports.peer)
    }

    /// Starts the process, for the first time or again.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut command = self.command();
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        self.pid.store(child.id(), Ordering::Relaxed);
        self.child = Some(child);
    }

    /// Returns the pid in a form that is updated by each start.
    pub fn pid(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.pid)
    }

    /// Returns the command that starts this node, without redirection of its output.
    pub fn command(&self) -> Command {
        if let Some(config) = &self.config {
            std::fs::write(self.dir.join("node.yaml"), config).unwrap();
        }
        let mut command = free_standing(&self.dir);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        let open_files = self.open_files.map(|limit| format!("ulimit -n {limit}"));
        let group = self.group.as_ref().map(|file| format!("echo $$ > '{}'", file.display()));
        match open_files.into_iter().chain(group).reduce(|first, second| format!("{first} && {second}")) {
            Some(before) => after(&before, &command),
            None => command,
        }
    }

    /// Puts the process into a control group, given by its file `cgroup.procs`, from the next start on.
    pub fn join_group(&mut self, file: PathBuf) {
        self.group = Some(file);
    }

    /// Sets the limit of open files, as `ulimit -n`, from the next start on.
    pub fn limit_open_files(&mut self, limit: Option<u64>) {
        self.open_files = limit;
    }

    /// Returns the text of the configuration file, for changes before the next start.
    pub fn config_mut(&mut self) -> &mut String {
        self.config.as_mut().expect("it has a configuration file")
    }

    /// Sets an environment variable of the process from the next start on.
    pub fn set_environment(&mut self, name: &str, value: &Path) {
        self.environment.push((name.to_owned(), value.display().to_string()));
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until the process ends without a signal from the test.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let status = eventually("the process ends", async || child.try_wait().unwrap()).await;
        self.child = None;
        status
    }

    /// Starts the process if it has ended, as a supervisor does; returns whether it had ended.
    pub fn start_if_ended(&mut self) -> bool {
        let has_ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if has_ended {
            self.child = None;
            self.start();
        }
        has_ended
    }

    /// Deletes the data directory of a node that does not run.
    pub fn wipe(&self) {
        assert!(!self.is_running());
        std::fs::remove_dir_all(self.data_dir()).unwrap();
    }

    pub async fn redis(&self) -> MultiplexedConnection {
        eventually(&format!("{} takes Redis clients", self.name), async || {
            connect(self.ports.client, RPC_TIMEOUT).await.ok()
        })
        .await
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.peer_channel())
    }

    /// Returns a new connection to the peer port.
    pub fn peer_channel(&self) -> Channel {
        peer_channel(self.ports.peer, RPC_TIMEOUT, Arc::clone(&self.tls))
    }

    /// Sets the client identity of later connections to the peer port.
    pub fn ask_with(&self, tls: ClientTls) {
        *self.tls.lock().unwrap() = Some(tls);
    }

    pub fn ask_without(&self) {
        *self.tls.lock().unwrap() = None;
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(channel(self.ports.grpc)).max_decoding_message_size(64 << 20)
    }

    pub fn archive(&self) -> ArchiveClient<Channel> {
        ArchiveClient::new(channel(self.ports.grpc)).max_decoding_message_size(64 << 20)
    }

    pub fn follow(&self) -> FollowClient<Channel> {
        FollowClient::new(channel(self.ports.grpc)).max_decoding_message_size(64 << 20)
    }

    /// Returns the node's status; `None` when it does not answer.
    pub async fn try_status(&self) -> Option<StatusResponse> {
        let mut client = ClusterClient::new(self.quick.clone());
        client.status(StatusRequest {}).await.ok().map(tonic::Response::into_inner)
    }

    pub async fn status(&self) -> StatusResponse {
        eventually(&format!("{} reports its status", self.name), async || self.try_status().await).await
    }

    /// Returns the first value of a metric whose line begins with `name`; `None` while the node does not
    /// report it.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let (_, text) = http(self.ports.metrics, "GET", "/metrics", "").await?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    pub async fn has_role(&self, role: Role) -> bool {
        self.try_status().await.is_some_and(|status| status.role() == role)
    }

    pub async fn wait_ready(&self) {
        eventually(&format!("{} is ready", self.name), async || {
            self.try_status().await.filter(|status| status.ready)
        })
        .await;
    }

    /// Returns all entries of this node's state, by stale reads.
    pub async fn dump(&self) -> Vec<Entry> {
        let mut kv = self.kv();
        let mut found: Vec<Entry> = Vec::new();
        loop {
            let start = found.last().map_or_else(Vec::new, |last| [&last.key[..], b"\0"].concat());
            let request = RangeRequest {
                start: start.into(),
                limit: PAGE,
                consistency: Consistency::Stale.into(),
                ..RangeRequest::default()
            };
            let page = kv.range(request).await.unwrap().into_inner();
            found.extend(page.entries);
            if !page.more {
                return found;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {} last said:\n{}", self.name, tail.join("\n"));
        }
    }
}

/// Returns a command for `heliosd` without the environment variables that it would read.
pub fn free_standing(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliosd"));
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).env("NO_COLOR", "1");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HELIOS_") || name == "CONFIG_PATH")
    {
        command.env_remove(name);
    }
    command
}

/// Returns a shell command that executes `before` and then `command` in the same process.
fn after(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{before} && exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null());
    shell
}

fn channel(port: u16) -> Channel {
    endpoint(port).timeout(RPC_TIMEOUT).connect_lazy()
}

fn peer_channel(port: u16, limit: Duration, tls: Arc<Mutex<Option<ClientTls>>>) -> Channel {
    let dial = dial(format!("127.0.0.1:{port}"), "127.0.0.1".to_owned(), move || tls.lock().unwrap().clone());
    endpoint(port).timeout(limit).connect_with_connector_lazy(dial)
}

fn endpoint(port: u16) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    endpoint.connect_timeout(QUICK_TIMEOUT)
}
