//! The command line; the reference page and the shell completions are made from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::lock::Certificates;

/// Looks at HeliosDB clusters and handles them, on Kubernetes or by the addresses of their members.
///
/// Exit codes: 0 done, or healthy, or hibernated as asked; 1 failed, or degraded or changing; 2 down or unknown (status, members,
/// plan, doctor); 64 the command line makes no sense.
#[derive(Debug, Parser)]
#[command(name = "heliosctl", version)]
pub struct Cli {
    #[command(flatten)]
    pub target: Target,
    /// Form of the answer.
    #[arg(short, long, value_enum, global = true, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// Which clusters are meant.
#[derive(Debug, Args)]
pub struct Target {
    /// Namespace; that of the kubeconfig's context when not given.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig file; KUBECONFIG, ~/.kube/config or the pod's own account when not given.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Peer addresses of members, HOST:PORT separated by commas: talks to them directly, without Kubernetes.
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
    /// Longest wait for one answer, e.g. 5s or 1m.
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

#[derive(Debug, Args)]
pub struct Wait {
    /// Longest wait for the effect, e.g. 30s or 10m.
    #[arg(long, default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One table of members, what is under way, and one line that says how it is. Exit code 0, 1 or 2.
    Status(Which),
    /// The members with their ids, disks and addresses.
    Members(Which),
    /// What the operator does or waits for next, since when, and what holds it up.
    #[command(visible_alias = "why")]
    Plan(Which),
    /// Hands leadership to a member, and waits until it leads.
    Transfer {
        /// The voter that shall lead.
        member: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// As transfer, in phases that are checked and told: prepare, sync, role change, reconfigure, resume.
    Switchover(SwitchoverArgs),
    /// Takes leadership from the leader; the most caught-up voter gets it.
    StepDown(Which),
    /// Restarts all members, one at a time, the leader last.
    Restart {
        #[command(flatten)]
        which: Which,
        /// Return when all members run again.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        patience: Wait,
    },
    /// Stops the operator from changing anything about a cluster.
    Pause(Which),
    /// Lets the operator go on.
    Resume(Which),
    /// Stops all members and keeps their volumes.
    Hibernate(Which),
    /// Starts the members of a hibernated cluster again.
    Wake(Which),
    /// What members log, each line with its member's name before it.
    Logs(LogsArgs),
    /// Writes all there is to know about a cluster into one .tar.gz, without secrets.
    Report {
        #[command(flatten)]
        which: Which,
        /// The file to write. Default: helios-report-CLUSTER-TIME.tar.gz in the working directory.
        #[arg(long, short)]
        file: Option<PathBuf>,
    },
    /// Checks what a cluster and this tool need; without Kubernetes, that all members agree on one leader, and who holds
    /// the ports of those on this machine.
    Doctor,
    /// Adds a blank node as a member that holds data and does not vote yet. With --endpoint only.
    AddLearner {
        /// Peer address of the blank node, as the other members reach it.
        address: String,
    },
    /// Makes a caught-up learner a voter. With --endpoint only.
    Promote {
        /// The learner that shall vote.
        member: String,
        /// Log entries that it may be behind.
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
    /// Has a member write a snapshot of its data to its disk now.
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
    /// Removes keys and says how many there were.
    Del {
        #[arg(required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        data: Data,
    },
    /// Seconds until a key is removed.
    Ttl {
        key: String,
        #[command(flatten)]
        data: Data,
    },
    /// Has a key removed after so many seconds.
    Expire {
        key: String,
        seconds: u64,
        #[command(flatten)]
        data: Data,
    },
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
    /// Makes a committed entry a no-op on all members, when applying it ends their processes. A majority has to hold it, as
    /// `heliosctl status` shows. Its write is lost.
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
    /// Makes a certificate with its key; the first time a CA, too. Nothing is written over.
    Create {
        /// Where ca.crt and ca.key are, and where the certificate goes.
        #[arg(long, value_name = "DIR")]
        ca_dir: PathBuf,
        /// Name of the member, or of whoever shows the certificate: NAME.crt and NAME.key.
        #[arg(long)]
        name: String,
        /// A DNS name or an address by which others reach it; may be given several times.
        #[arg(long = "host", required_unless_present = "admin")]
        hosts: Vec<String>,
        /// For whoever manages the cluster, as heliosctl does with --cert: no member's certificate does for that.
        #[arg(long, conflicts_with = "hosts")]
        admin: bool,
        /// How long it is valid.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

/// As [`Which`], for the commands whose words are keys.
#[derive(Debug, Args)]
pub struct Data {
    /// Name of the HeliosCluster; may be left out when the namespace has one only.
    #[arg(long, short)]
    pub cluster: Option<String>,
    /// The user; `default` when not given. On Kubernetes the one of the cluster's Secret.
    #[arg(long, env = "HELIOSCTL_USER")]
    pub user: Option<String>,
    /// The user's password.
    #[arg(long, env = "HELIOS_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// A file with the password in its first line; wins over --password, which other people on this machine can see.
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
    /// Go on with what is logged from now on.
    #[arg(long, short)]
    pub follow: bool,
    /// Lines of each member to begin with.
    #[arg(long, default_value_t = 100)]
    pub tail: u32,
    /// What the process before the present one logged.
    #[arg(long, short, conflicts_with = "follow")]
    pub previous: bool,
}

#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The voter that shall lead.
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
    /// Whether the exit code tells health, so that a failure to look is "unknown".
    pub fn tells_health(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Members(_) | Self::Plan(_) | Self::Doctor)
    }
}

/// Eight hexadecimal digits.
fn crc(text: &str) -> Result<u32, String> {
    let wrong =
        |_| format!("{text:?} is no checksum; write the eight hexadecimal digits that the status shows");
    u32::from_str_radix(text, 16).map_err(wrong)
}

/// A time as people write it: `500ms`, `5s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
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
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_has_a_unit_and_a_bound() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "5", "s", "0s", "25h", "5 s", "-5s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn flags_stand_before_and_after_the_command() {
        for line in [["heliosctl", "-n", "a", "status", "demo"], ["heliosctl", "status", "demo", "-n", "a"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.target.namespace.as_deref(), Some("a"));
        }
    }
}
