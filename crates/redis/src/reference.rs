//! The reference page of commands, `docs/reference/commands.md`, rendered from the table.

use std::fmt::Write;

use super::table::{COMMANDS, Group, Spec};

const HEAD: &str = "\
# Redis commands

<!-- Generated from the command table by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-redis reference`. -->

HeliosDB speaks RESP2 and RESP3 and answers the commands below as Redis 7.2 does. Arity counts the words of a
request, the name included; a negative arity is a minimum. \"Since\" is the Redis version that introduced the command.
\"Cost\" is the complexity as Redis documents it. Where that of HeliosDB differs, Redis's follows it. As in Redis's
documentation, the lookup of a key, a field or a member counts as one step: here it is a search in an ordered engine.
Any other command is answered with `-ERR unknown command`, and the connection stays open.

Any node accepts any command. A write is acknowledged once a majority holds it on disk and it is applied; with
`HELIOS.ACK ALL`, or `writes.ack: all` in the configuration, once every voter holds it. A read is
linearizable, unless the connection sent `READONLY`, after which it reads its node's state however old, or
`HELIOS.READ STALE 500`, after which it reads state that is at most 500 ms old. Even then a connection sees its own
writes. To see those of another connection, on any node: `HELIOS.TOKEN` there, after the write, and
`HELIOS.TOKEN <token>` here, before the read. `HELIOS.TOKEN SEEN` is for all that a connection has written or read.

";

const TAIL: &str = "\
## Where this differs from Redis

- There is one database, 0. Users are in a file (`auth.users_file`) and have a role, and may be limited to key prefixes: `ACL` shows
  them and changes nothing. Without users and without a password every client is `default` and may do
  everything.
- `SCAN` walks the keys in byte order. A key that exists from the first call to the last is returned exactly
  once; the walk ends unless clients keep adding keys after its position faster than it advances. Any node
  understands a cursor. It names the next key to return: if another client deletes just that key and the call
  goes to another node, or 4,096 other cursors were issued since, the reply is `-ERR invalid cursor` and the
  client starts again at 0.
- `KEYS` refuses to return more than 100000 keys.
- `DBSIZE` and `INFO` count expired keys until they are purged.
- `MULTI` queues on the node of the client's connection, and `EXEC` sends all commands as one entry of the log:
  no client sees a part of it, and `WATCH` compares the keys where the entry is applied. Relative expirations
  count from when a command was queued. Commands without keys, `SCAN` and `KEYS` are answered right after the
  entry. All replies of one transaction may have 8 MiB; the queue is bounded like a request.
- A published message goes to the clients of all members, once or, if a member cannot be reached, not at all.
  `PUBLISH` returns how many clients are known to have been sent it within 100 ms. A client with 16384 messages
  or 32 MiB unsent is disconnected. `PUBSUB` reports the clients of the node that receives it. There are no
  sharded channels.
- Keyspace notifications have the letters and event names of Redis 7.0. Each node notifies its own clients of
  the entries that it applies, whichever node accepted the write, right after an entry is applied, and at most
  once: a client that must not miss a change watches over gRPC. `CONFIG SET notify-keyspace-events` applies to
  the node that receives it, until that node restarts; `client.notify_keyspace_events` in the configuration is
  permanent. `expired` is published when the key is removed, by a write that meets it or by the purge, not when
  a read finds it expired; a read that misses a key (`m`) is not published.
- `CLIENT PAUSE` holds the clients of the node that receives it; clients of other nodes continue. `CLIENT
  UNPAUSE` is answered at once even then. `WRITE` holds every `EXEC`, whatever is in it. Keys still expire.
- `CONFIG SET` changes `notify-keyspace-events` and `timeout` on this node until it restarts or, for `timeout`,
  until its configuration is reloaded. All other settings are in the configuration of `heliosd`.
- `OBJECT ENCODING` returns what Redis would, whatever the form in which the value is stored. A string of more than 16 KiB
  is stored in chunks of 16 KiB: a change of a part of it costs the chunks that it touches. Bytes that `SETRANGE` and
  `SETBIT` leave between the end and the offset take no space.
- Deleting a large collection or string takes one step; its elements or chunks are removed afterwards, 1000 in one entry.
- Members of sets and fields of hashes are returned in byte order. Commands that pick at random look at every element
  of the key. No reply has more than 1048576 elements.
- An entry is applied with the costs of earlier versions until all members run this one or a newer one.
- A key, a field of a hash and a member of a set or a sorted set have 64 KiB at most, where Redis takes 512 MB:
  they are part of keys of the storage engine. Values, values of fields and elements of lists have 8 MiB at
  most. Data that is stored already stays readable.
- A member that is not the leader accepts writes and forwards them, so `INFO`, `ROLE` and `HELLO` show it as a
  master; `INFO raft` shows which member is the leader. `client.reported_role: raft` shows it as a replica of
  the leader instead.
- A command cannot extend a string beyond 8 MiB.
- A script runs on the node of its client's connection, and its writes are one entry of the log, which takes
  effect only if no key that the script looked at was changed meanwhile; otherwise the script runs again, at
  most 100 times or 5 s, then the reply is `-TRYAGAIN` and nothing was changed. So a script that is stopped, by
  the time limit of 5 s or by `SCRIPT KILL`, has no effect, and scripts without a common key run concurrently,
  16 on a node at once. A script may use keys that it does not declare, unless its user is read-only: then
  `EVAL_RO` and `EVALSHA_RO` read the keys in KEYS, and `KEYS`, `SCAN`, `RANDOMKEY`, `DBSIZE`, and `SORT_RO`
  with BY or GET are `-NOPERM`. A script is also stopped when its client disconnects. Reads of the whole
  keyspace (`KEYS`, `SCAN`, `DBSIZE`, `RANDOMKEY`) are not compared again. `redis.call('publish')` returns 0 and
  the message is sent with the writes. A script has 64 MiB of memory, its reply, writes and messages included,
  256 KiB of text, and the libraries `string`, `table`, `math` and `cjson` (`encode`, `decode`, `null`).
- Scripts are cached for `EVALSHA` on the node that received them, the newest 4096. After `-NOSCRIPT` a client
  sends the text, which client libraries do automatically.
- Commands that wait for an element may be sent to any node, whichever node the element is written through.
  Clients that wait on one node are served in the order in which they came; between nodes there is no order. The
  writer of an element is answered before the element is taken, so that other clients may see it for a moment.
- Only HeliosDB can restore the bytes that `DUMP` returns.
- There are no streams, no geographic and HyperLogLog commands, no `BITFIELD` and no functions.
- `SORT`, `DUMP` and `RESTORE` in a transaction, and writes by them, need all members to run this version or a
  newer one; until then they are rejected with `-TRYAGAIN`.
- Other types than strings need all members to run this version or a newer one; until then they are rejected
  with `-TRYAGAIN`.
- `HELIOS.READ LEASE` guarantees the same as `LINEARIZABLE` as long as the members' clocks run at about the same
  speed, and saves reads on the leader a round to a majority while its lease lasts. It needs `reads.lease` in
  the configuration; without it, and on other members, such a read is an ordinary linearizable one.
- A stale read with a maximum age is answered from the node's state while a read that asked a majority, by any
  connection, is at most that old. If there is none, one is made. If that does not succeed within that age, the
  reply is `-TRYAGAIN`.
- `-TRYAGAIN`, `-CLUSTERDOWN` and `-NOREPLICAS` mean that nothing was changed and the request may be sent again.
  `-ERR replication shortfall: committed=true ...` means that a write took effect and is on a majority of disks,
  but not known to be on all of them: do not send it again; `WAIT` returns how many hold it. `-ERR outcome
  unknown` means that a write was proposed and may or may not take effect: read the key first.
- `INFO raft` shows this node's state, leader, term and log indexes. Offsets of `ROLE` and `INFO` are log
  indexes.
";

/// Renders the page in Markdown.
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    for group in Group::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "## {}\n", capitalized(group.name()));
        page += "| Command | Arity | Since | Flags | Summary | Cost |\n|---|---|---|---|---|---|\n";
        for spec in COMMANDS.iter().filter(|spec| spec.group == group) {
            let rows: &[Spec] = spec.subcommands;
            page += &row(spec);
            rows.iter().for_each(|subcommand| page += &row(subcommand));
        }
        page.push('\n');
    }
    page + TAIL
}

fn row(spec: &Spec) -> String {
    let name = spec.name.replace('|', " ").to_ascii_uppercase();
    let flags: Vec<_> = spec.flags.names().collect();
    let (arity, since, summary) = (spec.arity, spec.since, spec.summary);
    format!("| `{name}` | {arity} | {since} | {} | {summary} | {} |\n", flags.join(" "), cost(spec))
}

/// Returns the complexity of a command.
fn cost(spec: &Spec) -> &'static str {
    if let Some(state) = spec.state {
        return state.cost;
    }
    match spec.name {
        _ if !spec.subcommands.is_empty() => "that of the subcommand",
        "blmpop" => "O(N + M), N the number of keys, M of returned elements",
        "blpop" | "brpop" => "O(N), N the number of keys",
        "bzmpop" => "O(K + M log N), K the number of keys, M of returned members, N the size of the set",
        "bzpopmax" | "bzpopmin" => "O(K + log N), K the number of keys, N the size of the set",
        "keys" => "O(N), N the number of keys",
        "scan" => "O(1) for each call, O(N) for all of N keys",
        "exec" => "that of the queued commands",
        "discard" => "O(N), N the number of queued commands",
        "watch" => "O(1) for each key",
        "unwatch" => "O(1)",
        "publish" => "O(N + M), N the number of clients that receive it, M of patterns",
        "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe" => {
            "O(N), N the number of channels or patterns"
        }
        "pubsub|channels" => "O(N), N the number of channels",
        "pubsub|numsub" => "O(N), N the number of given channels",
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" => "that of the script",
        "script|exists" => "O(N), N the number of given scripts",
        "script|flush" => "O(N), N the number of scripts",
        "script|load" => "O(N), N the bytes of the script",
        "client|list" | "client|kill" => "O(N), N the number of connections to this node",
        "acl|list" | "acl|users" => "O(N), N the number of users",
        "command" | "command|list" | "command|docs" | "command|info" => "O(N), N the number of commands",
        "command|getkeys" | "command|getkeysandflags" => "O(N), N the number of words",
        "config|get" | "config|set" => "O(N), N the number of settings",
        _ => "O(1)",
    }
}

fn capitalized(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_ascii_uppercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `HELIOS_UPDATE_DOCS=1` the page is written before it is compared.
    #[test]
    fn the_page_in_the_repository_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/commands.md");
        let page = render();
        if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert!(current == page, "commands.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference");
    }
}
