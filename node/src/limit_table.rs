//! Every limit on what a client, a peer or an entry may cost: the table that `docs/reference/limits.md` is made
//! from. A row takes its value from the constant or the default that the code enforces.

use std::fmt::Write as _;

use Amount::{Bytes, Count, Millis};

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
        limit("Elements that one write, or one transaction, visits and changes", Count(crate::state::MAX_ENTRY_ELEMENTS), None, "none", "`BUDGET_EXCEEDED`; nothing is changed."),
        limit("Bytes that one write, or one transaction, reads, changes and answers", Bytes(crate::state::MAX_ENTRY_BYTES), None, "none", "`BUDGET_EXCEEDED`; nothing is changed."),
        limit("Elements that one read visits", Count(crate::state::MAX_READ_ELEMENTS), Some("reads.max_elements"), "none", "`BUDGET_EXCEEDED`."),
        limit("Bytes that one read visits and answers", Bytes(crate::state::MAX_READ_BYTES), Some("reads.max_bytes"), "none", "`BUDGET_EXCEEDED`."),
        limit("Long reads of one process at once: those that visit more than 1024 elements or 256 KiB", Count(crate::long_reads::MAX_LONG_READS as u64), None, "1, and nothing beside it", "The read waits for its turn."),
        limit("Ends of the process while it applies one log entry", Count(crate::raft::suspects::MAX_ATTEMPTS as u64), None, "none", "`ENTRY_UNAPPLIABLE`: the member holds the entry and all after it until `heliosctl log skip`."),
        limit("Answers of one transaction together", Bytes(crate::state::MAX_TRANSACTION_ANSWER_BYTES as u64), None, "none", "`TOO_LARGE` in place of the answer that does not fit."),
    ]),
    ("Scripts", &[
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
