//! Key commands for inspecting a cluster (GET, SET, DEL, PTTL, EXPIRE), through any member.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, Value, cmd};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::Error;
use crate::lock::User;
use crate::place::Place;

/// A key command; it also formats its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Get { key: String },
    Set { key: String, value: String, ttl_seconds: Option<u64> },
    Del { keys: Vec<String> },
    Ttl { key: String },
    Expire { key: String, seconds: u64 },
}

/// Result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub text: String,
    /// False when the key does not exist.
    pub exists: bool,
}

impl Found {
    fn yes(text: impl Into<String>) -> Self {
        Self { text: text.into(), exists: true }
    }

    fn no(key: &str) -> Self {
        Self { text: format!("no key {key:?}"), exists: false }
    }
}

/// An authenticated connection to a Redis port.
pub struct Connection {
    pub commands: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Opens a connection for `doing`. `limit` is that of a response.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the user.
    pub async fn open(place: &Place, user: &User, doing: &str, limit: Duration) -> Result<Self, Error> {
        Self::of_database(place, user, doing, limit, 0).await
    }

    /// As [`Self::open`], with a database other than 0, which only other servers have.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn of_database(
        place: &Place,
        user: &User,
        doing: &str,
        limit: Duration,
        database: i64,
    ) -> Result<Self, Error> {
        let pipe = place.open().await?;
        let mut info = RedisConnectionInfo::default().set_db(database);
        if let Some(name) = &user.name {
            info = info.set_username(name);
        }
        if let Some(password) = &user.password {
            info = info.set_password(password);
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(limit));
        let opened = MultiplexedConnection::new_with_config(&info, pipe, config).await;
        let (commands, driver) = opened.map_err(|error| refused(place, doing, &error))?;
        Ok(Self { commands, driver: tokio::spawn(driver) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn refused(place: &Place, doing: &str, error: &RedisError) -> Error {
    Error::Refused {
        member: place.name().to_owned(),
        doing: doing.to_owned(),
        message: match error.kind() {
            ErrorKind::AuthenticationFailed => "WRONGPASS no user has this password".to_owned(),
            _ => error.to_string(),
        },
        hint: match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH")) => {
                "; give --user and --password-file".to_owned()
            }
            _ => String::new(),
        },
        retryable: false,
    }
}

/// Executes `request` at the member whose client port is at `place`.
///
/// # Errors
/// When the member cannot be reached, or replies with an error.
pub async fn ask(place: &Place, user: &User, request: &Request, limit: Duration) -> Result<Found, Error> {
    let talk = async {
        let mut connection = Connection::open(place, user, request.name(), limit).await?;
        let answer: Result<Value, _> = request.command().query_async(&mut connection.commands).await;
        request.read(answer.map_err(|error| refused(place, request.name(), &error))?)
    };
    match timeout(limit, talk).await {
        Ok(found) => found,
        Err(_) => Err(Error::Timeout {
            what: format!("{} through {}", request.name(), place.name()),
            last: "no answer; a write may have happened or not: read the key".to_owned(),
            limit,
        }),
    }
}

impl Request {
    fn name(&self) -> &'static str {
        match self {
            Self::Get { .. } => "GET",
            Self::Set { .. } => "SET",
            Self::Del { .. } => "DEL",
            Self::Ttl { .. } => "PTTL",
            Self::Expire { .. } => "EXPIRE",
        }
    }

    fn command(&self) -> Cmd {
        let mut command = cmd(self.name());
        match self {
            Self::Get { key } | Self::Ttl { key } => command.arg(key),
            Self::Set { key, value, ttl_seconds: None } => command.arg(key).arg(value),
            Self::Set { key, value, ttl_seconds: Some(ttl) } => {
                command.arg(key).arg(value).arg("EX").arg(*ttl)
            }
            Self::Del { keys } => command.arg(keys),
            Self::Expire { key, seconds } => command.arg(key).arg(*seconds),
        };
        command
    }

    fn read(&self, answer: Value) -> Result<Found, Error> {
        Ok(match (self, answer) {
            (Self::Get { key }, Value::Nil) => Found::no(key),
            (Self::Get { .. }, Value::BulkString(value)) => Found::yes(String::from_utf8_lossy(&value)),
            (Self::Set { .. }, Value::Okay) => Found::yes("OK"),
            (Self::Del { .. }, Value::Int(count)) => Found::yes(count.to_string()),
            (Self::Ttl { key } | Self::Expire { key, .. }, Value::Int(-2 | 0)) => Found::no(key),
            (Self::Ttl { .. }, Value::Int(-1)) => Found::yes("never"),
            (Self::Ttl { .. }, Value::Int(ms)) => Found::yes(format!("{}.{:03}", ms / 1000, ms % 1000)),
            (Self::Expire { .. }, Value::Int(_)) => Found::yes("OK"),
            (_, other) => return Err(Error::Output(format!("{} was answered with {other:?}", self.name()))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: Request, answer: Value) -> Found {
        request.read(answer).unwrap()
    }

    #[test]
    fn replies_are_formatted_as_text() {
        let key = || "k".to_owned();
        assert_eq!(read(Request::Get { key: key() }, Value::Nil), Found::no("k"));
        assert_eq!(read(Request::Get { key: key() }, Value::BulkString(b"v".into())), Found::yes("v"));
        assert_eq!(read(Request::Ttl { key: key() }, Value::Int(-1)), Found::yes("never"));
        assert_eq!(read(Request::Ttl { key: key() }, Value::Int(1500)), Found::yes("1.500"));
        assert_eq!(read(Request::Ttl { key: key() }, Value::Int(-2)), Found::no("k"));
        assert_eq!(read(Request::Expire { key: key(), seconds: 1 }, Value::Int(0)), Found::no("k"));
        assert_eq!(read(Request::Del { keys: vec![key()] }, Value::Int(0)), Found::yes("0"));
    }
}
