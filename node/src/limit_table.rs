//! The table of limits on the cost of a client, a peer or an entry, from which `docs/reference/limits.md` is generated.
//! A row takes its value from the constant or the default that the code enforces.

use std::fmt::Write as _;

use Amount::{Bytes, Count, Millis};
use helios_redis::script_limits as scripts;
use helios_service::client_memory::MemoryLimits;

/// A limit in the unit that it is charged in.
#[derive(Debug, Clone, Copy)]
enum Amount {
    Bytes(u64),
    Count(u64),
    Millis(u64),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Bytes(n) if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{} MiB", n >> 20),
            Bytes(n) if n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{} KiB", n >> 10),
            Bytes(n) => write!(f, "{n} bytes"),
            Count(n) => write!(f, "{n}"),
            Millis(n) if n >= 1_000 && n % 1_000 == 0 => write!(f, "{} s", n / 1_000),
            Millis(n) => write!(f, "{n} ms"),
        }
    }
}

struct Limit {
    /// Subject of the limit, a noun phrase.
    subject: &'static str,
    amount: Amount,
    /// Configuration key of the limit; `None`: fixed.
    setting: Option<&'static str>,
    /// The corresponding limit of Redis 7.2.
    redis: &'static str,
    /// Effect at the limit, with the error code.
    at_the_limit: &'static str,
}

const fn limit(
    subject: &'static str,
    amount: Amount,
    setting: Option<&'static str>,
    redis: &'static str,
    at_the_limit: &'static str,
) -> Limit {
    Limit { subject, amount, setting, redis, at_the_limit }
}

const MEMORY: MemoryLimits = MemoryLimits::DEFAULT;

/// Sections of the page, in order. Rows of one section stand together.
#[rustfmt::skip]
const SECTIONS: &[(&str, &[Limit])] = &[
    ("Commands and log entries", &[
        limit("Elements that one write, or one transaction, visits and changes", Count(crate::state::MAX_ENTRY_ELEMENTS), None, "none", "`BUDGET_EXCEEDED`; nothing is changed."),
        limit("Bytes that one write, or one transaction, reads, changes and answers", Bytes(crate::state::MAX_ENTRY_BYTES), None, "none", "`BUDGET_EXCEEDED`; nothing is changed."),
        limit("Elements that one read visits", Count(crate::state::MAX_READ_ELEMENTS), Some("reads.max_elements"), "none", "`BUDGET_EXCEEDED`."),
        limit("Bytes that one read visits and answers", Bytes(crate::state::MAX_READ_BYTES), Some("reads.max_bytes"), "none", "`BUDGET_EXCEEDED`."),
        limit("Long reads of one process at once: those that visit more than 1024 elements or 256 KiB", Count(helios_service::long_reads::MAX_LONG_READS as u64), None, "1, and nothing beside it", "The read waits for its turn."),
        limit("Crashes of the process while it applies one log entry", Count(crate::raft::suspects::MAX_ATTEMPTS as u64), None, "none", "`ENTRY_UNAPPLIABLE`: the member holds the entry and all after it until `heliosctl log skip`."),
        limit("Answers of one transaction together", Bytes(crate::state::MAX_TRANSACTION_ANSWER_BYTES as u64), None, "none", "`TOO_LARGE` in place of the answer that does not fit."),
        limit("Replies that EXEC answers with, parts of arrays among them", Count(crate::state::MAX_READ_ELEMENTS), Some("reads.max_elements"), "none", "`BUDGET_EXCEEDED` in place of the answer that does not fit and of those after it, whose commands are not executed if they are no part of the entry; what was written stands."),
        limit("Bytes that EXEC answers with", Bytes(crate::state::MAX_READ_BYTES), Some("reads.max_bytes"), "none", "The same."),
        limit("An answer of COMMAND INFO, COMMAND DOCS or COMMAND GETKEYSANDFLAGS", Bytes(helios_redis::MAX_INTROSPECTION_BYTES as u64), None, "none", "`-ERR the answer would have more than ... bytes`."),
        limit("Names in one page of SCAN, together", Bytes(helios_redis::SCAN_REPLY_BYTES as u64), None, "none", "The page ends; the cursor continues after it."),
        limit("COUNT of SCAN, HSCAN, SSCAN and ZSCAN", Count(helios_redis::MAX_SCAN_COUNT as u64), None, "none", "A larger COUNT is taken as this one."),
        limit("Keys that KEYS answers with", Count(helios_redis::MAX_KEYS_REPLY as u64), None, "none", "`-ERR` that names SCAN."),
        limit("Keys that one connection watches", Count(helios_redis::MAX_WATCHED as u64), None, "none", "`-ERR`; none of the keys of that WATCH is watched."),
        limit("Glob pattern (KEYS, SCAN MATCH, PSUBSCRIBE, CONFIG GET, ACL and others)", Bytes(helios_service::glob::MAX_PATTERN_BYTES as u64), None, "none", "`-ERR pattern exceeds maximum allowed size`."),
        limit("Steps of a glob pattern beyond one pass over each name, for one command", Count(helios_service::glob::MAX_STEPS), None, "none", "`BUDGET_EXCEEDED`."),
        limit("The same, for one published message and all patterns that clients listen to", Count(helios_service::glob::MAX_STEPS), None, "none", "The subscriber whose pattern exceeds it is disconnected; the others get the message."),
    ]),
    ("Scripts", &[
        limit("Time of a script, retries included", Millis(scripts::MAX_TIME.as_millis() as u64), None, "`busy-reply-threshold`, 5 s: only then SCRIPT KILL works", "It is stopped, with an error; nothing of it was done."),
        limit("Memory of the scripts of one request: Lua, answers, messages, writes and buffers together", Bytes(scripts::MAX_MEMORY_BYTES as u64), None, "none", "`not enough memory` in Lua, or `BUDGET_EXCEEDED (4008)`."),
        limit("Text of one script, `loadstring` included", Bytes(scripts::MAX_SCRIPT_BYTES as u64), None, "none", "`BUDGET_EXCEEDED (4008)`; it is not compiled."),
        limit("Quantified items and captures of a Lua pattern inside one another", Count(scripts::MAX_PATTERN_DEPTH as u64), None, "none", "`pattern too complex`."),
        limit("Nesting depth of tables in an answer", Count(scripts::MAX_ANSWER_DEPTH as u64), None, "the stack of Lua", "`-ERR reached lua stack limit` in place of the table, and of one that contains itself."),
        limit("An error or status that a script returns", Bytes(scripts::MAX_TEXT_BYTES as u64), None, "none", "The rest is cut off."),
        limit("Messages that the scripts of one request publish", Count(scripts::MAX_MESSAGES as u64), None, "none", "`redis.call('publish')` fails."),
        limit("Output of `redis.log` for one request", Bytes(scripts::MAX_LOG_BYTES as u64), None, "none", "Further messages are dropped; the log says so."),
        limit("Scripts that run at once on a node", Count(scripts::MAX_RUNNING as u64), None, "1", "Others wait for a slot."),
        limit("Scripts kept for EVALSHA", Count(scripts::MAX_KEPT as u64), None, "none", "The oldest is forgotten."),
        limit("Texts of the scripts kept for EVALSHA together", Bytes(scripts::MAX_KEPT_BYTES as u64), None, "none", "The oldest is forgotten."),
    ]),
    ("Keys and values", &[
        limit("Key", Bytes(crate::state::MAX_KEY_BYTES as u64), None, "512 MB", "`TOO_LARGE` (`-ERR`) before the write is proposed, at every port, in scripts and in the library alike."),
        limit("Field of a hash, member of a set or a sorted set", Bytes(crate::state::MAX_ELEMENT_BYTES as u64), None, "512 MB", "`TOO_LARGE` (`-ERR`) before the write is proposed. Values of fields and elements of lists are values. What is stored already stays readable and removable."),
    ]),
    ("Connections and memory", &[
        limit("Redis connections", Count(10_000), Some("client.max_connections"), "`maxclients`, 10000", "One more is answered `-ERR max number of clients reached` and closed. Lowered at start, with a warning, to what the limit of open files leaves after a reserve."),
        limit("One reply, and all unsent replies of one connection", Bytes(MEMORY.output_bytes as u64), Some("client.output_buffer_limit"), "`client-output-buffer-limit normal`, none", "`BUDGET_EXCEEDED` (`-ERR`) in place of a reply that alone is larger; a connection with more unsent is closed."),
        limit("Unsent replies of one connection for longer than `client.output_buffer_soft_seconds`", Bytes(MEMORY.soft_output_bytes as u64), Some("client.output_buffer_soft_limit"), "the soft limit of the same", "The connection is closed."),
        limit("Time over the soft limit", Millis(MEMORY.soft_time.as_millis() as u64), Some("client.output_buffer_soft_seconds"), "the soft seconds of the same", "The connection is closed."),
        limit("Unread messages of one subscriber", Bytes(MEMORY.pubsub_bytes as u64), Some("client.pubsub_output_buffer_limit"), "`client-output-buffer-limit pubsub`, 32 MiB", "The connection is closed."),
        limit("Unsent replies, unread messages, incomplete and queued requests of all Redis connections", Bytes(MEMORY.all_bytes as u64), Some("client.maxmemory_clients"), "`maxmemory-clients`, none", "The connection that holds most is closed."),
        limit("Time in which a client reads none of its waiting replies", Millis(60_000), Some("client.write_timeout"), "none", "The connection is closed."),
        limit("Time to authenticate and to complete the first command", Millis(30_000), Some("client.auth_timeout"), "none", "The connection is closed."),
        limit("One request with all its words", Bytes(helios_redis::MAX_REQUEST_BYTES as u64), None, "`client-query-buffer-limit`, 1 GB", "`-ERR`, and the connection is closed."),
        limit("Requests queued between MULTI and EXEC of one connection, together", Bytes(helios_redis::MAX_REQUEST_BYTES as u64), None, "none", "`-ERR the transaction exceeds ... bytes`; EXEC executes nothing."),
        limit("Charge of a queued request beside its words", Bytes(helios_redis::COMMAND_BYTES as u64), None, "none", "Counts toward the limit of the queue."),
        limit("Charge of a word of a queued request beside its text", Bytes(helios_redis::WORD_BYTES as u64), None, "none", "Counts toward the limit of the queue."),
        limit("Calls at once on one gRPC connection", Count(crate::app::MAX_CONCURRENT_STREAMS as u64), None, "does not apply", "The client queues more, as in HTTP/2."),
        limit("Connections of the peer port", Count(crate::descriptors::PEER as u64), None, "does not apply", "The oldest that has sent no HTTP/2 preface is evicted; without one, more wait in the listen queue."),
        limit("Connections of the metrics port", Count(crate::descriptors::METRICS as u64), None, "does not apply", "The oldest is evicted, so that a probe is always answered."),
        limit("Connections of the gRPC port", Count(crate::descriptors::MAX_GRPC as u64), None, "does not apply", "As on the peer port. At most a quarter of the descriptors that are left."),
        limit("Connections of the gateway", Count(crate::descriptors::MAX_GATEWAY as u64), None, "does not apply", "The oldest that has sent no request is evicted. At most an eighth of the descriptors that are left."),
        limit("Channels and patterns of one connection", Count(helios_service::pubsub::MAX_TOPICS as u64), None, "none", "`-ERR` in place of the answer for that name."),
        limit("Memory of the channels and patterns of one connection", Bytes(helios_service::pubsub::MAX_TOPIC_BYTES as u64), None, "none", "`-ERR` in place of the answer for that name."),
        limit("Names in one SUBSCRIBE, PSUBSCRIBE, UNSUBSCRIBE or PUNSUBSCRIBE", Count(helios_service::pubsub::MAX_TOPICS as u64), None, "none", "`-ERR`; the request is not executed."),
    ]),
    ("Authentication", &[
        limit("Failed attempts of one address without a delay", Count(helios_service::auth::FREE_FAILURES as u64), None, "none", "From then on attempts of this address are checked one after the other, each after a delay that doubles from 100 ms."),
        limit("Longest delay between two attempts of one address", Millis(2_000), Some("auth.max_delay"), "none", "The delay does not grow further."),
        limit("Wait for the turn of an attempt", Millis(helios_service::auth::MAX_WAIT.as_secs() * 1_000), None, "none", "`OVERLOADED`; the attempt was not checked."),
        limit("Addresses with failed attempts that are remembered, each for 10 minutes", Count(helios_service::auth::MAX_ADDRESSES as u64), None, "none", "The one that has failed least recently is forgotten."),
    ]),
    ("Log, state and peers", &[
        limit("Log kept on disk for members that lag", Bytes(crate::config::MAX_RETAINED_LOG_BYTES), Some("raft.max_retained_log_bytes"), "none", "By default at most a tenth of the volume of the log. A member that is further behind gets a snapshot."),
        limit("Log kept on disk for archivers", Bytes(crate::config::ARCHIVE_HOLD_BYTES), Some("archive.hold"), "none", "It is no longer kept for the archiver that is furthest behind, which needs a new base. Nothing is kept while the disk is full."),
        limit("Archivers that the log of a member is kept for, each for ten minutes after its last request", Count(crate::raft::MAX_HOLDERS as u64), None, "does not apply", "`OVERLOADED`"),
        limit("Bases that a member sends at once", Count(crate::archive::MAX_BASES as u64), None, "does not apply", "`OVERLOADED`"),
        limit("Logs that a member sends to archivers at once", Count(crate::archive::MAX_LOGS as u64), None, "does not apply", "`OVERLOADED`"),
        limit("Followers of a member", Count(crate::follow::MAX_STREAMS as u64), None, "does not apply", "`OVERLOADED`"),
        limit("Changes that a follower may be behind", Bytes(crate::follow::RING_BYTES as u64), None, "does not apply", "The follower gets a new snapshot."),
        limit("Changes kept for all followers, shared evenly by the groups with the same prefixes; each keeps its last ones whatever their size", Bytes(crate::follow::ALL_RINGS_BYTES as u64), None, "does not apply", "Followers that are further behind get a new snapshot."),
        limit("Snapshots that a member sends to followers at once", Count(crate::follow::MAX_SENDS as u64), None, "does not apply", "The others wait."),
        limit("Parts of these snapshots that are read at once", Count(crate::follow::MAX_BUILDS as u64), None, "does not apply", "The others wait."),
        limit("Log held in memory", Bytes(crate::config::MAX_LOG_BYTES), Some("raft.max_log_bytes"), "none", "`OVERLOADED` for writes, but for those that free room, up to 1.125 times as much. From half of the limit on a leader takes writes more slowly: what would wait for over a second is refused. A follower takes no entries beyond 1.25 times as much."),
        limit("Wait of a write while a leader slows down", Millis(crate::raft::LONGEST_WAIT.as_millis() as u64), None, "does not apply", "`OVERLOADED`"),
        limit("Bytes that the scrub reads in a second", Bytes(crate::config::SCRUB_BYTES_PER_SECOND), Some("state.scrub_bytes_per_second"), "does not apply", "The scrub waits."),
        limit("State held in memory that is not on disk yet", Bytes(crate::config::MAX_OVERLAY_BYTES), Some("state.max_overlay_bytes"), "none", "As for the log. Beyond 1.25 times as much, committed entries wait in the log to be applied."),
        limit("Writes that wait for the log", Bytes(crate::raft::MAX_WAITING_BYTES), None, "none", "`OVERLOADED`; one pipeline or transaction is taken if nothing else waits."),
        limit("Writes that are not committed yet", Bytes(crate::raft::MAX_UNCOMMITTED_BYTES), None, "none", "`OVERLOADED`"),
        limit("Writes that are committed and not applied yet", Bytes(crate::raft::MAX_APPLYING_BYTES), None, "none", "`OVERLOADED`; a follower takes no entries beyond twice as much."),
        limit("Writes that one member has forwarded to the leader and that have no outcome yet", Count(crate::requests::MAX_FORWARDED as u64), None, "none", "More wait, and are answered `OVERLOADED` at the end of `client.request_timeout`."),
        limit("Clients whose request ids are remembered", Count(crate::state::MAX_REQUEST_CLIENTS as u64), None, "does not apply", "The client that was silent for longest of the user with the most clients (of the host, without users) is forgotten; a retry of one of its writes is answered `OUTCOME_UNKNOWN`. Members' own clients are counted apart."),
        limit("Writes remembered of one such client", Count(crate::state::SLOTS), None, "does not apply", "A retry of an older one is answered `OUTCOME_UNKNOWN`."),
        limit("Writes in one call of a member", Count(crate::peer::MAX_FORWARDED as u64), None, "does not apply", "The call is refused with `INVALID_ARGUMENT`."),
        limit("Published messages in one call of a member", Count(crate::peer::MAX_PUBLICATIONS as u64), None, "does not apply", "The call is refused with `INVALID_ARGUMENT`."),
        limit("Gain of the log's clock on time in one term, unless a majority's clocks agree", Millis(crate::clock::SLACK.as_secs() * 1_000), None, "does not apply", "Entries are stamped with an earlier time than the leader's wall clock says."),
        limit("Message between members", Bytes(crate::peer::MAX_MESSAGE_BYTES as u64), None, "does not apply", "The stream ends with a gRPC error and is opened again."),
    ]),
];

/// `HELIOS_UPDATE_DOCS=1` writes the page instead: `reference` is in the name for that.
#[test]
fn the_limits_page_in_docs_reference_is_current() {
    let mut page = HEAD.to_owned();
    for (section, limits) in SECTIONS.iter().filter(|(_, limits)| !limits.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {section}\n\n{TABLE_HEAD}");
        for Limit { subject, amount, setting, redis, at_the_limit } in *limits {
            let setting = setting.map_or("fixed".to_owned(), |key| format!("`{key}`"));
            let _ = writeln!(page, "| {subject} | {amount} | {setting} | {redis} | {at_the_limit} |");
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/limits.md");
    if std::env::var_os("HELIOS_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let current = std::fs::read_to_string(path).unwrap_or_default();
    assert!(current == page, "limits.md is out of date; run HELIOS_UPDATE_DOCS=1 cargo test reference");
}

#[test]
fn every_setting_in_the_limit_table_is_a_configuration_key() {
    let keys: Vec<_> = crate::config::key_paths().collect();
    for limit in SECTIONS.iter().flat_map(|(_, limits)| *limits) {
        if let Some(setting) = limit.setting {
            assert!(keys.iter().any(|key| key == setting), "{setting} is no configuration key");
        }
    }
}

const HEAD: &str = "\
# Limits

<!-- Generated from the table in node/src/limit_table.rs by `HELIOS_UPDATE_DOCS=1 cargo test -p helios-node reference`. -->

What one command, connection, script, object or log entry may cost. A limit is charged before the work is done or the memory is
allocated; a command that is refused at a limit has changed nothing. Error codes are in [errors.md](errors.md), settings in
[config.md](config.md). *fixed*: the same on every member, part of the log format or of the protocol.
";

const TABLE_HEAD: &str = "\
| limit | default | setting | in Redis | at the limit |
|---|---|---|---|---|
";
