//! The command lines of `heliosd archive`, `heliosd backup` and `heliosctl backup`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use helios_archive::retention::Retention;
use helios_archive::{BaseId, Keyring, Store};
use jiff::Timestamp;

use crate::Failure;
use crate::members::{Connection, Members};

/// The object store and the keys of its objects.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR. Credentials are read from the
    /// environment variables of each provider.
    #[arg(long, env = "HELIOS_BACKUP_STORE", value_name = "URL")]
    pub store: String,
    /// Directory of the keyring: files named by key ids with 64 hexadecimal digits each, and `current` with the id of the key
    /// for new objects. Without it, nothing is encrypted.
    #[arg(long, env = "HELIOS_BACKUP_KEY_DIR", value_name = "DIR")]
    pub key_dir: Option<PathBuf>,
    /// Accept objects in clear text as well, from the time before encryption was turned on.
    #[arg(long, requires = "key_dir")]
    pub accept_unencrypted: bool,
}

/// The members that a backup is taken from.
#[derive(Debug, Clone, Args)]
pub struct MemberArgs {
    /// gRPC client ports of the members, HOST:PORT separated by commas (port 50051 by default).
    #[arg(
        long,
        env = "HELIOS_BACKUP_MEMBERS",
        value_delimiter = ',',
        required = true,
        value_name = "HOST:PORT"
    )]
    pub members: Vec<String>,
    /// User with the role `backup`.
    #[arg(long, env = "HELIOS_BACKUP_USER")]
    pub user: Option<String>,
    /// File with the user's password in its first line.
    #[arg(long, env = "HELIOS_BACKUP_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// CA of the members, PEM; connections then use TLS.
    #[arg(long, env = "HELIOS_BACKUP_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// Certificate of this client, PEM.
    #[arg(long, env = "HELIOS_BACKUP_TLS_CERT_FILE", value_name = "FILE", requires_all = ["tls_key_file", "tls_ca_file"])]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of --tls-cert-file, PEM.
    #[arg(long, env = "HELIOS_BACKUP_TLS_KEY_FILE", value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
}

/// Rules of retention.
#[derive(Debug, Clone, Copy, Args)]
pub struct RetentionArgs {
    /// Bases that are younger are kept, e.g. 30d.
    #[arg(long, default_value = "30d", value_parser = span, value_name = "TIME")]
    pub keep_for: Duration,
    /// Number of the newest bases that are kept, however old they are.
    #[arg(long, default_value_t = 7, value_name = "COUNT")]
    pub keep_last: usize,
    /// Every moment of so long ago and since can be restored.
    #[arg(long, default_value = "14d", value_parser = span, value_name = "TIME")]
    pub keep_log: Duration,
}

/// Archives the log of a cluster into an object store, with a base now and then, until SIGTERM.
#[derive(Debug, Clone, Args)]
pub struct ArchiveArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub members: MemberArgs,
    /// Name of the cluster, recorded in the store.
    #[arg(long)]
    pub name: String,
    /// Namespace of the cluster, recorded in the store.
    #[arg(long, default_value = "")]
    pub namespace: String,
    /// Longest time for which an entry waits before it is written to the store.
    #[arg(long, default_value = "5s", value_parser = span, value_name = "TIME")]
    pub flush_interval: Duration,
    /// Address of /healthz, /metrics and /status.
    #[arg(long, default_value = "0.0.0.0:9090", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub retention: RetentionArgs,
    /// Limit of the bytes per second that are read from the members; 0: none.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub max_bytes_per_second: u64,
    /// A base is taken at least so often; 0: only the first one and after a gap of the log.
    #[arg(long, default_value = "24h", value_parser = span_or_zero, value_name = "TIME")]
    pub base_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// The settled follower with the least lag; the leader only if there is no other member.
    Follower,
    /// The member with the least lag.
    Any,
}

/// When a restore compares two bases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrossCheck {
    Never,
    Always,
    /// With at most 1 GiB of log between the two bases in the store.
    Alternate,
}

#[derive(Debug, Clone, Subcommand)]
pub enum BackupCommand {
    /// Takes a base: the whole state at one index, read from one member.
    Create(CreateArgs),
    /// Lists the clusters in a store with their bases and what can be restored.
    List(ListArgs),
    /// Reads and checks every byte of a cluster's archive.
    Verify(VerifyArgs),
    /// Marks a base as deleted. It is restored no more, and the archiver removes it from the store.
    Delete(DeleteArgs),
    /// Restores a cluster into a blank node, to a moment that the archive has.
    Restore(Box<RestoreArgs>),
    /// Prints a systemd service and timer that take a backup regularly.
    Schedule(ScheduleArgs),
}

#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub members: MemberArgs,
    /// The member to read.
    #[arg(long, value_enum, default_value_t = From::Follower)]
    pub from: From,
    /// Name of the cluster, recorded in the store with its first backup.
    #[arg(long, default_value = "")]
    pub name: String,
    /// Namespace of the cluster, recorded in the store with its first backup.
    #[arg(long, default_value = "", value_name = "NAMESPACE")]
    pub cluster_namespace: String,
    /// Limit of the bytes per second that are read from the member; 0: none.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub max_bytes_per_second: u64,
}

/// Histories in a store: all that fit.
#[derive(Debug, Clone, Default, Args)]
pub struct HistoryArgs {
    /// Name of the cluster, as recorded in the store.
    #[arg(long, value_name = "NAME", conflicts_with = "cluster_id")]
    pub cluster: Option<String>,
    /// Namespace of the cluster, as recorded in the store.
    #[arg(long, value_name = "NAMESPACE", requires = "cluster")]
    pub cluster_namespace: Option<String>,
    /// Id of the cluster.
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<String>,
    /// Incarnation of the cluster: the number of its recoveries from a lost majority.
    #[arg(long, value_name = "NUMBER", requires = "cluster_id")]
    pub incarnation: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub history: HistoryArgs,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub history: HistoryArgs,
    /// Write a report into the store, with which retention always keeps the newest intact base.
    #[arg(long)]
    pub record: bool,
}

#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub history: HistoryArgs,
    /// The base, INDEX-TERM as `list` shows it.
    #[arg(value_parser = base_id)]
    pub base: BaseId,
}

#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("moment").multiple(false))]
#[command(group = clap::ArgGroup::new("source").required(true).args(["cluster", "cluster_id"]))]
pub struct RestoreArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub history: HistoryArgs,
    /// Restore the end of the archive; the default.
    #[arg(long, group = "moment")]
    pub latest: bool,
    /// Restore all writes up to this time, RFC 3339 such as 2026-11-28T21:04:05.250Z, by the log's clock.
    #[arg(long, group = "moment", value_parser = moment, value_name = "TIME")]
    pub time: Option<Moment>,
    /// Restore all writes up to this index of the log.
    #[arg(long, group = "moment")]
    pub index: Option<u64>,
    /// Restore the state of this base, INDEX-TERM, without the log after it.
    #[arg(long, group = "moment", value_parser = base_id, value_name = "INDEX-TERM")]
    pub backup: Option<BaseId>,
    /// Peer address of the blank node (port 7000 by default).
    #[arg(long, required_unless_present = "dry_run", value_name = "HOST:PORT")]
    pub to: Option<String>,
    /// Id of the cluster that is created: another one than that of the archive.
    #[arg(long, required_unless_present = "dry_run", value_name = "ID")]
    pub new_cluster_id: Option<String>,
    /// Number of the caller's lease, recorded with the membership; 0: none.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub fencing_token: u64,
    /// Disk id of the blank node; the restore is refused if the node has another disk.
    #[arg(long, value_name = "ID")]
    pub expected_disk_id: Option<String>,
    /// Plan the restore and check every object that it needs, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Begin at the base before the last one, replay the log through the last one, and compare the two states there: another member
    /// may have written it. `always` fails without two such bases; `alternate` compares if the last restore that was recorded did not.
    #[arg(long, env = "HELIOS_BACKUP_CROSS_CHECK", value_enum, default_value_t = CrossCheck::Never, value_name = "WHEN")]
    pub cross_check: CrossCheck,
    /// Record in the store that the base was restored, and whether with the right state: retention keeps the newest verified base.
    #[arg(long, conflicts_with = "dry_run")]
    pub record: bool,
    /// CA of the members' peer port, PEM; connections then use TLS.
    #[arg(long, value_name = "FILE")]
    pub peer_ca_file: Option<PathBuf>,
    /// Certificate for managing the cluster, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["peer_key_file", "peer_ca_file"])]
    pub peer_cert_file: Option<PathBuf>,
    /// Private key of --peer-cert-file, PEM.
    #[arg(long, value_name = "FILE", requires = "peer_cert_file")]
    pub peer_key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct ScheduleArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub members: MemberArgs,
    /// Time of the backups, as OnCalendar= of systemd.timer has it.
    #[arg(long, default_value = "*-*-* 03:00:00", value_name = "CALENDAR")]
    pub at: String,
    /// File of KEY=VALUE lines with the credentials of the store.
    #[arg(long, default_value = "/etc/helios/backup.env", value_name = "FILE")]
    pub environment_file: PathBuf,
    /// Print the units; the only mode.
    #[arg(long, required = true)]
    pub print: bool,
}

impl StoreArgs {
    pub fn open(&self) -> Result<(Store, Keyring), Failure> {
        Ok((Store::open(&self.store)?, self.keyring()?))
    }

    fn keyring(&self) -> Result<Keyring, Failure> {
        let Some(dir) = &self.key_dir else { return Ok(Keyring::unencrypted()) };
        let failed = |e: std::io::Error| Failure::usage(format!("--key-dir {}: {e}", dir.display()));
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A mounted Secret has `..data` and the like beside its entries.
            if !name.starts_with('.') && entry.path().is_file() {
                entries.push((name, std::fs::read_to_string(entry.path()).map_err(failed)?));
            }
        }
        let keyring =
            Keyring::from_entries(entries.iter().map(|(name, text)| (name.as_str(), text.as_str())))?;
        Ok(if self.accept_unencrypted { keyring.accepting_unencrypted() } else { keyring })
    }
}

impl MemberArgs {
    pub fn connect(&self) -> Result<Members, Failure> {
        let connection = Connection {
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            ca_file: self.tls_ca_file.clone(),
            identity_files: self.tls_cert_file.clone().zip(self.tls_key_file.clone()),
        };
        Members::new(&self.members, connection)
    }
}

impl RetentionArgs {
    pub fn rules(&self) -> Retention {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Retention { keep_for_ms: ms(self.keep_for), keep_last: self.keep_last, log_ms: ms(self.keep_log) }
    }
}

/// A moment in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub u64);

fn moment(text: &str) -> Result<Moment, String> {
    let wrong = || format!("{text:?} is no time; write it as 2026-11-28T21:04:05Z, with a zone");
    let time: Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_millisecond()).map(Moment).map_err(|_| wrong())
}

/// A base as INDEX-TERM: decimal as `list` shows it, or hexadecimal as its folder in the store is named.
fn base_id(text: &str) -> Result<BaseId, String> {
    const FOLDER_DIGITS: usize = 16;
    let wrong = || format!("{text:?} is no base; write INDEX-TERM as `list` shows it, e.g. 1234-5");
    let (index, term) = text.split_once('-').ok_or_else(wrong)?;
    let radix = if index.len() == FOLDER_DIGITS && term.len() == FOLDER_DIGITS { 16 } else { 10 };
    let number = |digits: &str| u64::from_str_radix(digits, radix).map_err(|_| wrong());
    Ok(BaseId { index: number(index)?, term: number(term)? })
}

fn span(text: &str) -> Result<Duration, String> {
    let span = span_or_zero(text)?;
    if span.is_zero() { Err(format!("{text:?} has to be longer than zero")) } else { Ok(span) }
}

/// Parses a duration with its unit: `500ms`, `5s`, `10m`, `24h`, `30d`; `0` needs none.
fn span_or_zero(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write e.g. 500ms, 5s, 10m, 24h or 30d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits.len()..] {
        "" if count == 0 => 1,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    count.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: BackupCommand,
    }

    fn parse(line: &str) -> Result<BackupCommand, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.command)
    }

    #[test]
    fn restore_takes_one_moment_and_one_cluster() {
        let rest = "--to h:7000 --new-cluster-id b --store file:///x";
        for legal in ["--cluster-id a", "--cluster a --latest", "--cluster a --time 2026-11-28T21:04:05.25Z"]
        {
            assert!(parse(&format!("x restore {legal} {rest}")).is_ok(), "{legal}");
        }
        for wrong in
            ["", "--cluster a --cluster-id b", "--cluster-id a --index 3 --latest", "--cluster a --time 5"]
        {
            assert!(parse(&format!("x restore {wrong} {rest}").replace("  ", " ")).is_err(), "{wrong}");
        }
        assert!(parse("x restore --cluster a --store file:///x").is_err());
        assert!(parse("x restore --cluster a --store file:///x --dry-run").is_ok());
    }

    #[test]
    fn archiver_of_the_compose_example_is_started_with_legal_flags() {
        #[derive(Parser)]
        struct Archiver {
            #[command(flatten)]
            args: ArchiveArgs,
        }
        let file = include_str!("../../../examples/compose/backup.yaml");
        let words = file.lines().filter_map(|line| line.trim().strip_prefix("- "));
        let Archiver { args } = Archiver::parse_from(words.skip_while(|word| *word != "archive"));
        assert_eq!(
            (args.members.members.len(), &*args.name, &*args.store.store),
            (3, "compose", "file:///data")
        );
    }

    #[test]
    fn base_is_read_in_decimal_and_as_its_folder_is_named() {
        let id = BaseId { index: 1234, term: 5 };
        assert_eq!(base_id("1234-5"), Ok(id));
        assert_eq!(base_id(&id.to_string()), Ok(id));
        assert!(base_id("1234").is_err() && base_id("a-1").is_err());
    }

    #[test]
    fn duration_needs_a_unit() {
        assert_eq!(span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(span_or_zero("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "-5s", "0s", "5 s", "99999999999999999999d"] {
            assert!(span(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keyring_is_read_from_a_mounted_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("k1"), "ab".repeat(32)).unwrap();
        std::fs::create_dir(dir.path().join("..data")).unwrap();
        std::fs::write(dir.path().join(".hidden"), "no key").unwrap();
        let mut args = StoreArgs {
            store: String::new(),
            key_dir: Some(dir.path().to_owned()),
            accept_unencrypted: false,
        };
        assert_eq!(args.keyring().unwrap().current(), Some("k1"));
        args.key_dir = Some(dir.path().join("missing"));
        assert!(args.keyring().unwrap_err().to_string().contains("--key-dir"));
    }
}
