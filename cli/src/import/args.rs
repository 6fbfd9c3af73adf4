//! The command line of `heliosctl import`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::args::duration;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// RDB file of Redis up to 8.2 or Valkey 8 or 9.
    #[arg(long, value_name = "FILE", required_unless_present = "from", conflicts_with = "from")]
    pub rdb: Option<PathBuf>,
    /// Running Redis or Valkey, redis://HOST:PORT or redis://USER@HOST:PORT; rediss:// with TLS. It is followed as a replica does, until
    /// the cut-over or Ctrl-C.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// File with the password of the source in its first line.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_password_file: Option<PathBuf>,
    /// CA of the source, PEM, for rediss://.
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_cacert: Option<PathBuf>,
    /// Redis ports of the members of the target, HOST:PORT separated by commas; with --cacert over TLS.
    #[arg(long, value_delimiter = ',', required = true, value_name = "HOST:PORT")]
    pub to: Vec<String>,
    /// User of the target, who may write; by default `default`.
    #[arg(long, env = "HELIOSCTL_USER")]
    pub user: Option<String>,
    /// The user's password.
    #[arg(long, env = "HELIOS_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// File with the password in its first line; takes precedence over --password, which other users of this
    /// machine can see.
    #[arg(long, env = "HELIOSCTL_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Database that is imported. Without it, a source with keys in others than 0 is refused.
    #[arg(long, value_name = "NUMBER")]
    pub database: Option<u64>,
    /// Leave out streams, values of modules, functions and hashes whose fields expire. Without it, a source with any is
    /// refused.
    #[arg(long)]
    pub skip_unsupported: bool,
    /// Remove all keys of the target first.
    #[arg(long, conflicts_with = "into_existing")]
    pub replace: bool,
    /// Import into a target that has keys. Those of the same names are overwritten.
    #[arg(long)]
    pub into_existing: bool,
    /// As soon as the target has caught up: pause the writes at the source, apply the rest, compare, and end.
    #[arg(long, requires = "from")]
    pub cut_over: bool,
    /// Longest pause of the writes at the source. If the cut-over is not complete by then, it fails and the source stays
    /// in charge.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub max_pause: Duration,
    /// After the cut-over the source refuses writes (min-replicas-to-write), in place of the rest of the pause.
    #[arg(long, requires = "cut_over")]
    pub fence: bool,
    /// Number of random keys whose values are compared during the cut-over.
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub sample: u32,
    /// Directory for what is received and not applied yet; by default that of temporary files.
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
    /// Longest time for which a source or target that does not answer is retried.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub patience: Duration,
}
