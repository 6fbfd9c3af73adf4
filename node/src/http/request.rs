//! Parsing of requests: query, headers, JSON body, within limits of size and time.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use helios_service::auth::Identity;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use warp::http::header::CONTENT_TYPE;
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use super::answer::{failed, unreadable};

const MAX_BODY_BYTES: usize = 8 << 20;
/// Time for the complete body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Content type that `curl -d` sends for any text; accepted as JSON, since S2's commands rely on it.
const FORM: &str = "application/x-www-form-urlencoded";

/// A request with its complete body.
pub struct Request {
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The authenticated user; `None` on routes that need none.
    pub user: Option<Identity>,
}

impl Request {
    /// Checks that the user may access the key.
    pub fn check_key(&self, key: &str) -> Result<(), Box<Response>> {
        let checked = self.user.as_ref().map_or(Ok(()), |user| user.check_key(key.as_bytes()));
        checked.map_err(|error| Box::new(failed(&error)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Parses the query string.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, Box<Response>> {
        serde_urlencoded::from_str(&self.query).map_err(|error| bad(format!("query: {error}")))
    }

    /// Parses the body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Box<Response>> {
        let kind = self.header(CONTENT_TYPE.as_str()).unwrap_or(FORM);
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") && !kind.eq_ignore_ascii_case(FORM) {
            let message = format!("Content-Type {kind:?}: send the body as application/json");
            return Err(Box::new(unreadable(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)));
        }
        serde_json::from_slice(&self.body).map_err(|error| bad(format!("body: {error}")))
    }

    /// As `json`; an empty body counts as an object without fields.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Box<Response>> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }
}

/// A whole number in a body, written as `1` or, as JSON Schema also allows, as `1.0`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(try_from = "serde_json::Number", bound = "T: TryFrom<u64>")]
pub struct Whole<T>(pub T);

impl<T: TryFrom<u64>> TryFrom<serde_json::Number> for Whole<T> {
    type Error = String;

    fn try_from(number: serde_json::Number) -> Result<Self, String> {
        // Up to here a double represents every whole number exactly.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let is_whole = |real: &f64| real.fract() == 0.0 && (0.0..=EXACT).contains(real);
        let whole = number.as_u64().or_else(|| Some(number.as_f64().filter(is_whole)? as u64));
        let fitting = whole.and_then(|whole| T::try_from(whole).ok());
        fitting.map(Self).ok_or_else(|| format!("{number} is not a whole number, or too large"))
    }
}

fn bad(message: String) -> Box<Response> {
    Box::new(unreadable(StatusCode::BAD_REQUEST, message))
}

/// Reads a complete body, within limits of size and time.
pub async fn collect<B, E>(body: impl Stream<Item = Result<B, E>>) -> Result<Bytes, Box<Response>>
where
    B: Buf,
    E: std::fmt::Display,
{
    let whole = async {
        let mut body = std::pin::pin!(body);
        let mut found = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| bad(format!("body: {error}")))?;
            if found.len() + piece.remaining() > MAX_BODY_BYTES {
                let message = format!("the body has more than {MAX_BODY_BYTES} bytes");
                return Err(Box::new(unreadable(StatusCode::PAYLOAD_TOO_LARGE, message)));
            }
            bytes::BufMut::put(&mut found, piece);
        }
        Ok(found.freeze())
    };
    tokio::time::timeout(BODY_TIMEOUT, whole).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {BODY_TIMEOUT:?}");
        Err(Box::new(unreadable(StatusCode::REQUEST_TIMEOUT, message)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_in_range_are_accepted() {
        let read = |text: &str| serde_json::from_str::<Whole<u16>>(text).map(|whole| whole.0).ok();
        assert_eq!(
            [read("0"), read("65535"), read("12.0"), read("1e3")],
            [Some(0), Some(65535), Some(12), Some(1000)]
        );
        for wrong in ["65536", "-1", "-1.0", "1.5", "1e300", "\"1\"", "null", "true"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
