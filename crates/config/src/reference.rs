//! The reference page of the configuration, `docs/reference/config.md`, rendered from the table of keys.

use std::fmt::Write;

use super::keys::KEYS;

const HEAD: &str = "\
# Configuration of heliosd

<!-- Generated from the table of keys by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-config reference`. -->

One YAML file, then environment variables, then flags; what comes later wins. Every key may be left out but `node.name`. An unknown
key, a value of the wrong kind, or two values that contradict each other end the process with one line on standard error and exit
code 78, before anything on disk is touched.

```sh
heliosd --config heliosd.yaml
heliosd config check --config heliosd.yaml    # prints the first error, or that the configuration can be used; starts nothing
heliosd config print --config heliosd.yaml    # file, environment and flags as one file, without secrets
```

The file is `--config`, or what `CONFIG_PATH` names. Key `a.b` is `HELIOS__A__B` in the environment (`HELIOS__RAFT__PRESET=wan`). Lists
can be given in the file only. Durations are digits and `ms`, `s`, `m` or `h`; sizes are bytes.

## Changes while a node runs

A node reads its configuration again when the file changes (a ConfigMap's update included), on SIGHUP and on `POST /config/reload`.
The column *change* says what a new value needs:

- **reload**: it takes effect at once;
- **restart**: it is reported, and takes effect at the next start;
- **never**: it belongs to the disk, or to the cluster's record of this member. As long as one of these differs, or the configuration
  is rejected for any other reason, none of the changes is applied, and the node continues with its current configuration.

`GET /config` shows what the node runs with, `GET /config/diff` what a reload would do. Each shows `***` in place of a secret. A change of
a variable of the environment, or of a flag, needs a new process.
";

/// Sections of the page: name, text before its keys, text after them.
const SECTIONS: [(&str, &str, &str); 12] = [
    ("node", "", ""),
    ("listen", "Each is host:port; `:port` means every interface. Empty turns the service off (`peer` cannot be).", "The defaults of the last three move with the client port: a node with `client: :6380` has them at 50052, 9091 and 8444, one with `client: :7001`
at 50673, 9712 and 9065; a port that would be above 65535 wraps around to 1024. So several nodes on one host need no more than a client and a peer
address each."),
    ("raft", "", "Every member should have the same values. Raise the timeouts when elections repeat without a failed member: one second is a safe
`election_timeout`."),
    ("state", "", ""),
    ("client", "", ""),
    ("reads", "", "Reads that do not ask for `LEASE` are linearizable with or without it. Whatever is set here, a member that has just started grants no vote and
starts no election for `election_timeout_min`: it may have acknowledged a lease to a leader before it stopped."),
    ("writes", "", "Limits that are not configured: a key, a field of a hash and a member of a set of 64 KiB, a write of 8 MiB (or a quarter of `segment_bytes`; `heliosd dev` has 4 MiB), a Redis request
of 16 MiB with all its arguments."),
    ("archive", "What a member does for the archiver of its cluster, which stores backups.", ""),
    ("gateway", "", ""),
    ("tls", "The files are watched: a node reloads a new certificate, key or CA automatically, for new connections. Files that do not
match each other are rejected with one line in the log, and the node keeps the current ones.", "Among members TLS is on for all of them or for none. To rotate a CA without downtime: a `ca_file` with the old and the new one on every
member, then certificates of the new CA, then a `ca_file` with the new one only. `heliosctl certs create` makes certificates."),
    ("auth", "Without users and without `client.password` everyone may do everything.", "The file is watched and reloaded. A Redis connection whose user was removed, or has another password or role, has to authenticate again. `read-only` may run
commands without the flags `write` and `admin`, `read-write` also those with `write`, but for FLUSHALL and FLUSHDB, `admin` all of them. The
same counts for HTTP and gRPC; only an admin may change the cluster. `backup` is `read-only` and may call the gRPC service `Archive`, which hands out the whole
state and the log, as may `admin`. A request with the gateway's token has the role `admin`."),
    ("log", "", "The variables `LOG_LEVEL` and `LOG_DIR` win over the file, and `HELIOS__LOG__LEVEL`, `HELIOS__LOG__DIR` over all. `heliosd dev` takes no file: its level is `LOG_LEVEL`, `warn` when unset."),
];

const TAIL: &str = "\
## Flags

| flag | key |
|---|---|
| `--config FILE` | |
| `--data-dir` | `node.data_dir` |
| `--raft-node-id` | `node.name` |
| `--raft-addr` | `listen.peer`; and `node.advertise_addr`, unless it is on every interface |
| `--raft-data-dir` | `node.wal_dir` |
| `--listen` | `listen.client` |
| `--grpc-listen`, `--metrics-listen`, `--gateway-listen` | `listen.grpc`, `listen.metrics`, `listen.gateway` |
| `--raft` | none; `true` is accepted, `false` is refused |

One dash means the same as two. `HELIOS_RAFT_PEERS=id:host:port,...` replaces `node.initial_members`.

## Files of earlier documents

A file with a section `atlas` is read in the earlier documents' form and translated: `atlas.{data_dir, listen, snapshot_interval_cmds,
snapshot_interval_time}`, `atlas.raft.{node_id, bind_addr, data_dir, heartbeat_timeout, election_timeout, snapshot_threshold, peers}`,
`gateway.listen`, `observability.{log_level, metrics_enabled, metrics_port}`. Such a file does not set the client port: it is as far from 6379
as the peer port is from 7000. Without `HELIOS__GATEWAY__TOKEN` a gateway for every interface listens on loopback only, with a warning. `atlas.aof_fsync` is accepted and
changes nothing: every acknowledged write is synced. `atlas.raft.enabled: false` is refused, and so is any other key.

## Exit codes

| code | meaning |
|---|---|
| 0 | ended by SIGTERM or SIGINT |
| 78 | configuration, command line, a port in use, or a disk of another node or cluster |
| 74 | the disk, the log or the state cannot be used |
| 1 | anything else |
";

/// Renders the page in Markdown.
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    for (section, before, after) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "\n## {section}\n");
        if !before.is_empty() {
            let _ = writeln!(page, "{before}\n");
        }
        page += "| key | default | change | meaning |\n|---|---|---|---|\n";
        for key in KEYS.iter().filter(|key| key.section == section) {
            let (name, default, change, meaning) = (key.name, key.default, key.change.name(), key.meaning);
            let _ = writeln!(page, "| `{name}` | {default} | {change} | {meaning} |");
        }
        if !after.is_empty() {
            let _ = writeln!(page, "\n{after}");
        }
    }
    page + "\n" + TAIL
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HELIOS_UPDATE_DOCS=1` writes the page instead.
    #[test]
    fn the_page_in_the_repository_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.md");
        let page = render();
        if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert!(current == page, "config.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference");
    }

    #[test]
    fn every_section_of_the_table_is_on_the_page() {
        for key in KEYS {
            assert!(SECTIONS.iter().any(|(section, ..)| *section == key.section), "{}", key.path());
        }
    }
}
