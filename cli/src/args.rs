//! The command line, from which the reference page and the shell completions are generated.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use helios_backup::args::BackupCommand;
use helios_backup::program::ReportArgs;

use crate::import::ImportArgs;
use crate::lock::Certificates;

/// Inspects and manages HeliosDB clusters, on Kubernetes or by the addresses of their members.
///
/// Exit codes: 0 done, or healthy, or hibernated as asked; 1 failed, or degraded or changing; 2 down or
/// unknown (status, members, plan, doctor); 64 invalid command line.
#[derive(Debug, Parser)]
#[command(name = "heliosctl", version)]
pub struct Cli {
    #[command(flatten)]
    pub target: Target,
    /// Output format.
    #[arg(short, long, value_enum, global = true, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// Clusters that the command is about.
#[derive(Debug, Args)]
pub struct Target {
    /// Namespace; by default the one of the kubeconfig's context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Kubeconfig file; by default KUBECONFIG, ~/.kube/config or the pod's service account.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Peer addresses of members, HOST:PORT separated by commas, to which heliosctl talks directly, without
    /// Kubernetes.
    #[arg(
        long = "endpoint",
        alias = "endpoints",
        env = "HELIOS_ENDPOINTS",
        value_delimiter = ',',
        global = true
    )]
    pub endpoints: Vec<String>,
    #[command(flatten)]
    pub certificates: Certificates,
    /// Timeout of one request, e.g. 5s or 1m.
    #[arg(long, global = true, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub request_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

/// A HeliosCluster; may be left out where there is only one.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Name of the HeliosCluster; may be left out when the namespace has one only.
    pub cluster: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum SidecarAction {
    /// Prints the container and the volume to paste into a pod template.
    Yaml(SidecarYaml),
    /// Prints the kustomization.yaml of a component that adds the sidecar to all workloads whose label heliosdb.io/inject names
    /// the HeliosClient.
    Kustomize(SidecarYaml),
}

#[derive(Debug, Args)]
pub struct SidecarYaml {
    /// HeliosClient whose Secret the sidecar uses.
    #[arg(long, value_name = "NAME")]
    pub client: String,
    /// Image of heliosd.
    #[arg(long, default_value = concat!("heliosd:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Port on localhost that the application connects to.
    #[arg(long, default_value_t = 6379)]
    pub port: u16,
    /// Mode, as spec.mode of the HeliosClient: proxy, or replica for reads from memory.
    #[arg(long, value_enum, default_value_t = Mode::Proxy)]
    pub mode: Mode,
    /// Memory for the keys that mode replica holds, as spec.memory, e.g. 256Mi.
    #[arg(long, default_value = "64Mi")]
    pub memory: String,
    /// Age above which mode replica does not answer from memory, as spec.maxStaleness, e.g. 500ms.
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub max_staleness: String,
    /// Level of reads of mode replica, as spec.reads.
    #[arg(long, value_enum, default_value_t = Reads::Session)]
    pub reads: Reads,
    /// Reply to reads of mode replica while no member answers, as spec.offline: an error, or a value that is too old.
    #[arg(long, value_enum, default_value_t = Offline::Refuse)]
    pub offline: Offline,
}

/// Mode of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Proxy,
    Replica,
}

/// Level of reads of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reads {
    Session,
    Bounded,
    Linearizable,
    Any,
}

/// Reply to a read of a sidecar while no member answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Offline {
    Refuse,
    ServeStale,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// Longest wait for the effect, e.g. 30s or 10m.
    #[arg(long, default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows a table of the members, the operation in progress and one line with the health. Exit code 0, 1
    /// or 2.
    Status(Which),
    /// Lists the members with their ids, disks and addresses.
    Members(Which),
    /// Shows the operator's current or next step, since when it lasts, and what blocks it.
    #[command(visible_alias = "why")]
    Plan(Which),
    /// Transfers leadership to a member and waits until it is the leader.
    Transfer {
        /// Voter that becomes the leader.
        member: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Transfers leadership in phases that are checked and reported: prepare, sync, role change, reconfigure,
    /// resume.
    Switchover(SwitchoverArgs),
    /// Makes the leader step down; the most caught-up voter becomes the leader.
    StepDown(Which),
    /// Restarts all members, one at a time, the leader last.
    Restart {
        #[command(flatten)]
        which: Which,
        /// Wait until all members run again.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        patience: Wait,
    },
    /// Stops the operator from changing anything about a cluster.
    Pause(Which),
    /// Lets the operator change a paused cluster again.
    Resume(Which),
    /// Stops all members and keeps their volumes.
    Hibernate(Which),
    /// Starts the members of a hibernated cluster again.
    Wake(Which),
    /// Prints the logs of members, each line with its member's name before it.
    Logs(LogsArgs),
    /// Writes a support bundle of a cluster, without secrets, into one .tar.gz.
    Report {
        #[command(flatten)]
        which: Which,
        /// File to write. Default: helios-report-CLUSTER-TIME.tar.gz in the working directory.
        #[arg(long, short)]
        file: Option<PathBuf>,
    },
    /// Checks the prerequisites of a cluster and of this tool; without Kubernetes, that all members agree on
    /// one leader, and which processes hold the ports of members on this machine.
    Doctor,
    /// Adds a blank node as a learner: it receives the log and does not vote. With --endpoint only.
    AddLearner {
        /// Peer address of the blank node, as the other members reach it.
        address: String,
    },
    /// Promotes a caught-up learner to a voter. With --endpoint only.
    Promote {
        /// Learner to promote.
        member: String,
        /// Largest lag of the learner, in log entries.
        #[arg(long, default_value_t = 1000)]
        max_lag: u64,
    },
    /// Removes a member from the cluster. With --endpoint only.
    Remove { member: String },
    /// The log of a cluster.
    Log {
        #[command(subcommand)]
        action: LogAction,
    },
    /// Makes a member write a snapshot of its data to its disk now.
    Snapshot { member: String },
    /// Reads a key.
    Get {
        key: String,
        #[command(flatten)]
        data: Data,
    },
    /// Writes a key.
    Set {
        key: String,
        value: String,
        /// Seconds until the key is removed.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        #[command(flatten)]
        data: Data,
    },
    /// Removes keys and prints how many of them existed.
    Del {
        #[arg(required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        data: Data,
    },
    /// Prints the seconds until a key is removed.
    Ttl {
        key: String,
        #[command(flatten)]
        data: Data,
    },
    /// Sets a key to be removed after a number of seconds.
    Expire {
        key: String,
        seconds: u64,
        #[command(flatten)]
        data: Data,
    },
    /// Backups of a cluster in an object store: S3, Google Cloud Storage, Azure or a directory.
    Backup {
        #[command(flatten)]
        report: ReportArgs,
        #[command(subcommand)]
        command: BackupCommand,
    },
    /// Lists the sidecars of pods, with mode, state and the age of the data that they answer from. Exit code 1 if one is not ready.
    Sidecars {
        /// HeliosClient whose sidecars are shown; all without it.
        client: Option<String>,
        /// In all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// The sidecar of an application, which serves a cluster as a plain Redis on localhost.
    Sidecar {
        #[command(subcommand)]
        action: SidecarAction,
    },
    /// Copies the data of Redis or Valkey into an empty cluster: from an RDB file, or from a running server with
    /// a cut-over in which nothing is lost.
    Import(Box<ImportArgs>),
    /// Certificates for members that run without Kubernetes.
    Certs {
        #[command(subcommand)]
        action: Certs,
    },
    /// Prints a completion script, e.g. for ~/.bashrc: `source <(heliosctl completion bash)`.
    Completion { shell: Shell },
}

#[derive(Debug, Subcommand)]
pub enum LogAction {
    /// Turns a committed entry into a no-op on all members, for an entry that ends their processes when it is
    /// applied. A majority must hold it, as `heliosctl status` shows. Its write is lost.
    Skip {
        /// Index of the entry.
        index: u64,
        /// Checksum of the entry, eight hexadecimal digits, as the status shows it.
        #[arg(long, value_parser = crc, value_name = "CRC")]
        crc: u32,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Creates a certificate with its key, and the first time a CA. Existing files are not overwritten.
    Create {
        /// Directory of ca.crt and ca.key, into which the certificate is written.
        #[arg(long, value_name = "DIR")]
        ca_dir: PathBuf,
        /// Name of the member or user that presents the certificate; the files are NAME.crt and NAME.key.
        #[arg(long)]
        name: String,
        /// DNS name or address by which others reach the member; may be given several times.
        #[arg(long = "host", required_unless_present = "admin")]
        hosts: Vec<String>,
        /// Create a certificate for managing the cluster, e.g. with heliosctl --cert; members' certificates
        /// are not accepted for that.
        #[arg(long, conflicts_with = "hosts")]
        admin: bool,
        /// Validity in days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

/// [`Which`] as a flag, for the commands whose positional arguments are keys.
#[derive(Debug, Args)]
pub struct Data {
    /// Name of the HeliosCluster; may be left out when the namespace has one only.
    #[arg(long, short)]
    pub cluster: Option<String>,
    /// User name; by default `default`, on Kubernetes the one in the cluster's Secret.
    #[arg(long, env = "HELIOSCTL_USER")]
    pub user: Option<String>,
    /// The user's password.
    #[arg(long, env = "HELIOS_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// File with the password in its first line; takes precedence over --password, which other users of this
    /// machine can see.
    #[arg(long, env = "HELIOSCTL_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

impl From<&Data> for Which {
    fn from(flag: &Data) -> Self {
        Self { cluster: flag.cluster.clone() }
    }
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A member, or a HeliosCluster for all of its members; may be left out when there is one cluster only.
    pub name: Option<String>,
    /// Follow the logs: print new lines as they are written.
    #[arg(long, short)]
    pub follow: bool,
    /// Number of the latest lines of each member to print first.
    #[arg(long, default_value_t = 100)]
    pub tail: u32,
    /// Print the log of each member's previous process instead.
    #[arg(long, short, conflicts_with = "follow")]
    pub previous: bool,
}

#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// Voter that becomes the leader.
    pub member: String,
    /// Check the preconditions only. Exit code 0: all hold, 1: one does not.
    #[arg(long)]
    pub dry_run: bool,
    /// Longest wait until all preconditions hold.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub prepare_timeout: Duration,
    /// Longest wait for a target that is behind.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub sync_timeout: Duration,
    /// Longest time for all phases together.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,
}

impl Command {
    /// Whether the exit code is the health; then a failure to observe it exits with "unknown".
    pub fn exit_code_is_health(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Members(_) | Self::Plan(_) | Self::Doctor)
    }
}

/// Parses a checksum of eight hexadecimal digits.
fn crc(text: &str) -> Result<u32, String> {
    let wrong =
        |_| format!("{text:?} is no checksum; write the eight hexadecimal digits that the status shows");
    u32::from_str_radix(text, 16).map_err(wrong)
}

/// Parses a duration with its unit: `500ms`, `5s`, `10m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write e.g. 500ms, 5s, 10m or 1h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let ms = count.checked_mul(unit_ms).filter(|ms| (1..=86_400_000).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| format!("{text:?}: write a time from 1ms to 24h"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn duration_needs_a_unit_and_is_bounded() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "5", "s", "0s", "25h", "5 s", "-5s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn global_flags_are_accepted_before_and_after_the_command() {
        for line in [["heliosctl", "-n", "a", "status", "demo"], ["heliosctl", "status", "demo", "-n", "a"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.target.namespace.as_deref(), Some("a"));
        }
    }
}
