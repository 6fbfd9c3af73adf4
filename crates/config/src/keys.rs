//! The table of all configuration keys: meaning, default, and what a change needs. The reference page is
//! rendered from this table; a test compares the table with the types.

/// Effect of a changed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Reloaded by a running node.
    Reload,
    /// Takes effect at the next start.
    Restart,
    /// Belongs to the disk or to the cluster's record of this member: another value is another node.
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
    /// The default as the reference page shows it.
    pub default: &'static str,
    pub change: Change,
    /// The value is never shown.
    pub is_secret: bool,
    pub meaning: &'static str,
}

impl Key {
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// JSON pointer to its value in the configuration (RFC 6901).
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
        "The write-ahead log. A disk of its own pays off."),
    key("node", "bootstrap", "`static` with `initial_members`, else `operator`", Restart,
        "How a node that belongs to no cluster comes to one. `operator`: waits to be told, by the operator or through \
         the API. `static`: begins together with `initial_members`. `single`: begins a cluster of its own. Without \
         effect once the disk belongs to a cluster."),
    key("node", "initial_members", "empty", Never,
        "List of `{name, address}`, `address` being host:port of the peer service. The same list on every node; a \
         node may leave itself out of its own. Nodes with different lists refuse each other."),
    key("node", "advertise_addr", "`listen.peer`", Never,
        "host:port at which the other members reach this one; a DNS name is looked up at each connect. If \
         `listen.peer` is on every interface, `127.0.0.1` and its port."),
    key("node", "advertise_client_addr", "`listen.client`", Restart,
        "host:port at which clients reach this member, recorded in the membership."),
    key("listen", "client", "`127.0.0.1:6379`", Restart,
        "Redis protocol."),
    key("listen", "peer", "`127.0.0.1:7000`", Restart,
        "Members and cluster management, gRPC. Whoever reaches it may change the cluster, unless `tls.peer` is set: then \
         only with a certificate of its CA."),
    key("listen", "grpc", "`127.0.0.1:50051`", Restart,
        "Key-value service for gRPC clients. With users or `client.password` it asks for \
         `authorization: Basic <user:password>`."),
    key("listen", "metrics", "`127.0.0.1:9090`", Restart,
        "`/metrics`, `/livez`, `/readyz`, `/healthz`, `/primary`, `/replica`."),
    key("listen", "gateway", "`127.0.0.1:8443`", Restart,
        "HTTP and JSON. Off loopback only with `gateway.token`, `gateway.token_file` or `auth.users_file`."),
    key("raft", "preset", "`lan`", Restart,
        "Heartbeat, and election timeout from and below: `fast` 30, 150, 300 ms; `lan` 100, 300, 600 ms; `wan` 500, \
         2500, 5000 ms."),
    key("raft", "heartbeat_interval", "by preset", Restart,
        "At least 10 ms and below `election_timeout_min`; a third to a fifth of it works well."),
    key("raft", "election_timeout", "none", Restart,
        "Shorthand: minimum X, maximum 2X."),
    key("raft", "election_timeout_min", "by preset", Restart,
        "Least silence after which a follower stands for election; each attempt draws a time between both."),
    key("raft", "election_timeout_max", "by preset", Restart,
        "Above the minimum."),
    key("raft", "priority", "`0`", Restart,
        "From 0 to 100. A leader hands over to a voter with a higher one as soon as that one is caught up and its disk well. For a \
         member on a better machine or nearer to the clients; it decides no election, and costs a handover when that member \
         returns."),
    key("raft", "snapshot_entries", "`10000`", Restart,
        "Entries after which a snapshot is due, once the log has also grown by the size of the last snapshot or by 32 \
         MiB ([why](../adr/0002-log-and-state.md)). 64 MiB of log make one due in any case."),
    key("raft", "snapshot_interval", "`5m`", Restart,
        "Age after which a snapshot is due if there is any new entry."),
    key("raft", "trailing_entries", "`1000`", Restart,
        "Entries kept before the newest snapshot, for followers that lag a little. A leader keeps more for a member \
         that answers and is behind, up to 32 MiB, and for one that a snapshot is on its way to, up to 256 MiB."),
    key("raft", "snapshot_bytes_per_second", "`0`: no limit", Restart,
        "What all snapshots that a member sends may take of the network together, bytes: 65536 or more. Snapshots \
         have a connection of their own and delay no heartbeat, so a limit is for who shares the network; it makes a \
         member that lost its disk wait longer."),
    key("raft", "max_log_bytes", "`536870912`", Restart,
        "Of the log, held in memory until a snapshot frees it, bytes: 33554432 or more. From half of it on a leader takes \
         writes more slowly, at it none (`OVERLOADED`) but those that free room; a follower takes no entries beyond 1.25 \
         times as much. A snapshot is due at an eighth of it at the latest, or 64 MiB."),
    key("raft", "segment_bytes", "`67108864`", Restart,
        "Size of a file of the log: a multiple of 4096, from 4 MiB to 1 GiB. At least three are kept. One entry may \
         have a quarter of it, at most 8 MiB."),
    key("state", "engine", "`sled`", Restart,
        "What holds the applied state on disk: `sled` or `redb`. Members may differ. After a change the next start \
         builds the state anew from snapshot and log."),
    key("state", "max_overlay_bytes", "`268435456`", Restart,
        "Of applied state that is not on disk yet, held in memory until a checkpoint writes it, bytes: 67108864 or more. From \
         half of it on a leader takes writes more slowly, at it none (`OVERLOADED`) but those that free room; beyond 1.25 \
         times as much committed writes wait to be applied."),
    key("client", "request_timeout", "`5s`", Reload,
        "How long a request may take, elections included. A write that was proposed and not decided by then is \
         answered with \"outcome unknown\"."),
    key("client", "shutdown_delay", "`0ms`", Reload,
        "How long a stopping node still serves, no longer ready, so that load balancers stop sending clients before \
         it closes its ports."),
    key("client", "max_connections", "`10000`", Restart,
        "Redis connections; one more is told so and closed."),
    key("client", "idle_timeout", "`0ms`", Reload,
        "How long a Redis connection may send nothing before it is closed, as Redis's `timeout`; `0ms`: for ever. Who \
         listens to channels or waits for an element is not idle. A new value counts for connections that are open, too."),
    key("client", "auth_timeout", "`30s`", Restart,
        "How long a Redis connection may take to authenticate, where that is asked for, and to complete its first command. \
         Then it is closed."),
    key("client", "write_timeout", "`60s`", Restart,
        "How long a Redis client may take none of the replies that wait for it before its connection is closed; `0ms`: for \
         ever."),
    key("client", "output_buffer_limit", "`268435456`", Restart,
        "Bytes of replies that one Redis connection may have unsent, 1048576 or more: the hard limit of Redis's \
         `client-output-buffer-limit normal`. A larger reply is answered with an error, and a connection over the limit is \
         closed."),
    key("client", "output_buffer_soft_limit", "`67108864`", Restart,
        "Bytes of replies that one Redis connection may have unsent for `output_buffer_soft_seconds` before it is closed; 0: \
         no such limit."),
    key("client", "output_buffer_soft_seconds", "`60`", Restart,
        "Seconds, see `output_buffer_soft_limit`."),
    key("client", "pubsub_output_buffer_limit", "`33554432`", Restart,
        "Bytes of messages that one subscriber may have unread before its connection is closed, 1048576 or more: the hard \
         limit of Redis's `client-output-buffer-limit pubsub`."),
    key("client", "maxmemory_clients", "`536870912`", Restart,
        "Bytes that all Redis connections together may hold in unsent replies, unread messages and requests that are not \
         complete or queued by `MULTI`, as Redis's `maxmemory-clients`. Over it, the connection that holds most is closed. \
         No less than `output_buffer_limit`."),
    key("client", "reported_role", "`writable`", Reload,
        "What `INFO replication`, `ROLE` and `HELLO` say of a member that does not lead. `writable`: `master`, as it takes \
         writes and sends them on; clients that write to masters only work at any member. `raft`: `slave` with the \
         leader's address, for clients that follow roles to the leader. With `writes.on_follower: redirect` it is \
         `slave` in any case."),
    key("client", "notify_keyspace_events", "empty: none", Restart,
        "Which changes of keys this node publishes to its Redis clients, in Redis's letters: `KEA` is all of them on both \
         kinds of channels, `Ex` expired keys only. `CONFIG SET notify-keyspace-events` changes it until the next start."),
    secret("client", "password", "none", Restart,
        "Of the user `default`, an admin: asked of Redis clients by `AUTH` or `HELLO`, of the others by `authorization: \
         Basic`. Whoever has `auth.users_file` may leave it out."),
    key("client", "protected_mode", "`true`", Restart,
        "As in Redis: while there is no `client.password` and no `auth.users_file`, and `tls.client.ca_file` asks for no \
         certificates, clients of other hosts are refused with `-DENIED`, HTTP 403 or gRPC PERMISSION_DENIED, and clients of \
         this host are served. `false` lets everyone in who reaches the ports. Also `HELIOS_PROTECTED_MODE`, which versions \
         without protected mode ignore."),
    key("reads", "lease", "`off`", Restart,
        "How long after a round to a majority the leader may answer reads of level `LEASE` without another: `off`, \
         `on` (250 ms, or less where the election timeout asks for it) or a duration. At most (`election_timeout_min` \
         - 40 ms) x 0.999 - 10 ms: 249 ms with `lan`, 99 ms with `fast`; more is refused. A lease trusts that clocks \
         drift apart by less than one part in a thousand. Leave it off where machines are suspended or virtual \
         machines are restored while they run."),
    key("reads", "max_elements", "`2097152`", Restart,
        "Elements that one read may visit: keys, fields, members. More is refused with `BUDGET_EXCEEDED`. A write has limits \
         of its own, which are fixed ([limits](limits.md))."),
    key("reads", "max_bytes", "`268435456`", Restart,
        "Bytes that one read may visit and answer, with about 100 for each element. Two reads at once may use so much \
         memory; a member with a small limit wants less."),
    key("writes", "ack", "`majority`", Reload,
        "Voters that hold a write on disk before it is acknowledged: `majority`, or `all`, with which any single disk \
         that is left holds every acknowledged write. A request may ask for more, never for less. The write commits \
         at a majority in any case."),
    key("writes", "strict", "`true`", Reload,
        "With `ack: all` and a voter down: `true` refuses writes at once (`INSUFFICIENT_REPLICAS`, `-NOREPLICAS`), \
         `false` lets them commit and, if the voter is not back within `request_timeout`, answers \
         `REPLICATION_SHORTFALL`. With `all`, no voter can fail without stopping acknowledgements."),
    key("writes", "on_follower", "`forward`", Reload,
        "What a member that does not lead does with a write: `forward` sends it on to the leader, `redirect` refuses it \
         with the leader's name and address (`NOT_LEADER`, `-READONLY`), for clients that choose the leader themselves."),
    secret("gateway", "token", "none", Reload,
        "Asked of HTTP clients as `Authorization: Bearer <token>`; `/livez`, `/readyz` and `/healthz` answer without \
         it. Without a token the gateway listens on loopback only, and answers as `localhost` or a loopback address \
         only."),
    key("gateway", "token_file", "empty", Restart,
        "A file with the token, instead of `token`. A new text counts from the next request on."),
    key("gateway", "prefix", "empty", Restart,
        "Path that all routes begin with, for instance `/helios`."),
    key("tls", "peer.cert_file", "empty", Restart,
        "Certificate of this member, PEM, with those between it and the CA. It has to name the host by which others \
         reach this one (`node.advertise_addr`), and to be for servers and clients (serverAuth, clientAuth)."),
    key("tls", "peer.key_file", "empty", Restart,
        "Its private key, PEM."),
    key("tls", "peer.ca_file", "empty", Restart,
        "The CA of all members, PEM: only certificates of it are let in. Several while a CA is replaced."),
    key("tls", "client.cert_file", "empty", Restart,
        "Certificate for the ports `client`, `grpc` and `gateway`, PEM: with it they speak TLS only."),
    key("tls", "client.key_file", "empty", Restart,
        "Its private key, PEM."),
    key("tls", "client.ca_file", "empty", Restart,
        "With it clients have to show a certificate of this CA, PEM."),
    key("tls", "management", "`auto`", Restart,
        "Whose certificate of `tls.peer.ca_file` may change the cluster over the peer port. `auto`: anyone's, but no member's \
         once one for the DNS name `management.heliosdb.io` has called this process. `required`: only one for that name \
         (`heliosctl certs create --admin`). Members among themselves, and `Status`, need no more than a certificate."),
    key("auth", "users_file", "empty", Restart,
        "YAML: `users: [{name, password_sha256, role}]`, `role` being `read-only`, `read-write` or `admin`, \
         `password_sha256` 64 hexadecimal digits (`sha256sum` of the password without a line end). Who is not in it is not \
         let in."),
    key("auth", "max_delay", "`2s`", Restart,
        "Wrong passwords delay further attempts of their address (an IPv6 /64 counts as one): not the first four, then by \
         100 ms, doubled with each, up to this; `10s` is the most. An attempt whose turn is more than 10 s away is answered \
         `OVERLOADED`. `0ms` turns the delay off, for instance where a balancer hides the clients' addresses."),
    key("log", "level", "`info`", Reload,
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `helios=debug,warn`. A filter that \
         cannot be read counts as `info`."),
    key("log", "format", "`text`", Restart,
        "`text` or `json`, on standard error."),
    key("log", "dir", "empty", Restart,
        "Directory of `<node.name>.log`, which gets every line as well, in the same format. It is appended to and never \
         renamed; rotate it by copying and truncating (logrotate's `copytruncate`). Where the disk is too slow for it, lines \
         are left out of the file rather than waited for."),
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
    fn the_table_has_every_key_of_the_types_and_no_other() {
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
        assert_eq!(of_table.len(), KEYS.len(), "a key is there twice");
    }

    #[test]
    fn a_default_in_the_types_is_the_one_in_the_table() {
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
