//! State of an archiver, as its `/status` has it.

use std::net::IpAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::build::backup::STATUS_PORT;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest document that is read.
const MAX_BYTES: usize = 1 << 20;

/// Fields that another version does not have are absent, or zero.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiverStatus {
    pub cluster_id: String,
    pub incarnation: u64,
    pub state: String,
    pub message: String,
    pub archived_index: u64,
    pub archived_now_ms: u64,
    pub lag_seconds: f64,
    pub gaps: Vec<Gap>,
    pub last_base: Option<Base>,
    pub recoverable: Vec<Range>,
    pub last_gc_ms: Option<u64>,
    pub encrypted: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
}

/// A base, as the archiver or a Job reports it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Base {
    pub cluster_id: String,
    pub index: u64,
    pub term: u64,
    pub now_ms: u64,
    pub bytes: u64,
    pub stored_bytes: u64,
    pub keys: u64,
    pub state_digest: Option<String>,
    pub key_id: Option<String>,
    pub member: Option<String>,
    pub started_ms: u64,
    pub finished_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Range {
    pub from_index: u64,
    pub from_ms: u64,
    pub to_index: u64,
    pub to_ms: u64,
    pub bases: u64,
    pub bytes: u64,
}

/// State of the archiver at `address`; `None` if it does not answer in time.
pub async fn status(address: Option<&str>) -> Option<ArchiverStatus> {
    let address: IpAddr = address?.parse().ok()?;
    let port = STATUS_PORT.unsigned_abs() as u16;
    match tokio::time::timeout(TIMEOUT, get(address, port)).await {
        Ok(Ok(status)) => Some(status),
        Ok(Err(reason)) => {
            tracing::debug!(%address, reason, "no status of the archiver");
            None
        }
        Err(_) => None,
    }
}

async fn get(address: IpAddr, port: u16) -> Result<ArchiverStatus, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect((address, port)).await.map_err(|e| words(&e))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| words(&e))?;
    let request = Request::get("/status").header(HOST, "archiver").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(|e| words(&e))?);
    let read = async {
        let answer = answer.await.map_err(|e| words(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("HTTP {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(|e| words(&e))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|e| words(&e))
    };
    tokio::pin!(read);
    // The connection only carries the answer, and ends with it.
    tokio::select! {
        result = &mut read => result,
        ended = connection => match ended {
            Ok(()) => read.await,
            Err(error) => Err(words(&error)),
        },
    }
}

/// A time in milliseconds since the Unix epoch; `None` for zero, and for one that no calendar has.
pub fn moment(ms: u64) -> Option<Timestamp> {
    (ms > 0).then(|| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with `text` as the body.
    async fn answering(head: &'static str, text: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            _ = stream.read(&mut request).await.unwrap();
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            _ = stream.write_all(answer.as_bytes()).await;
        });
        port
    }

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn status_of_the_archiver_is_read() {
        let text = r#"{"clusterId":"c","state":"Archiving","archivedIndex":7,"lagSeconds":1.5,"newer":true,
            "lastBase":{"index":5,"finishedMs":1800000000000},"recoverable":[{"fromIndex":5,"toIndex":7}]}"#;
        let port = answering("HTTP/1.1 200 OK", text.to_owned()).await;
        let status = get(LOCAL, port).await.unwrap();
        assert_eq!((&*status.state, status.archived_index, status.lag_seconds), ("Archiving", 7, 1.5));
        assert_eq!((status.last_base.unwrap().index, status.recoverable[0].to_index), (5, 7));
    }

    #[tokio::test]
    async fn answer_is_refused_when_it_is_an_error_or_too_long() {
        let port = answering("HTTP/1.1 500 No", String::new()).await;
        assert!(get(LOCAL, port).await.unwrap_err().contains("500"));
        let port = answering("HTTP/1.1 200 OK", " ".repeat(MAX_BYTES + 1)).await;
        assert!(get(LOCAL, port).await.is_err());
    }

    #[test]
    fn moment_is_absent_when_it_is_zero_or_beyond_the_calendar() {
        assert_eq!(moment(1000), Some(Timestamp::from_second(1).unwrap()));
        assert_eq!((moment(0), moment(u64::MAX)), (None, None));
    }
}
