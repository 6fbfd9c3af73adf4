//! Clients of the Redis and HTTP ports, and helpers for their replies.

use std::time::Duration;

use helios_proto::v1::ErrorCode;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens a Redis connection whose replies time out after `timeout`.
pub async fn connect(port: u16, timeout: Duration) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT.min(timeout)))
        .set_response_timeout(Some(timeout));
    redis::Client::open(("127.0.0.1", port))?.get_multiplexed_async_connection_with_config(&config).await
}

/// Returns our error code in a failed gRPC response.
pub fn error_code<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> ErrorCode {
    helios_proto::detail_of(&answer.unwrap_err()).code()
}

/// Returns the value of `field` in a reply to INFO.
pub fn info_field<'a>(info: &'a str, field: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {field} in:\n{info}"))
}

/// Sends one request with an optional JSON body; returns the status code and the body of the response, or
/// `None` when there was no complete response.
pub async fn http(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let (code, _, body) = http_with(port, method, path, "content-type: application/json\r\n", body).await?;
    Some((code, body))
}

/// As `http`, with `headers` instead of the content type; also returns the head of the response in lower
/// case.
pub async fn http_with(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Option<(u16, String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let host = if headers.contains("host:") { "" } else { "host: 127.0.0.1\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    tokio::time::timeout(super::PATIENCE, stream.read_to_string(&mut answer)).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((code, head.to_ascii_lowercase(), body.to_owned()))
}
