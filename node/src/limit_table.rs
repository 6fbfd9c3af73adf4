//! Every limit on what a client, a peer or an entry may cost: the table that `docs/reference/limits.md` is made
//! from. A row takes its value from the constant or the default that the code enforces.

use std::fmt::Write as _;

use Amount::{Bytes, Count, Millis};

use crate::resp::script_limits as scripts;

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
    /// What is limited, a noun phrase.
    subject: &'static str,
    amount: Amount,
    /// The configuration key that changes it; `None`: fixed.
    setting: Option<&'static str>,
    /// What Redis 7.2 has in its place.
    redis: &'static str,
    /// What happens at the limit, the error code included.
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

/// Sections of the page, in order. Rows of one section stand together.
#[rustfmt::skip]
const SECTIONS: &[(&str, &[Limit])] = &[
    ("Commands and log entries", &[
        limit("Answers of one transaction together", Bytes(crate::state::MAX_TRANSACTION_ANSWER_BYTES as u64), None, "none", "`TOO_LARGE` in place of the answer that does not fit."),
    ]),
    ("Scripts", &[
        limit("Time of a script, with all its tries", Millis(scripts::MAX_TIME.as_millis() as u64), None, "`busy-reply-threshold`, 5 s: only then SCRIPT KILL works", "It is stopped, with an error; nothing of it was done."),
        limit("Memory of the scripts of one request: Lua, answers, messages, writes and buffers together", Bytes(scripts::MAX_MEMORY_BYTES as u64), None, "none", "`not enough memory` in Lua, or `BUDGET_EXCEEDED (4008)`."),
        limit("Text of one script, `loadstring` included", Bytes(scripts::MAX_SCRIPT_BYTES as u64), None, "none", "`BUDGET_EXCEEDED (4008)`; it is not compiled."),
        limit("Quantified items and captures of a Lua pattern inside one another", Count(scripts::MAX_PATTERN_DEPTH as u64), None, "none", "`pattern too complex`."),
        limit("Tables in tables of an answer", Count(scripts::MAX_ANSWER_DEPTH as u64), None, "the stack of Lua", "`-ERR reached lua stack limit` in place of the table, and of one that contains itself."),
        limit("An error or status that a script makes", Bytes(scripts::MAX_TEXT_BYTES as u64), None, "none", "The rest is cut off."),
        limit("Messages that the scripts of one request publish", Count(scripts::MAX_MESSAGES as u64), None, "none", "`redis.call('publish')` fails."),
        limit("What `redis.log` writes for one request", Bytes(scripts::MAX_LOG_BYTES as u64), None, "none", "Further messages are dropped; the log says so."),
        limit("Scripts that run at once on a node", Count(scripts::MAX_RUNNING as u64), None, "1", "Others wait for a slot."),
        limit("Scripts kept for EVALSHA", Count(scripts::MAX_KEPT as u64), None, "none", "The oldest is forgotten."),
        limit("Texts of the scripts kept for EVALSHA together", Bytes(scripts::MAX_KEPT_BYTES as u64), None, "none", "The oldest is forgotten."),
    ]),
    ("Keys and values", &[
    ]),
    ("Connections and memory", &[
        limit("Redis connections", Count(10_000), Some("client.max_connections"), "`maxclients`, 10000", "One more is answered `-ERR max number of clients reached` and closed."),
    ]),
    ("Authentication", &[
    ]),
    ("Log, state and peers", &[
        limit("Message between members", Bytes(crate::peer::MAX_MESSAGE_BYTES as u64), None, "does not apply", "The stream ends with a gRPC error and is dialled again."),
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
