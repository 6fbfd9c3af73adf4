//! `COMMAND`, `CONFIG` and `MEMORY STATS`.

use super::*;

fn list(words: &str) -> String {
    let words: Vec<_> = words.split_ascii_whitespace().collect();
    let items = words.iter().map(|word| format!("\r\n${}\r\n{word}", word.len()));
    format!("*{}{}", words.len(), items.collect::<String>())
}

#[tokio::test]
async fn command_getkeys_follows_counts_and_options() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (request, keys) in [
        ("GET a", "a"),
        ("MSET a 1 b 2", "a b"),
        ("EVAL 'return 1' 2 a b c", "a b"),
        ("EVALSHA_RO 0 1 a", "a"),
        ("EVAL 'return 1' 0 a", ""),
        ("ZUNIONSTORE to 2 a b WEIGHTS 1 2", "to a b"),
        ("LMPOP 2 a b LEFT", "a b"),
        ("BLMPOP 0 2 a b LEFT", "a b"),
        ("BZMPOP 0 1 a MIN", "a"),
        ("SINTERCARD 2 a b LIMIT 1", "a b"),
        ("SORT a BY store GET x LIMIT 0 store STORE b STORE c", "a c"),
        ("SORT_RO a BY w", "a"),
        ("BITOP AND to a b", "to a b"),
        ("BLPOP a b 0", "a b"),
        ("MEMORY USAGE a", "a"),
        ("OBJECT ENCODING a", "a"),
    ] {
        client.check(&format!("COMMAND GETKEYS {request}"), &list(keys)).await;
    }
    for (request, refusal) in [
        ("PING", "The command has no key arguments"),
        ("PING a b c", "The command has no key arguments"),
        ("GET", "Invalid number of arguments specified for command"),
        ("NOSUCH a", "Invalid command specified"),
        ("LMPOP 3 a LEFT", "Invalid arguments specified for command"),
        ("SINTERCARD x a", "Invalid arguments specified for command"),
        ("SINTERCARD 18446744073709551615 a", "Invalid arguments specified for command"),
    ] {
        client.check(&format!("COMMAND GETKEYS {request}"), &format!("-ERR {refusal}")).await;
    }
}

#[tokio::test]
async fn command_getkeysandflags_returns_access_flags() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("COMMAND GETKEYSANDFLAGS SET a 1", "*1\r\n*2\r\n$1\r\na\r\n*2\r\n+OW\r\n+update").await;
    let got = "*1\r\n*2\r\n$1\r\na\r\n*3\r\n+RW\r\n+access\r\n+update";
    client.check("COMMAND GETKEYSANDFLAGS SET a 1 EX 9 GET", got).await;
    client
        .check(
            "COMMAND GETKEYSANDFLAGS SORT a STORE b",
            "*2\r\n*2\r\n$1\r\na\r\n*2\r\n+RO\r\n+access\r\n*2\r\n$1\r\nb\r\n*2\r\n+OW\r\n+update",
        )
        .await;
}

#[tokio::test]
async fn command_list_filters_by_category_and_pattern() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("COMMAND LIST FILTERBY PATTERN g?t", &list("get")).await;
    client
        .check("COMMAND LIST FILTERBY PATTERN config|*e*t", &list("config|get config|resetstat config|set"))
        .await;
    client.check("COMMAND LIST FILTERBY ACLCAT nosuch", "*0").await;
    client.check("COMMAND LIST FILTERBY MODULE json", "*0").await;
    client.check("COMMAND LIST FILTERBY PATTERN", "-ERR syntax error").await;
    client.check("COMMAND LIST FILTERBY SIZE 1", "-ERR syntax error").await;
    client.send("COMMAND LIST\r\n").await;
    let count: usize = client.line().await[1..].parse().unwrap();
    assert!(count > 200, "{count} commands and subcommands");
}

#[tokio::test]
async fn config_set_changes_all_settings_or_none() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("CONFIG SET timeout 42 notify-keyspace-events KEA save ''", "+OK").await;
    client.check("CONFIG GET timeout", &list("timeout 42")).await;
    client.check("CONFIG GET notify-*", &list("notify-keyspace-events AKE")).await;
    let failed = |name: &str, why: &str| {
        format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
    };
    client.check("CONFIG SET timeout 1 TIMEOUT 2", &failed("timeout", "duplicate parameter")).await;
    let wrong = failed("notify-keyspace-events", "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.");
    client.check("CONFIG SET timeout 7 notify-keyspace-events KEq", &wrong).await;
    client.send("CONFIG SET timeout 7 maxmemory 1\r\n").await;
    assert!(client.line().await.starts_with(&failed("maxmemory", "can't set immutable config")));
    client.send("CONFIG SET nosuch 1\r\n").await;
    assert!(
        client
            .line()
            .await
            .starts_with("-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'")
    );
    client.check("CONFIG GET timeout", &list("timeout 42")).await;
    client.check("CONFIG SET timeout 0", "+OK").await;
}

#[tokio::test]
async fn config_set_timeout_applies_to_open_connections() {
    let server = Server::start().await;
    let (mut idle, mut other) = (server.client().await, server.client().await);
    idle.check("PING", "+PONG").await;
    other.check("CONFIG SET timeout 1", "+OK").await;
    idle.expect_end().await;
}

#[tokio::test]
async fn memory_stats_returns_numbers() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET a 1", "+OK").await;
    client.send("MEMORY STATS\r\n").await;
    assert_eq!(client.line().await, "*10");
    client.expect("$15\r\ntotal.allocated\r\n:").await;
    assert!(client.line().await.parse::<u64>().unwrap() > 0);
    client.expect("$10\r\nkeys.count\r\n:1\r\n").await;
}

#[tokio::test]
async fn reply_about_repeated_names_is_rejected_over_its_limit() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (words, name) in [
        (&["COMMAND", "INFO"][..], "client"),
        (&["COMMAND", "DOCS"], "client"),
        (&["COMMAND", "GETKEYSANDFLAGS", "MGET"], "k"),
    ] {
        let repeated: Vec<_> = words.iter().copied().chain(std::iter::repeat_n(name, 100_000)).collect();
        client.send_words(&repeated).await;
        let line = client.line().await;
        assert!(line.starts_with("-ERR the answer would have more than 4194304 bytes"), "{line}");
    }
    let topics: Vec<_> = std::iter::once("SUBSCRIBE").chain(std::iter::repeat_n("c", 10_001)).collect();
    client.send_words(&topics).await;
    assert_eq!(client.line().await, "-ERR a request takes at most 10000 channels or patterns");
}

#[tokio::test]
async fn keys_and_scan_stay_within_the_bytes_of_a_read() {
    let server = Server::with_reads(1_000, 100_000).await;
    let mut client = server.client().await;
    for n in 0..30 {
        client.check(&format!("SET {n}{} v", "k".repeat(60_000)), "+OK").await;
    }
    client.send("KEYS *\r\n").await;
    let line = client.line().await;
    assert!(line.starts_with("-ERR a read may cost 100000 bytes"), "{line}");
    // COUNT is a hint: a page ends after a megabyte of names, and the next page continues.
    let (cursor, keys) = client.scan("SCAN 0 COUNT 10000").await;
    assert!(keys.len() < 30 && cursor != "0", "{} keys", keys.len());
    let (cursor, rest) = client.scan(&format!("SCAN {cursor} COUNT 10000")).await;
    assert_eq!((cursor.as_str(), keys.len() + rest.len()), ("0", 30));
}
