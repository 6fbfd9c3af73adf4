//! The reference page of commands, `docs/reference/commands.md`, rendered from the table.

use std::fmt::Write;

use super::table::{COMMANDS, Group, Spec};

const HEAD: &str = "\
# Redis commands

<!-- Generated from the command table by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-redis reference`. -->

HeliosDB speaks RESP2 and RESP3 and answers the commands below as Redis 7.2 does. Arity counts the words of a
request, the name included; a negative arity is a minimum. \"Since\" is the Redis version that introduced the command.
Any other command is answered with `-ERR unknown command`, and the connection stays open.

Any node accepts any command. A write is acknowledged once a majority holds it on disk and it is applied; with
`HELIOS.ACK ALL`, or `writes.ack: all` in the configuration, once every voter holds it. A read is
linearizable, unless the connection said `READONLY` and then reads its node's state, however old, or `HELIOS.READ STALE
500` and then reads it if it is at most 500 ms old. Even then a connection sees its own writes. To see those of another
connection, on whatever node: `HELIOS.TOKEN` there, after the write, and `HELIOS.TOKEN <token>` here, before the read.

";

const TAIL: &str = "\
## Where this differs from Redis

- There is one database, 0. Users are in a file (`auth.users_file`) and have one of three roles: `ACL` tells of them and changes
  nothing. Without users and without a password everyone is `default` and may do everything.
- `SCAN` walks the keys in their order. A key that exists from the first call to the last is returned exactly once;
  the walk ends unless clients keep adding keys behind it faster than it goes. Any node understands a cursor. It names
  the next key to return: if another client deletes just that key and the call goes to another node, or 4,096 other
  cursors were issued since, the reply is `-ERR invalid cursor` and the client starts again at 0.
- `KEYS` refuses to return more than 100000 keys.
- `DBSIZE` and `INFO` count expired keys until they are purged.
- `MULTI` queues on the node that the client talks to, and `EXEC` sends everything as one entry of the log: nobody sees a
  part of it, and `WATCH` compares the keys where it is applied. Relative expirations count from when a command was
  queued. What touches no keys, `SCAN` and `KEYS` are answered right after the entry. All answers of one transaction may
  have 8 MiB; the queue is bounded like a request.
- A message that is published goes to the clients of all members, once or, if a member cannot be reached, not at all.
  `PUBLISH` returns how many clients are known to have been sent it within 100 ms. A client that has 16384 messages or 32 MiB
  waiting is disconnected. `PUBSUB` tells of the clients of the node that is asked. There are no sharded channels.
- Keyspace notifications have the letters and event names of Redis 7.0. Each node tells its own clients of what it applies,
  whichever node it was written through, right after it is applied, and once at most: a client that must miss nothing
  watches over gRPC. `CONFIG SET notify-keyspace-events` is for the node that it is sent to, until it restarts;
  `client.notify_keyspace_events` in the configuration is for good. `expired` is told when the key is removed, by a write that
  meets it or by the purge, not when a read finds it gone; a read that misses a key (`m`) is not told of.
- `CLIENT PAUSE` holds the clients of the node that it is sent to, those of other nodes go on; `CLIENT UNPAUSE` is answered
  at once even then. `WRITE` holds every `EXEC`, whatever it holds. Keys go on to expire.
- `CONFIG SET` changes `notify-keyspace-events` and `timeout` on this node until it restarts or, of `timeout`, its configuration
  is read anew. The rest is in the configuration of `heliosd`.
- What a key holds is kept in one form whatever its size; `OBJECT ENCODING` says what Redis would. Deleting a large
  collection takes one step, its elements are removed afterwards, 1000 in one entry.
- Members of sets and fields of hashes come in the order of their bytes. Commands that pick at random, and those
  whose summary says so, look at every element of the key. No answer has more than 1048576 elements.
- A key, a field of a hash and a member of a set or a sorted set have 64 KiB at most, where Redis takes 512 MB: they are part of
  keys of the storage engine. Values, values of fields and elements of lists have 8 MiB. What is stored already stays readable.
- A member that does not lead takes writes and sends them on, so `INFO`, `ROLE` and `HELLO` show it as a master; `INFO raft` says which
  member leads. `client.reported_role: raft` shows it as a replica of the leader instead.
- A command that makes a string longer stops at 8 MiB.
- A script runs on the node that its client talks to, and what it writes is one entry of the log, which takes effect only
  if no key that the script looked at was changed meanwhile; else it runs again, at most 100 times or 5 s, then the reply
  is `-TRYAGAIN` and nothing was done. So a script that is stopped, by the time limit of 5 s or by `SCRIPT KILL`, has done
  nothing, and scripts with no key in common run side by side, 16 on a node at once. It may use keys that it does not name, unless its
  user may only read: then `EVAL_RO` and `EVALSHA_RO` read the keys in KEYS, and `KEYS`, `SCAN`, `RANDOMKEY`, `DBSIZE`, and `SORT_RO`
  with BY or GET are `-NOPERM`. A script ends with its client, too. What it sees of the keyspace as a whole (`KEYS`, `SCAN`, `DBSIZE`,
  `RANDOMKEY`) is not compared again. `redis.call('publish')` returns 0 and the message goes out with the writes. It has 64 MiB of
  memory, its answer, writes and messages included, 256 KiB of text, and the libraries `string`, `table`, `math` and `cjson` (`encode`,
  `decode`, `null`).
- Scripts are kept for `EVALSHA` on the node that saw them, the newest 4096. `-NOSCRIPT` tells a client to send the text, which client
  libraries do by themselves.
- Commands that wait for an element may be sent to any node, whichever the element is written through. Those who wait on one node are
  served in the order in which they came; between nodes there is none. The writer of an element is answered before it is taken, so
  that others may see it for a moment.
- What `DUMP` returns can be restored by HeliosDB alone.
- There are no streams, no geographic and HyperLogLog commands, no `BITFIELD` and no functions.
- `SORT`, `DUMP` and `RESTORE` in a transaction, and what writes with them, need all members to run this version or a newer
  one; until then they are refused with `-TRYAGAIN`.
- Other types than strings need all members to run this version or a newer one; until then they are refused with
  `-TRYAGAIN`.
- `HELIOS.READ LEASE` promises the same as `LINEARIZABLE` as long as the members' clocks run at about the same speed, and
  spares reads on the leader a round to a majority while its lease lasts. It needs `reads.lease` in the configuration;
  without it, and on other members, such a read is an ordinary linearizable one.
- A stale read with an age is answered from the node's state while a read that asked a majority, by whichever
  connection, is at most that old. If there is none, one is made. If that does not succeed within that age, the reply
  is `-TRYAGAIN`.
- `-TRYAGAIN`, `-CLUSTERDOWN` and `-NOREPLICAS` mean that nothing was done and the request may be sent again.
  `-ERR replication shortfall: committed=true ...` means that a write took effect and is on a majority of disks, but
  not known to be on all of them: do not send it again; `WAIT` tells how many hold it.
  `-ERR outcome unknown` means that a write was proposed and may or may not take effect: read the key first.
- `INFO raft` shows this node's state, leader, term and log indexes. Offsets of `ROLE` and `INFO` are log indexes.
";

/// The page in Markdown.
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    for group in Group::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "## {}\n", capitalized(group.name()));
        page += "| Command | Arity | Since | Flags | Summary |\n|---|---|---|---|---|\n";
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
    format!("| `{name}` | {} | {} | {} | {} |\n", spec.arity, spec.since, spec.flags, spec.summary)
}

fn capitalized(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_ascii_uppercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HELIOS_UPDATE_DOCS=1` writes the page instead.
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
