//! The table of configuration keys: meaning, default, and what a change needs. The reference page is generated from
//! this table, and a test compares the table with the types.

/// Requirement for a changed key to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A reload of the running node.
    Reload,
    /// A restart of the node.
    Restart,
    /// Cannot change: the key belongs to the disk or to the cluster's record of this member.
    Never,
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Never => "never",
        }
    }
}

pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    /// Default as the reference page shows it.
    pub default: &'static str,
    pub change: Change,
    /// Whether the value is redacted wherever it is shown.
    pub is_secret: bool,
    pub meaning: &'static str,
}

impl Key {
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Returns the JSON pointer of the value in the configuration (RFC 6901).
    pub fn pointer(&self) -> String {
        format!("/{}", self.path().replace('.', "/"))
    }
}

const fn key(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    change: Change,
    meaning: &'static str,
) -> Key {
    Key { section, name, default, change, is_secret: false, meaning }
}

const fn secret(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    change: Change,
    meaning: &'static str,
) -> Key {
    Key { section, name, default, change, is_secret: true, meaning }
}

use Change::{Never, Reload, Restart};

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("node", "name", "none, required", Never,
        "Short, stable name, unique in the cluster. Written to the disk at the first start; a disk of another name is \
         refused."),
    key("node", "data_dir", "`./data`", Never,
        "State, snapshots and the disk's identity. Created when missing. One process at a time."),
    key("node", "wal_dir", "empty: `<data_dir>/wal`", Never,
        "The write-ahead log. A dedicated disk improves write latency."),
    key("node", "bootstrap", "`static` with `initial_members`, else `operator`", Restart,
        "How a node that belongs to no cluster joins or bootstraps one. `operator`: waits for the operator, or a user through \
        the API. `static`: bootstraps a cluster with `initial_members`. `single`: bootstraps a single-node cluster. No \
        effect once the disk belongs to a cluster."),
    key("node", "initial_members", "empty", Never,
        "List of `{name, address}`, `address` being host:port of the peer service. The same list on every node; a \
        node may omit itself. Nodes with different lists refuse each other."),
    key("node", "advertise_addr", "`listen.peer`", Never,
        "host:port at which the other members reach this one; a DNS name is resolved at each connect. If \
        `listen.peer` is on every interface, the default is `127.0.0.1` and its port."),
    key("node", "advertise_client_addr", "`listen.client`", Restart,
        "host:port at which clients reach this member, recorded in the membership."),
    key("listen", "client", "`127.0.0.1:6379`", Restart,
        "Redis protocol."),
    key("listen", "peer", "`127.0.0.1:7000`", Restart,
        "Members and cluster management, gRPC. Everyone who reaches it may change the cluster, unless `tls.peer` is set: then \
        only with a certificate of its CA."),
    key("listen", "grpc", "`127.0.0.1:50051`", Restart,
        "Key-value service for gRPC clients. With users or `client.password` it asks for \
         `authorization: Basic <user:password>`."),
    key("listen", "metrics", "`127.0.0.1:9090`", Restart,
        "`/metrics`, `/livez`, `/readyz`, `/healthz`, `/primary`, `/replica`."),
    key("listen", "gateway", "`127.0.0.1:8443`", Restart,
        "HTTP and JSON. Off loopback only with `gateway.token`, `gateway.token_file` or `auth.users_file`."),
    key("raft", "preset", "`lan`", Restart,
        "Heartbeat interval, minimum and maximum of the election timeout: `fast` 30, 150, 300 ms; `lan` 100, 300, 600 ms; \
        `wan` 500, 2500, 5000 ms."),
    key("raft", "heartbeat_interval", "by preset", Restart,
        "At least 10 ms and below `election_timeout_min`; a third to a fifth of it works well."),
    key("raft", "election_timeout", "none", Restart,
        "Shorthand: minimum X, maximum 2X."),
    key("raft", "election_timeout_min", "by preset", Restart,
        "Least time without a heartbeat after which a follower campaigns; each attempt draws a random time between minimum and \
        maximum."),
    key("raft", "election_timeout_max", "by preset", Restart,
        "Above the minimum."),
    key("raft", "priority", "`0`", Restart,
        "From 0 to 100. A leader transfers leadership to a voter with a higher priority as soon as that voter is caught up and its \
        disk is healthy. For a member on a better machine or nearer to the clients; it decides no election, and costs a transfer \
        when that member returns."),
    key("raft", "snapshot_entries", "`10000`", Restart,
        "Entries after which a snapshot is due, once the log has also grown by the size of the last snapshot or by 32 \
         MiB ([why](../adr/0002-log-and-state.md)). 64 MiB of log make one due in any case."),
    key("raft", "snapshot_interval", "`5m`", Restart,
        "Age after which a snapshot is due if there is any new entry."),
    key("raft", "trailing_entries", "`1000`", Restart,
        "Entries kept before the newest snapshot, for followers that lag a little, up to 32 MiB. A leader keeps more on \
        disk for a member that is behind and was heard of in the last ten minutes, up to `max_retained_log_bytes`, and after a snapshot that is being \
        sent until the member has installed it, up to 256 MiB in any case."),
    key("raft", "snapshot_bytes_per_second", "`0`: no limit", Restart,
        "Bandwidth limit of all snapshots that a member sends, bytes: 65536 or more. Snapshots have a separate \
        connection and delay no heartbeat, so the limit protects others on the network; a member that lost its disk \
        waits longer with it."),
    key("raft", "max_log_bytes", "512 MiB, or an eighth of the memory limit of the container if that is less, 32 MiB at least", Restart,
        "Limit of the log in memory, bytes: 33554432 or more. In memory are the entries that wait for the disk, for other \
        members or to be applied, and a cache of 32 MiB of the last ones, or of a quarter of this limit. From half of it on a \
        leader takes writes more slowly, at it none (`OVERLOADED`) but those that free room; a follower takes no entries \
        beyond 1.25 times as much. A snapshot is due at an eighth of it at the latest, or 64 MiB."),
    key("raft", "max_retained_log_bytes", "`1073741824`, or a tenth of the volume of the log if that is less", Restart,
        "Limit of the log that a leader keeps on disk for members that are behind and were heard of in the last ten minutes, bytes. They get the \
        entries from disk, and a snapshot only if they are further behind. With the engine `runs` \
        no more is kept than a sixteenth of the state, or 128 MiB if that is more: a snapshot takes less time then. While the disk is full, 32 MiB are kept."),
    key("raft", "segment_bytes", "`67108864`", Restart,
        "Size of a WAL segment: a multiple of 4096, from 4 MiB to 1 GiB. At least three are kept. The limit of one entry \
        is a quarter of it, at most 8 MiB."),
    key("state", "engine", "with `bootstrap: operator` `sled`, which operators leave out; else that of the volume, and `runs` for a new one", Restart,
        "Engine of the applied state on disk: `runs`, `sled` or `redb`. Members may differ. After a change the next \
        start converts the state, which reads all of it, before the member serves; a kill in between keeps the old one. \
        Builds without `runs` cannot open a converted volume: write the old engine back first."),
    key("state", "cache_bytes", "a quarter of the memory limit of the container, 16 MiB to 1 GiB; 128 MiB without a limit",
        Restart, "Limit of the engine's cache, bytes: 8388608 or more."),
    key("state", "max_overlay_bytes", "256 MiB, or three sixteenths of the memory limit of the container if that is less, 64 MiB at least", Restart,
        "Limit of applied state that is in memory until a checkpoint writes it to disk, bytes: 67108864 or more. From \
         half of it on a leader takes writes more slowly, at it none (`OVERLOADED`) but those that free room; beyond 1.25 \
         times as much committed writes wait to be applied."),
    key("state", "scrub_bytes_per_second", "`8388608`", Restart,
        "Bandwidth of the scrub, bytes: 65536 or more; 0: no scrub. With the engine `runs` a member reads and checks all files of its \
         state in the background, at most once an hour, so that damage in a block that no client reads is found while \
         other members have the data."),
    key("client", "request_timeout", "`5s`", Reload,
        "Deadline of a request, elections included. A write that was proposed and is undecided by then is \
        answered with \"outcome unknown\"."),
    key("client", "shutdown_delay", "`0ms`", Reload,
        "Time for which a stopping node still serves and is not ready, so that load balancers stop sending clients before \
        it closes its ports."),
    key("client", "max_connections", "`10000`", Restart,
        "Limit of Redis connections; a further one is answered with an error and closed."),
    key("client", "idle_timeout", "`0ms`", Reload,
        "Time without a request after which a Redis connection is closed, as Redis's `timeout`; `0ms`: never. A client that \
        subscribes to channels or blocks in a command is not idle. A new value applies to open connections, too."),
    key("client", "auth_timeout", "`30s`", Restart,
        "Time for a Redis connection to authenticate, where that is required, and to complete its first command. \
        Then it is closed."),
    key("client", "write_timeout", "`60s`", Restart,
        "Time in which a Redis client with waiting replies has to read some of them before its connection is closed; `0ms`: no \
        limit."),
    key("client", "output_buffer_limit", "256 MiB, or a sixteenth of the memory limit of the container if that is less, 8 MiB at least", Restart,
        "Limit of unsent replies of one Redis connection, bytes, 1048576 or more: the hard limit of Redis's \
         `client-output-buffer-limit normal`. A larger reply is answered with an error, and a connection over the limit is \
         closed."),
    key("client", "output_buffer_soft_limit", "`67108864`", Restart,
        "Limit of unsent replies that one Redis connection may exceed for `output_buffer_soft_seconds` before it is closed, bytes; \
        0: no such limit."),
    key("client", "output_buffer_soft_seconds", "`60`", Restart,
        "Seconds, see `output_buffer_soft_limit`."),
    key("client", "pubsub_output_buffer_limit", "`33554432`", Restart,
        "Limit of unread messages of one subscriber before its connection is closed, bytes, 1048576 or more: the hard \
         limit of Redis's `client-output-buffer-limit pubsub`."),
    key("client", "maxmemory_clients", "512 MiB, or an eighth of the memory limit of the container if that is less, 16 MiB at least", Restart,
        "Limit of what all Redis connections hold together, bytes: unsent replies, unread messages, and requests that are not \
        complete or queued by `MULTI`, as Redis's `maxmemory-clients`. Over it, the connection that holds most is closed. \
        No less than `output_buffer_limit`."),
    key("client", "reported_role", "`writable`", Reload,
        "Role that `INFO replication`, `ROLE` and `HELLO` report for a follower. `writable`: `master`, as it takes \
        writes and forwards them; clients that write to masters only work at any member. `raft`: `slave` with the \
        leader's address, for clients that follow roles to the leader. With `writes.on_follower: redirect` it is \
        `slave` in any case."),
    key("client", "notify_keyspace_events", "empty: none", Restart,
        "Which changes of keys this node publishes to its Redis clients, in Redis's letters: `KEA` is all of them on both \
         kinds of channels, `Ex` expired keys only. `CONFIG SET notify-keyspace-events` changes it until the next start."),
    secret("client", "password", "none", Restart,
        "Password of the user `default`, an admin: Redis clients send it with `AUTH` or `HELLO`, others with `authorization: \
        Basic`. Optional with `auth.users_file`."),
    key("client", "protected_mode", "`true`", Restart,
        "As in Redis: while there is no `client.password` and no `auth.users_file`, and `tls.client.ca_file` asks for no \
         certificates, clients of other hosts are refused with `-DENIED`, HTTP 403 or gRPC PERMISSION_DENIED, and clients of \
         this host are served. `false` allows everyone who reaches the ports. Also `HELIOS_PROTECTED_MODE`, which versions \
         without protected mode ignore."),
    key("reads", "lease", "`off`", Restart,
        "Time after a heartbeat round to a majority in which the leader may answer reads of level `LEASE` without another: `off`, \
        `on` (250 ms, or less where the election timeout requires it) or a duration. At most (`election_timeout_min` \
        - 40 ms) x 0.999 - 10 ms: 249 ms with `lan`, 99 ms with `fast`; more is refused. A lease assumes that clocks \
        drift apart by less than one part in a thousand. Leave it off where machines are suspended or virtual \
        machines are restored while they run."),
    key("reads", "max_elements", "`2097152`", Restart,
        "Limit of elements that one read visits: keys, fields, members. More is refused with `BUDGET_EXCEEDED`. Writes have \
        separate limits, which are fixed ([limits](limits.md))."),
    key("reads", "max_bytes", "256 MiB, or a sixteenth of the memory limit of the container if that is less, 16 MiB at least", Restart,
        "Limit of what one read visits and answers, bytes, with about 100 for each element. Two reads at once may use this much \
        memory each; lower it for a member with a small memory limit."),
    key("writes", "ack", "`majority`", Reload,
        "Voters that have to hold a write on disk before it is acknowledged: `majority`, or `all`, with which any single disk \
        that is left holds every acknowledged write. A request may ask for more, never for less. The write commits \
        at a majority in any case."),
    key("writes", "strict", "`true`", Reload,
        "With `ack: all` and a voter down: `true` refuses writes at once (`INSUFFICIENT_REPLICAS`, `-NOREPLICAS`), \
         `false` lets them commit and, if the voter is not back within `request_timeout`, answers \
         `REPLICATION_SHORTFALL`. With `all`, no voter can fail without stopping acknowledgements."),
    key("writes", "on_follower", "`forward`", Reload,
        "Handling of writes on a follower: `forward` forwards it to the leader, `redirect` refuses it \
         with the leader's name and address (`NOT_LEADER`, `-READONLY`), for clients that choose the leader themselves."),
    secret("gateway", "token", "none", Reload,
        "Token that HTTP clients have to send as `Authorization: Bearer <token>`; `/livez`, `/readyz` and `/healthz` answer \
        without it. Without a token the gateway listens on loopback only, and answers requests for `localhost` or a loopback \
        address only."),
    key("archive", "hold", "`268435456`", Reload,
        "Limit of the log that a member keeps on disk for archivers that are behind, bytes; 0: none. An archiver that is further behind needs \
         a new base. The limit counts from the archiver's next request on, a few seconds later. While the disk is full, nothing is kept."),
    key("gateway", "token_file", "empty", Restart,
        "A file with the token, instead of `token`. A changed token applies from the next request on."),
    key("gateway", "prefix", "empty", Restart,
        "Path prefix of all routes, for instance `/helios`."),
    key("tls", "peer.cert_file", "empty", Restart,
        "Certificate of this member, PEM, with the intermediate certificates. It has to name the host of \
        `node.advertise_addr`, and to allow server and client use (serverAuth, clientAuth)."),
    key("tls", "peer.key_file", "empty", Restart,
        "Its private key, PEM."),
    key("tls", "peer.ca_file", "empty", Restart,
        "The CA of all members, PEM: only its certificates are accepted. Several while the CA is rotated."),
    key("tls", "client.cert_file", "empty", Restart,
        "Certificate for the ports `client`, `grpc` and `gateway`, PEM: with it they speak TLS only."),
    key("tls", "client.key_file", "empty", Restart,
        "Its private key, PEM."),
    key("tls", "client.ca_file", "empty", Restart,
        "CA of client certificates, PEM: with it clients have to present a certificate of this CA."),
    key("tls", "management", "`auto`", Restart,
        "Which certificates of `tls.peer.ca_file` may change the cluster over the peer port. `auto`: all, but no member's \
        once one for the DNS name `management.heliosdb.io` has called this process. `required`: only one for that name \
        (`heliosctl certs create --admin`). Calls among members, and `Status`, need any certificate of the CA."),
    key("auth", "users_file", "empty", Restart,
        "YAML: `users: [{name, password_sha256, role, previous_password_sha256, prefixes}]`, `role` being `read-only`, \
         `read-write`, `backup` or `admin`, `password_sha256` 64 hexadecimal digits (`sha256sum` of the password without a line \
         end). With `previous_password_sha256` a second password is valid; with `prefixes` the user may access keys and channels \
         that begin with one of them, and nothing that reveals others. A second list, `clients`, has the same form and is kept by \
         the operator. Other users are rejected."),
    key("auth", "max_delay", "`2s`", Restart,
        "Longest delay after wrong passwords. They delay further attempts of their address (an IPv6 /64 counts as one): not the \
        first four, then by 100 ms, doubled with each, up to this; at most `10s`. An attempt whose turn is more than 10 s away is \
        answered `OVERLOADED`. `0ms` turns the delay off, for instance where a balancer hides the clients' addresses."),
    key("log", "level", "`info`", Reload,
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `helios=debug,warn`. A malformed filter \
        counts as `info`."),
    key("log", "format", "`text`", Restart,
        "`text` or `json`, on standard error."),
    key("log", "dir", "empty", Restart,
        "Directory of `<node.name>.log`, a copy of the log in the same format. The file is appended to and never \
        renamed; rotate it by copying and truncating (logrotate's `copytruncate`). If the disk is too slow, lines \
        are dropped from the file rather than waited for."),
];

/// Paths of all keys, such as `raft.preset`.
pub fn paths() -> impl Iterator<Item = String> {
    KEYS.iter().map(Key::path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Config;

    #[test]
    fn the_key_table_matches_the_configuration_types() {
        let value = serde_json::to_value(Config::default()).unwrap();
        let mut of_types = BTreeSet::new();
        fn walk(path: &str, value: &serde_json::Value, found: &mut BTreeSet<String>) {
            match value.as_object() {
                Some(fields) => fields.iter().for_each(|(name, value)| {
                    walk(
                        &if path.is_empty() { name.clone() } else { format!("{path}.{name}") },
                        value,
                        found,
                    );
                }),
                None => drop(found.insert(path.to_owned())),
            }
        }
        walk("", &value, &mut of_types);
        let of_table: BTreeSet<_> = KEYS.iter().map(Key::path).collect();
        assert_eq!(of_table, of_types);
        assert_eq!(of_table.len(), KEYS.len(), "a key is listed twice");
    }

    #[test]
    fn defaults_in_the_types_match_the_key_table() {
        let value = serde_json::to_value(Config::default()).unwrap();
        for key in KEYS {
            let default = match value.pointer(&key.pointer()).unwrap() {
                serde_json::Value::String(text) if !text.is_empty() => text.clone(),
                serde_json::Value::Number(number) => number.to_string(),
                serde_json::Value::Bool(yes) if key.name != "lease" => yes.to_string(),
                _ => continue,
            };
            assert_eq!(key.default, format!("`{default}`"), "{}", key.path());
        }
    }
}
