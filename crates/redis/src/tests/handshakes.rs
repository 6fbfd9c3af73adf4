//! Requests that client libraries send on connecting, byte for byte as recorded, and the replies that they
//! need.

use super::*;

fn request(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words}", words.matches('$').count())
}

const HELLO_3: &str = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n\
                       $4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
const NO_MAINTENANCE: &str = "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.\r\n";

#[tokio::test]
async fn redis_py_8() {
    let server = Server::with(Limits::default(), Some("p")).await;
    let mut client = server.client().await;
    client.send(request(&["HELLO", "3", "AUTH", "default", "p"])).await;
    client.expect(HELLO_3).await;
    let maintenance = ["CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "internal-ip"];
    client.send(request(&maintenance)).await;
    client.expect(NO_MAINTENANCE).await;
    client.send(request(&["CLIENT", "SETINFO", "LIB-NAME", "redis-py"])).await;
    client.send(request(&["CLIENT", "SETINFO", "LIB-VER", "8.1.0"])).await;
    client.send(request(&["SELECT", "0"])).await;
    client.expect("+OK\r\n+OK\r\n+OK\r\n").await;
    assert!(client.text("CLIENT LIST").await.contains("resp=3 lib-name=redis-py lib-ver=8.1.0"));
}

#[tokio::test]
async fn ioredis_6() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send(request(&["hello", "3"])).await;
    client.expect(HELLO_3).await;
    client.send(request(&["client", "setname", "app"])).await;
    client.send(request(&["client", "SETINFO", "LIB-NAME", "ioredis"])).await;
    client.send(request(&["client", "SETINFO", "LIB-VER", "6.0.0"])).await;
    client.expect("+OK\r\n+OK\r\n+OK\r\n").await;
    let info = client.text("info").await;
    assert!(info.starts_with("txt:# Server") && info.contains("\r\nloading:0\r\n"));
}

#[tokio::test]
async fn node_redis_6() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let connect = [
        request(&["HELLO", "3"]),
        request(&["CLIENT", "SETINFO", "LIB-NAME", "node-redis"]),
        request(&["CLIENT", "SETINFO", "LIB-VER", "6.3.0"]),
        request(&["CLIENT", "MAINT_NOTIFICATIONS", "ON"]),
    ];
    client.send(connect.concat()).await;
    client.expect(&format!("{HELLO_3}+OK\r\n+OK\r\n{NO_MAINTENANCE}")).await;
    client.send(request(&["QUIT"])).await;
    client.expect("+OK\r\n").await;
    client.expect_end().await;
}

/// Lettuce reads `id`, `mode`, `version` and `role` as typed values.
#[tokio::test]
async fn lettuce() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send(request(&["HELLO", "3", "SETNAME", "app"])).await;
    client.expect(HELLO_3).await;
    client.check("CLIENT GETNAME", "$3\r\napp").await;
}

#[tokio::test]
async fn redis_benchmark_and_redis_cli_pipe() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send(request(&["CONFIG", "GET", "save"]) + &request(&["CONFIG", "GET", "appendonly"])).await;
    client.expect("*2\r\n$4\r\nsave\r\n$0\r\n\r\n*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n").await;
    client.send("PING\r\nSET k v\r\n*2\r\n$4\r\nECHO\r\n$20\r\n\0\r\n\x01aaaaaaaaaaaaaaaa\r\n").await;
    client.expect("+PONG\r\n+OK\r\n$20\r\n\0\r\n\x01aaaaaaaaaaaaaaaa\r\n").await;
}

/// Runs the real redis-cli.
#[tokio::test]
async fn redis_cli() {
    let server = Server::start().await;
    let port = server.port.to_string();
    let run = |arguments: &'static [&'static str]| {
        let mut command = tokio::process::Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &port]).args(arguments).kill_on_drop(true);
        async move { command.output().await }
    };
    let Ok(first) = run(&["SET", "mykey", "hello cluster", "EX", "100"]).await else {
        return helios_testing::skip_or_fail("redis-cli", "install redis-tools");
    };
    assert_eq!(String::from_utf8_lossy(&first.stdout), "OK\n");
    for (arguments, expected) in [
        (&["-3", "GET", "mykey"][..], "hello cluster\n"),
        (&["--scan", "--pattern", "my*"], "mykey\n"),
        (&["INCR", "mykey"], "ERR value is not an integer or out of range\n\n"),
    ] {
        let output = run(arguments).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}");
    }
}
