//! The command line. Single-dash long flags (`-raft-node-id`) mean the same as double-dash ones,
//! as the user's earlier documents write them (checklist S4-1).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Parser)]
#[command(name = "heliosd", version, about = "A strongly consistent key-value database that speaks Redis")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<CommandLine>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum CommandLine {
    /// Start a cluster of three members in this process, without Kubernetes
    Dev(DevArgs),
    /// Check the data of a stopped node; changes nothing. Exit code 0: intact, 1: damaged
    Verify(VerifyArgs),
    /// Archive the log of a cluster into an object store until SIGTERM; heliosd archive --help
    #[command(disable_help_flag = true)]
    Archive {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<OsString>,
    },
    /// Take, list, check, delete and restore backups in an object store; heliosd backup --help
    #[command(disable_help_flag = true)]
    Backup {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<OsString>,
    },
    /// Serve a cluster as a plain Redis on localhost, for an application; heliosd sidecar --help
    #[command(disable_help_flag = true)]
    Sidecar {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<OsString>,
    },
    /// Check or print a configuration without starting a node
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Check the configuration. Exit code 0: it can be used, 78: the error is on standard error
    Check(RunArgs),
    /// Print file, environment and flags as one file, without secrets
    Print(RunArgs),
}

/// Flags of a node; each overrides the configuration file and the environment.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Configuration file (YAML); without the flag, the one that CONFIG_PATH names
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Directory for log, state and snapshots
    #[arg(long)]
    pub data_dir: Option<String>,
    /// Redis clients: host:port, or :port for every interface
    #[arg(long)]
    pub listen: Option<String>,
    /// Only true is supported: every node replicates
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub raft: Option<bool>,
    /// Name of this node, unique in the cluster
    #[arg(long)]
    pub raft_node_id: Option<String>,
    /// Peers: host:port, to listen on and to advertise to other members
    #[arg(long)]
    pub raft_addr: Option<String>,
    /// Directory of the write-ahead log
    #[arg(long)]
    pub raft_data_dir: Option<String>,
    /// HTTP gateway: host:port
    #[arg(long)]
    pub gateway_listen: Option<String>,
    /// Prometheus metrics and health: host:port
    #[arg(long)]
    pub metrics_listen: Option<String>,
    /// gRPC clients: host:port
    #[arg(long)]
    pub grpc_listen: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The node's data_dir
    pub data_dir: PathBuf,
    /// The node's wal_dir, if it is not <DATA_DIR>/wal
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Directory for the members' data; without the flag, a temporary directory that is removed at the end
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Number of members: 1, 3 or 5
    #[arg(long, default_value_t = 3, value_parser = clap::builder::PossibleValuesParser::new(["1", "3", "5"])
        .map(|text| text.parse::<u16>().expect("one of the listed numbers")))]
    pub members: u16,
    /// First client port; the members use this one and the next. The other ports move along
    #[arg(long, default_value_t = 6379, value_parser = clap::value_parser!(u16).range(1..=21_000))]
    pub port: u16,
}

use clap::builder::TypedValueParser as _;

impl RunArgs {
    /// Returns the flags as configuration paths with their values.
    pub fn overrides(&self) -> Vec<([&'static str; 2], Value)> {
        let fields = [
            (["node", "data_dir"], &self.data_dir),
            (["listen", "client"], &self.listen),
            (["node", "name"], &self.raft_node_id),
            (["listen", "peer"], &self.raft_addr),
            (["node", "wal_dir"], &self.raft_data_dir),
            (["listen", "gateway"], &self.gateway_listen),
            (["listen", "metrics"], &self.metrics_listen),
            (["listen", "grpc"], &self.grpc_listen),
        ];
        let mut set: Vec<_> =
            fields.into_iter().filter_map(|(path, value)| Some((path, json!(value.clone()?)))).collect();
        // An address given by flag is also the advertised one, a DNS name included (S4's compose file).
        if let Some(addr) = &self.raft_addr
            && !addr.starts_with(':')
            && !addr.starts_with("0.0.0.0")
        {
            set.push((["node", "advertise_addr"], json!(addr)));
        }
        set
    }
}

impl Cli {
    /// Parses arguments, single-dash long flags included.
    pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(args.into_iter().map(double_dash))
    }
}

fn double_dash(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::parse_args(line.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn arguments_of_other_programs_are_handed_on_as_they_are() {
        for line in ["heliosd backup restore --store file:///x --help -o json", "heliosd backup --help"] {
            let Some(CommandLine::Backup { args }) = parse(line).command else { panic!("{line}") };
            assert!(args.iter().eq(line.split(' ').skip(2)), "{args:?}");
        }
        let command = parse("heliosd archive --name a").command;
        assert!(matches!(command, Some(CommandLine::Archive { args }) if args.len() == 2));
        let command = parse("heliosd sidecar --cluster a --help").command;
        assert!(matches!(command, Some(CommandLine::Sidecar { args }) if args.len() == 3));
    }

    #[test]
    fn the_documented_command_line_is_understood() {
        let cli = parse(
            "heliosd -data-dir=./data/node1 -listen=:6379 -raft=true -raft-node-id=node-1 \
             -raft-addr 127.0.0.1:7000 --raft-data-dir ./data/node1/raft",
        );
        assert_eq!(cli.run.listen.as_deref(), Some(":6379"));
        assert_eq!(cli.run.raft, Some(true));
        assert_eq!(cli.run.raft_node_id.as_deref(), Some("node-1"));
        let paths: Vec<_> = cli.run.overrides().into_iter().map(|(path, _)| path.join(".")).collect();
        assert!(paths.contains(&"node.advertise_addr".to_owned()), "{paths:?}");
    }

    #[test]
    fn dev_takes_its_own_flags() {
        let cli = parse("heliosd dev --members 5 --port 7379");
        assert!(matches!(cli.command, Some(CommandLine::Dev(DevArgs { members: 5, port: 7379, .. }))));
    }

    #[test]
    fn verify_takes_the_directories() {
        let cli = parse("heliosd verify /data --wal-dir /log");
        let Some(CommandLine::Verify(args)) = cli.command else { panic!("{cli:?}") };
        assert_eq!((args.data_dir, args.wal_dir), ("/data".into(), Some("/log".into())));
    }

    #[test]
    fn config_check_takes_the_flags_of_a_node() {
        let cli = parse("heliosd config check -raft-node-id=a --config x.yaml");
        let Some(CommandLine::Config { action: ConfigAction::Check(args) }) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!((args.raft_node_id.as_deref(), args.config), (Some("a"), Some("x.yaml".into())));
    }

    #[test]
    fn the_command_line_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
