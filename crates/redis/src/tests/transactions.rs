//! MULTI, EXEC and WATCH.

use super::*;

#[tokio::test]
async fn a_transaction_is_one_entry_and_its_reads_see_its_writes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("SET n 5", "+OK").await;
    client.check("MULTI", "+OK").await;
    for command in ["INCR n", "GET n", "SET k v NX", "SETNX k w", "TTL none", "PING"] {
        client.check(command, "+QUEUED").await;
    }
    let before = *server.db.0.last_index.lock().unwrap();
    client.check("EXEC", "*6\r\n:6\r\n$1\r\n6\r\n+OK\r\n:0\r\n:-2\r\n+PONG").await;
    assert_eq!(*server.db.0.last_index.lock().unwrap(), before + 1);
    client.check("EXEC", "-ERR EXEC without MULTI").await;
}

#[tokio::test]
async fn exec_does_nothing_when_a_watched_key_was_changed() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    for (change, stops) in [
        ("SET k 2", true),
        ("EXPIRE k 100", true),
        ("DEL k", true),
        ("DEL none", false),
        ("SET other 1", false),
        ("FLUSHALL", true),
    ] {
        client.check("SET k 1", "+OK").await;
        client.check("WATCH k none", "+OK").await;
        other.send(format!("{change}\r\n")).await;
        other.line().await;
        client.check("MULTI", "+OK").await;
        client.check("SET touched 1", "+QUEUED").await;
        client.check("EXEC", if stops { "*-1" } else { "*1\r\n+OK" }).await;
        other.check("GETDEL touched", if stops { "$-1" } else { "$1\r\n1" }).await;
    }
    client.check("WATCH k", "+OK").await;
    other.check("SET k 3", "+OK").await;
    client.check("UNWATCH", "+OK").await;
    client.check("MULTI", "+OK").await;
    client.check("EXEC", "*0").await;
}

#[tokio::test]
async fn queue_error_aborts_exec_and_execution_error_fails_alone() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("MULTI", "+OK").await;
    client.check("SET k 1", "+QUEUED").await;
    client.check("GET", "-ERR wrong number of arguments for 'get' command").await;
    client.check("EXEC", "-EXECABORT Transaction discarded because of previous errors.").await;
    client.check("GET k", "$-1").await;

    client.check("MULTI", "+OK").await;
    for command in ["SET k text", "INCR k", "SET k x BAD", "LPUSH k 1", "GET k"] {
        client.check(command, "+QUEUED").await;
    }
    let reply = "*5\r\n+OK\r\n-ERR value is not an integer or out of range\r\n-ERR syntax error\r\n-WRONGTYPE \
                 Operation against a key holding the wrong kind of value\r\n$4\r\ntext";
    client.check("EXEC", reply).await;
}

#[tokio::test]
async fn discard_drops_the_queue_and_nested_multi_is_rejected() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (command, reply) in [
        ("DISCARD", "-ERR DISCARD without MULTI"),
        ("MULTI", "+OK"),
        ("MULTI", "-ERR MULTI calls can not be nested"),
        ("WATCH k", "-ERR WATCH inside MULTI is not allowed"),
        ("SET k 1", "+QUEUED"),
        ("DISCARD", "+OK"),
        ("GET k", "$-1"),
        ("MULTI", "+OK"),
        ("SET k 1", "+QUEUED"),
        ("RESET", "+RESET"),
        ("EXEC", "-ERR EXEC without MULTI"),
    ] {
        client.check(command, reply).await;
    }
}

#[tokio::test]
async fn transaction_queue_is_bounded() {
    let limits = Limits { max_request_bytes: 300, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let mut client = server.client().await;
    client.check("MULTI", "+OK").await;
    client.check("GET a", "+QUEUED").await;
    client.check("GET b", "+QUEUED").await;
    client.check("GET c", "-ERR the transaction exceeds 300 bytes: split it into several").await;
    client.check("EXEC", "-EXECABORT Transaction discarded because of previous errors.").await;
}

#[tokio::test]
async fn a_transaction_without_a_write_never_enters_the_log() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    client.check("RPUSH l 1 2 3", ":3").await;
    client.check("WATCH l", "+OK").await;
    client.check("MULTI", "+OK").await;
    for command in ["LRANGE l 0 -1", "SORT_RO l BY nosort GET #", "GET l", "DBSIZE"] {
        client.check(command, "+QUEUED").await;
    }
    server.db.take_batches();
    let expected = "*4\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n\
                    -WRONGTYPE Operation against a key holding the wrong kind of value\r\n:1";
    client.check("EXEC", expected).await;
    assert_eq!(server.db.take_batches(), Vec::<usize>::new());
    // Its watched keys are still compared.
    client.check("WATCH l", "+OK").await;
    other.check("RPUSH l 4", ":4").await;
    server.db.take_batches();
    client.check("MULTI", "+OK").await;
    client.check("LLEN l", "+QUEUED").await;
    client.check("EXEC", "*-1").await;
    assert_eq!(server.db.take_batches(), Vec::<usize>::new());
}

#[tokio::test]
async fn reads_of_a_transaction_over_their_budget_are_rejected() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let element = "x".repeat(10_000);
    client.check(&format!("RPUSH l {element} {element} {element}"), ":3").await;
    client.check("MULTI", "+OK").await;
    let sort = format!("SORT_RO l BY nosort{}", " GET #".repeat(10_000));
    // The reply has 30 000 elements with 300 MB together, made of three elements in memory.
    client.check(&sort, "+QUEUED").await;
    client.send("EXEC\r\n").await;
    let line = client.line().await;
    assert!(line.starts_with("-ERR a read may cost") && line.contains("reads.max_bytes"), "{line}");
    client.check("LLEN l", ":3").await;
}

#[tokio::test]
async fn replies_of_exec_share_one_budget() {
    // Of eight replies four fit into the budget.
    for (scan, setting, server) in [
        ("HSCAN h 0", "reads.max_bytes", Server::with_reads(1_000, 500_000).await),
        ("KEYS *", "reads.max_elements", Server::with_reads(8, 1_000_000).await),
        ("INFO server", "reads.max_elements", Server::with_reads(4, 1_000_000).await),
    ] {
        let mut client = server.client().await;
        client.send_words(&["HSET", "h", "f", &"x".repeat(100_000)]).await;
        client.expect(":1\r\n").await;
        client.check("MULTI", "+OK").await;
        for _ in 0..8 {
            client.check(scan, "+QUEUED").await;
        }
        client.check("SET k v", "+QUEUED").await;
        client.send("EXEC\r\nECHO end\r\n").await;
        let mut lines = vec![client.line().await];
        while lines.last().is_none_or(|line| line != "end") {
            lines.push(client.line().await);
        }
        assert_eq!(lines[0], "*9");
        let refused: Vec<_> = lines.iter().filter(|line| line.starts_with('-')).collect();
        assert!((4..8).contains(&refused.len()), "{scan}: {} of 8 were refused", refused.len());
        let named =
            |line: &&String| line.contains("the answers of a transaction may cost") && line.contains(setting);
        assert!(refused.iter().all(named), "{scan}: {refused:?}");
        client.check("GET k", "$1\r\nv").await;
    }
}

#[tokio::test]
async fn prepared_replies_and_patterns_count_against_the_queue() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let pattern = "[a]".repeat(2_700);
    let patterns = format!("CONFIG GET{}", format!(" {pattern}").repeat(7));
    for (command, most) in [("COMMAND", 200), (&patterns, 100)] {
        client.check("MULTI", "+OK").await;
        let mut line = "+QUEUED".to_owned();
        for _ in 0..most {
            client.send(format!("{command}\r\n")).await;
            line = client.line().await;
            if line != "+QUEUED" {
                break;
            }
        }
        assert!(line.starts_with("-ERR the transaction exceeds"), "{line}");
        client.check("EXEC", "-EXECABORT Transaction discarded because of previous errors.").await;
    }
}
