//! The command line of `heliosd sidecar`, and the checked settings.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use helios_service::auth::MAX_PREFIXES;
use helios_service::client_memory::MemoryLimits;

use crate::replica::Rules;
use crate::secret::{self, FOLLOW, URI};

/// Makes a cluster a plain Redis on localhost: no TLS, no password, no failover in the application.
#[derive(Debug, Clone, Parser)]
#[command(name = "heliosd sidecar", bin_name = "heliosd sidecar")]
pub struct SidecarArgs {
    /// Client ports of the members, HOST:PORT separated by commas (port 6379 by default). A name may have several
    /// addresses. Without it, the file `uri` of --secret-dir names them.
    #[arg(long, env = "HELIOS_SIDECAR_CLUSTER", value_delimiter = ',', value_name = "HOST:PORT")]
    pub cluster: Vec<String>,
    /// Addresses that the application connects to, separated by commas. That of IPv6 is left out on a host without it.
    #[arg(
        long,
        env = "HELIOS_SIDECAR_LISTEN",
        value_delimiter = ',',
        default_values = ["127.0.0.1:6379", "[::1]:6379"],
        value_name = "ADDRESS:PORT"
    )]
    pub listen: Vec<SocketAddr>,
    /// Accept --listen addresses that other hosts reach: everyone who reaches the port then has all rights of the sidecar's user.
    #[arg(long, env = "HELIOS_SIDECAR_TRUST_EVERY_CLIENT")]
    pub trust_every_client: bool,
    /// Unix socket that the application connects to as well.
    #[arg(long, env = "HELIOS_SIDECAR_UNIX_SOCKET", value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,
    /// Address of /livez, /readyz and /metrics; empty: none.
    #[arg(
        long,
        env = "HELIOS_SIDECAR_METRICS_LISTEN",
        default_value = "127.0.0.1:9121",
        value_name = "ADDRESS:PORT"
    )]
    pub metrics_listen: String,
    /// Directory of a Secret with the files uri, user, password and ca.crt, and tls.crt and tls.key if members require a
    /// client certificate. A change is noticed.
    #[arg(long, env = "HELIOS_SIDECAR_SECRET_DIR", value_name = "DIR")]
    pub secret_dir: Option<PathBuf>,
    /// User of the sidecar at the cluster.
    #[arg(long, env = "HELIOS_SIDECAR_USER")]
    pub user: Option<String>,
    /// File with the user's password in its first line.
    #[arg(long, env = "HELIOS_SIDECAR_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// CA of the members, PEM; connections then use TLS.
    #[arg(long, env = "HELIOS_SIDECAR_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// Certificate of the sidecar, PEM.
    #[arg(long, env = "HELIOS_SIDECAR_TLS_CERT_FILE", value_name = "FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of --tls-cert-file, PEM.
    #[arg(long, env = "HELIOS_SIDECAR_TLS_KEY_FILE", value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// Name in the members' certificates; without it, the host of --cluster.
    #[arg(long, env = "HELIOS_SIDECAR_TLS_SERVER_NAME", value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Time without contact to any member after which requests are answered with CLUSTERDOWN, in milliseconds.
    #[arg(long, env = "HELIOS_SIDECAR_CUT_OFF_AFTER_MS", default_value_t = 3_000, value_name = "MS")]
    pub cut_off_after_ms: u64,
    /// proxy: all requests go to a member. replica: reads of keys are answered from memory, which follows a member.
    #[arg(long, env = "HELIOS_SIDECAR_MODE", value_enum, default_value_t = Mode::Proxy)]
    pub mode: Mode,
    /// Prefix of the keys that are held in Replica mode; several times for several. Without it, all keys that the user may access.
    #[arg(long, env = "HELIOS_SIDECAR_PREFIX", value_name = "PREFIX")]
    pub prefix: Vec<String>,
    /// Age in milliseconds above which a state is not read: requests are then forwarded.
    #[arg(long, env = "HELIOS_SIDECAR_MAX_STALENESS_MS", default_value_t = 1_000, value_name = "MS")]
    pub max_staleness_ms: u64,
    /// Limit of the keys that are held in Replica mode, in bytes of memory. Above it, all requests are forwarded.
    #[arg(long, env = "HELIOS_SIDECAR_REPLICA_MEMORY_BYTES", default_value_t = 64 << 20, value_name = "BYTES")]
    pub replica_memory_bytes: u64,
    /// Level of reads of Replica mode, on connections that do not choose it by HELIOS.READ. session: all that this process has read or
    /// written. bounded: all that its connection has. Both in a state of at most --max-staleness-ms. linearizable: all that was
    /// acknowledged before. any: all that its connection has read or written, however old the rest is.
    #[arg(long, env = "HELIOS_SIDECAR_READS", value_enum, default_value_t = Reads::Session)]
    pub reads: Reads,
    /// refuse: reads in a cut from all members are answered with CLUSTERDOWN once the state is too old. serve-stale: they are answered
    /// from memory, however old it is, unless the connection has observed more, or has a write of unknown outcome.
    #[arg(long, env = "HELIOS_SIDECAR_OFFLINE", value_enum, default_value_t = Offline::Refuse)]
    pub offline: Offline,
    /// gRPC client ports of the members, which Replica mode follows; by default those in the file `follow` of --secret-dir, or port
    /// 50051 of the hosts of --cluster.
    #[arg(long, env = "HELIOS_SIDECAR_FOLLOW", value_delimiter = ',', value_name = "HOST:PORT")]
    pub follow: Vec<String>,
    /// Time that commands in flight have to finish on SIGTERM, in milliseconds.
    #[arg(long, env = "HELIOS_SIDECAR_GRACE_MS", default_value_t = 5_000, value_name = "MS")]
    pub grace_ms: u64,
    /// Limit of open connections of the application.
    #[arg(long, env = "HELIOS_SIDECAR_MAX_CLIENTS", default_value_t = 1_000, value_name = "COUNT")]
    pub max_clients: usize,
    /// Limit of one request, in bytes; the members have their own.
    #[arg(long, env = "HELIOS_SIDECAR_MAX_REQUEST_BYTES", default_value_t = helios_redis::MAX_REQUEST_BYTES, value_name = "BYTES")]
    pub max_request_bytes: usize,
    /// Limit of the requests and replies of all connections that wait in memory, in bytes; the largest is closed above it.
    #[arg(long, env = "HELIOS_SIDECAR_MAX_MEMORY_BYTES", default_value_t = 64 << 20, value_name = "BYTES")]
    pub max_memory_bytes: usize,
    /// Limit of the replies that one connection has not read, in bytes.
    #[arg(long, env = "HELIOS_SIDECAR_MAX_OUTPUT_BYTES", default_value_t = 32 << 20, value_name = "BYTES")]
    pub max_output_bytes: usize,
    /// Time without a request after which a connection is closed, in seconds; 0: never.
    #[arg(long, env = "HELIOS_SIDECAR_IDLE_SECONDS", default_value_t = 0, value_name = "SECONDS")]
    pub idle_seconds: u64,
}

/// Where reads are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    Proxy,
    Replica,
}

/// Default level of reads, in Replica mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reads {
    Session,
    Bounded,
    Linearizable,
    Any,
}

/// Reply to a read that no member answers, in Replica mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Offline {
    Refuse,
    ServeStale,
}

/// An unusable command line or file, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

const REDIS_PORT: u16 = 6379;
const GRPC_PORT: u16 = 50051;
const MIN_STALENESS_MS: u64 = 100;
const MIN_CUT_OFF_MS: u64 = 100;

impl SidecarArgs {
    /// Checks the values that depend on each other; returns the members to connect to.
    ///
    /// # Errors
    /// One line with the flag and what to do.
    pub fn checked(&self) -> Result<Vec<HostPort>, ConfigError> {
        let error = |text: String| Err(ConfigError(text));
        if self.listen.is_empty() && self.unix_socket.is_none() {
            return error("--listen: name an address, or set --unix-socket".to_owned());
        }
        if let Some(address) = self.listen.iter().find(|address| !address.ip().is_loopback())
            && !self.trust_every_client
        {
            return error(format!(
                "--listen {address}: other hosts may reach this address, and every client has all rights of the sidecar's \
                 user; use 127.0.0.1 or [::1], or set --trust-every-client"
            ));
        }
        if self.cut_off_after_ms < MIN_CUT_OFF_MS {
            return error(format!("--cut-off-after-ms {}: at least {MIN_CUT_OFF_MS}", self.cut_off_after_ms));
        }
        if self.max_clients == 0 {
            return error("--max-clients: at least 1".to_owned());
        }
        if let Some(dir) = self.secret_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return error(format!("--secret-dir {}: no directory", dir.display()));
        }
        if self.max_staleness_ms < MIN_STALENESS_MS {
            return error(format!(
                "--max-staleness-ms {}: at least {MIN_STALENESS_MS}",
                self.max_staleness_ms
            ));
        }
        if self.prefix.len() > MAX_PREFIXES || self.prefix.iter().any(String::is_empty) {
            return error(format!("--prefix: at most {MAX_PREFIXES}, and none is empty"));
        }
        self.metrics_address()?;
        self.members()
    }

    /// Returns the gRPC ports to follow; `members` are those of [`Self::checked`].
    ///
    /// # Errors
    /// One is no address, or the file cannot be read.
    pub fn followed(&self, members: &[HostPort]) -> Result<Vec<HostPort>, ConfigError> {
        if !self.follow.is_empty() {
            return self.follow.iter().map(|member| host_port("--follow", member, GRPC_PORT)).collect();
        }
        let file = self.secret_dir.as_ref().map(|dir| dir.join(FOLLOW)).filter(|path| path.exists());
        if let Some(path) = file.filter(|_| self.cluster.is_empty()) {
            let text = secret::text(&path)?;
            let source = path.display().to_string();
            return text.trim().split(',').map(|member| host_port(&source, member, GRPC_PORT)).collect();
        }
        let mut hosts: Vec<HostPort> = Vec::new();
        for HostPort { host, .. } in members {
            let member = HostPort { host: host.clone(), port: GRPC_PORT };
            if !hosts.contains(&member) {
                hosts.push(member);
            }
        }
        Ok(hosts)
    }

    fn members(&self) -> Result<Vec<HostPort>, ConfigError> {
        let given: Vec<_> =
            self.cluster.iter().map(|member| member.trim()).filter(|member| !member.is_empty()).collect();
        if !given.is_empty() {
            return given.into_iter().map(|member| host_port("--cluster", member, REDIS_PORT)).collect();
        }
        let Some(dir) = &self.secret_dir else {
            return Err(ConfigError("--cluster: name the members, HOST:PORT separated by commas".to_owned()));
        };
        let path = dir.join(URI);
        let uri =
            secret::text(&path).map_err(|error| ConfigError(format!("--cluster is not set and {error}")))?;
        let (_, authority) = uri
            .trim()
            .split_once("://")
            .ok_or_else(|| ConfigError(format!("{}: write rediss://HOST:PORT", path.display())))?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
        let hosts = authority.split(['/', '?']).next().unwrap_or_default();
        hosts.split(',').map(|member| host_port(&path.display().to_string(), member, REDIS_PORT)).collect()
    }

    /// Returns the address of the probes and metrics.
    ///
    /// # Errors
    /// It is no address.
    pub fn metrics_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let text = self.metrics_listen.trim();
        let wrong =
            |_| ConfigError(format!("--metrics-listen {text:?}: write ADDRESS:PORT, e.g. 127.0.0.1:9121"));
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(wrong) }
    }

    pub fn cut_off_after(&self) -> Duration {
        Duration::from_millis(self.cut_off_after_ms)
    }

    pub fn rules(&self) -> Rules {
        Rules {
            max_staleness: Duration::from_millis(self.max_staleness_ms),
            cut_off_after: self.cut_off_after(),
            level: self.reads.into(),
            offline: self.offline,
        }
    }

    pub fn memory_limits(&self) -> MemoryLimits {
        MemoryLimits {
            output_bytes: self.max_output_bytes,
            soft_output_bytes: 0,
            all_bytes: self.max_memory_bytes,
            ..MemoryLimits::DEFAULT
        }
    }

    #[cfg(test)]
    pub fn of(args: &[&str]) -> Self {
        Self::try_parse_from(std::iter::once(&"").chain(args)).unwrap()
    }
}

fn host_port(source: &str, text: &str, port: u16) -> Result<HostPort, ConfigError> {
    let wrong = || ConfigError(format!("{source} {text:?}: write HOST:PORT, e.g. demo:6379 or [::1]:6379"));
    // Without brackets, an IPv6 address cannot be distinguished from a port.
    let (host, port) = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => (text, port),
        _ => match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !text.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            Some(_) if !text.ends_with(']') => return Err(wrong()),
            _ => (text, port),
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok(HostPort { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(args: &[&str]) -> Result<Vec<(String, u16)>, String> {
        let members = SidecarArgs::of(args).checked().map_err(|error| error.0)?;
        Ok(members.into_iter().map(|member| (member.host, member.port)).collect())
    }

    #[test]
    fn members_have_a_host_and_a_port() {
        let expected = |members: &[(&str, u16)]| {
            Ok(members.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect())
        };
        assert_eq!(
            members(&["--cluster", "demo:7,10.0.0.1,[::1]:8,::2"]),
            expected(&[("demo", 7), ("10.0.0.1", 6379), ("::1", 8), ("::2", 6379)])
        );
        for wrong in [":1", "a:", "a:x", "a b:1", "a:0"] {
            let error = members(&["--cluster", wrong]).unwrap_err();
            assert!(error.contains("write HOST:PORT"), "{wrong}: {error}");
        }
        assert!(members(&[]).unwrap_err().contains("--cluster"));
    }

    #[test]
    fn members_are_those_of_the_uri_in_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        assert!(members(&["--secret-dir", &path]).unwrap_err().contains("uri"));
        std::fs::write(dir.path().join(URI), "rediss://app:p@ss@demo.db.svc:6379/0\n").unwrap();
        assert_eq!(members(&["--secret-dir", &path]), Ok(vec![("demo.db.svc".to_owned(), 6379)]));
    }

    #[test]
    fn replica_follows_the_grpc_ports_of_the_members_unless_they_are_named() {
        let followed = |args: &[&str]| {
            let args = SidecarArgs::of(args);
            let ports = args.followed(&args.checked().unwrap()).unwrap();
            ports.into_iter().map(|member| format!("{}:{}", member.host, member.port)).collect::<Vec<_>>()
        };
        assert_eq!(followed(&["--cluster", "a:1,b:2,a:3"]), ["a:50051", "b:50051"]);
        assert_eq!(followed(&["--cluster", "a:1", "--follow", "c:4,d"]), ["c:4", "d:50051"]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FOLLOW), "demo-read:50051,demo\n").unwrap();
        std::fs::write(dir.path().join(URI), "redis://demo").unwrap();
        let path = dir.path().display().to_string();
        assert_eq!(followed(&["--secret-dir", &path]), ["demo-read:50051", "demo:50051"]);
        assert_eq!(followed(&["--secret-dir", &path, "--cluster", "a"]), ["a:50051"], "another cluster");
        let given = ["--cluster", "a", "--mode", "replica", "--prefix", "x:", "--prefix", "y,z"];
        let given = SidecarArgs::of(&given);
        assert_eq!((given.mode, given.prefix), (Mode::Replica, vec!["x:".to_owned(), "y,z".to_owned()]));
        assert!(members(&["--cluster", "a", "--prefix", ""]).unwrap_err().contains("--prefix"));
        assert!(
            members(&["--cluster", "a", "--max-staleness-ms", "9"]).unwrap_err().contains("at least 100")
        );
    }

    #[test]
    fn addresses_of_other_hosts_need_a_flag() {
        let by_default: Vec<_> = SidecarArgs::of(&[]).listen.iter().map(ToString::to_string).collect();
        assert_eq!(by_default, ["127.0.0.1:6379", "[::1]:6379"]);
        let open = ["--cluster", "a", "--listen", "0.0.0.0:6379"];
        let error = members(&open).unwrap_err();
        assert!(error.contains("0.0.0.0:6379") && error.contains("--trust-every-client"), "{error}");
        assert!(members(&[&open[..], &["--trust-every-client"]].concat()).is_ok());
        assert!(members(&["--cluster", "a", "--listen", "[::1]:6379"]).is_ok());
        assert!(
            members(&["--cluster", "a", "--metrics-listen", "x"]).unwrap_err().contains("--metrics-listen")
        );
        assert!(
            members(&["--cluster", "a", "--secret-dir", "/no/such"]).unwrap_err().contains("no directory")
        );
    }
}
