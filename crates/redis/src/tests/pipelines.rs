use helios_proto::v1::ErrorCode;

use super::*;

#[tokio::test]
async fn writes_share_a_batch_and_reads_a_barrier_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client
        .send("SET a 1\r\nINCR a\r\nINCR a\r\nGET a\r\nMGET a a\r\nINCR a\r\nGET a\r\nPING\r\nGET a\r\nNOPE\r\nDEL a\r\n")
        .await;
    client
        .expect("+OK\r\n:2\r\n:3\r\n$1\r\n3\r\n*2\r\n$1\r\n3\r\n$1\r\n3\r\n:4\r\n$1\r\n4\r\n+PONG\r\n")
        .await;
    client.expect("$1\r\n4\r\n-ERR unknown command 'NOPE', with args beginning with: \r\n:1\r\n").await;
    assert_eq!(server.db.take_batches(), [3, 1, 1]);
    assert_eq!(server.db.take_barriers(), 2);
}

#[tokio::test]
async fn a_stale_connection_needs_no_barrier() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("READONLY\r\nGET a\r\nGET b\r\n").await;
    client.expect("+OK\r\n$-1\r\n$-1\r\n").await;
    assert_eq!(server.db.take_barriers(), 0);
}

#[tokio::test]
async fn failed_barrier_is_requested_once_and_fails_every_read() {
    let server = Server::start().await;
    let mut client = server.client().await;
    *server.db.0.read_error.lock().unwrap() = Some(Error::new(ErrorCode::NoLeader, "no leader"));
    client.send("GET a\r\nGET b\r\nGET c\r\n").await;
    client.expect(&"-CLUSTERDOWN The cluster is down: no leader\r\n".repeat(3)).await;
    assert_eq!(server.db.take_barriers(), 1);
}

#[tokio::test]
async fn a_long_pipeline_is_answered_in_full() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let value = "x".repeat(1000);
    let (requests, replies): (String, String) = (0..5000)
        .map(|number| match number % 2 {
            0 => (format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n{value}\r\n"), "+OK\r\n".to_owned()),
            _ => ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".to_owned(), format!("$1000\r\n{value}\r\n")),
        })
        .unzip();
    let (mut reader, mut writer) = client.stream.split();
    let sending = async { writer.write_all(requests.as_bytes()).await.unwrap() };
    let receiving = async {
        let mut received = vec![0; replies.len()];
        reader.read_exact(&mut received).await.unwrap();
        assert!(received == replies.as_bytes());
    };
    timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await.unwrap();
}

#[tokio::test]
async fn a_write_batch_never_exceeds_one_round() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("INCR n\r\n".repeat(3000)).await;
    let replies: String = (1..=3000).map(|number| format!(":{number}\r\n")).collect();
    client.expect(&replies).await;
    let batches = server.db.take_batches();
    assert!(batches.iter().all(|size| *size <= 1024), "{batches:?}");
    assert_eq!(batches.iter().sum::<usize>(), 3000);
}

#[tokio::test]
async fn the_protocol_changes_between_two_replies() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("GET a\r\nHELLO 3\r\nGET a\r\nHELLO 2\r\nGET a\r\n").await;
    client.expect("$-1\r\n%7\r\n").await;
    while client.line().await != "*0" {}
    client.expect("_\r\n*14\r\n").await;
    while client.line().await != "*0" {}
    client.expect("$-1\r\n").await;
}

#[tokio::test]
async fn helios_ack_sets_the_ack_level_of_a_connection() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.check("HELIOS.ACK", "$8\r\nmajority").await;
    client.check("helios.ack all", "+OK").await;
    client.check("SET a 1", "+OK").await;
    assert_eq!(*server.db.0.ack.lock().unwrap(), Ack::All);
    client.check("HELIOS.ACK", "$3\r\nall").await;
    client.check("HELIOS.ACK one", "-ERR ack 'one': use MAJORITY or ALL").await;
    client.check("RESET", "+RESET").await;
    client.check("SET a 1", "+OK").await;
    assert_eq!(*server.db.0.ack.lock().unwrap(), Ack::Majority);
}

#[tokio::test]
async fn connection_reads_its_own_writes_and_those_of_its_token() {
    let server = Server::start().await;
    let (mut writer, mut reader) = (server.client().await, server.client().await);
    let after = || server.db.0.after.lock().unwrap().clone();
    writer.check("HELIOS.TOKEN", "$-1").await;
    writer.check("READONLY", "+OK").await;
    writer.check("GET a", "$-1").await;
    assert_eq!(after(), None);
    writer.send("SET a 1\r\nINCR a\r\nGET a\r\n").await;
    writer.expect("+OK\r\n:2\r\n$1\r\n2\r\n").await;
    assert_eq!(after(), Some(Token { cluster_id: "demo".into(), term: 1, index: 2 }));
    let token = writer.text("HELIOS.TOKEN").await;

    reader.send(format!("READONLY\r\nGET a\r\nHELIOS.TOKEN {token}\r\nGET a\r\n")).await;
    reader.expect("+OK\r\n$1\r\n2\r\n+OK\r\n$1\r\n2\r\n").await;
    assert_eq!(after().map(|token| token.index), Some(2));
    // What a connection has only read is after the write as well, and a state that it asked for is not forgotten.
    reader.check("HELIOS.TOKEN SEEN", "$8\r\ndemo:1:2").await;
    reader.send("HELIOS.TOKEN demo:7:99\r\nHELIOS.TOKEN seen\r\n").await;
    reader.expect("+OK\r\n$9\r\ndemo:7:99\r\n").await;
    reader.check("RESET", "+RESET").await;
    reader.check(&format!("HELIOS.TOKEN {}", token.trim_end()), "+OK").await;
    // An older token changes nothing.
    reader.check("HELIOS.TOKEN demo:1:1", "+OK").await;
    assert_eq!(reader.text("HELIOS.TOKEN").await.trim_end(), token.trim_end());
    reader.check("HELIOS.TOKEN other:1:9", "-ERR the token is of cluster other, this is demo").await;
    reader.check("HELIOS.TOKEN x", "-ERR no token: use the reply to HELIOS.TOKEN after a write").await;
}

#[tokio::test]
async fn helios_read_sets_the_consistency_of_a_connection() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (set, shown) in
        [("STALE", "stale"), ("stale 500", "stale 500"), ("lease", "lease"), ("LINEARIZABLE", "linearizable")]
    {
        client.check(&format!("HELIOS.READ {set}"), "+OK").await;
        client.check("HELIOS.READ", &format!("${}\r\n{shown}", shown.len())).await;
    }
    client.send("HELIOS.READ STALE 500\r\nGET a\r\nREADONLY\r\nGET a\r\nREADWRITE\r\nGET a\r\n").await;
    client.expect("+OK\r\n$-1\r\n+OK\r\n$-1\r\n+OK\r\n$-1\r\n").await;
    assert_eq!(server.db.take_barriers(), 2);
    for wrong in ["STALE 0", "STALE -1", "STALE x", "STALE 1 2", "FRESH"] {
        client.send(format!("HELIOS.READ {wrong}\r\n")).await;
        assert!(client.line().await.starts_with("-ERR "), "{wrong}");
    }
}
