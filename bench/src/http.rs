//! Health and metrics over HTTP, which heliosd and etcd serve under almost the same names.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the body of a response with status 200.
pub async fn get(port: u16, path: &str) -> Option<String> {
    tokio::time::timeout(TIMEOUT, ask(port, path)).await.ok()?
}

async fn ask(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    // With version 1.0 the body is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_ok = head.split_ascii_whitespace().nth(1) == Some("200");
    is_ok.then(|| body.to_owned())
}

/// Returns the value of a metric without labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn metric_is_matched_by_its_whole_name() {
        let text = "# HELP a_total\na_total_more 1\na_total 2\nb{c=\"d\"} 3\n";
        assert_eq!(metric(text, "a_total"), Some(2.0));
        assert_eq!(metric(text, "b"), None);
    }
}
