//! One connection to the server, opened again whenever it breaks.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo, RedisError,
};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Timeout of a connection attempt, enough for a name look-up and a handshake; a Service may still name the
/// address of a pod that is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Timeout of an answer; longer than an election, so that a write waits for the new leader on its connection.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);

/// HOST:PORT of a server, and the password that it requires; also as `redis://USER:PASSWORD@HOST:PORT`.
#[derive(Clone)]
pub struct Server {
    host: String,
    port: u16,
    password: Option<String>,
}

impl Server {
    pub fn with_password(self, password: Option<String>) -> Self {
        Self { password: password.filter(|password| !password.is_empty()).or(self.password), ..self }
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (login, text) = match text.strip_prefix("redis://").and_then(|url| url.rsplit_once('@')) {
            Some((login, address)) => (Some(login), address),
            None => (None, text),
        };
        let password = login.and_then(|login| Some(login.split_once(':')?.1.to_owned()));
        let (host, port) =
            text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).ok_or("write HOST:PORT")?;
        let port = port.parse().map_err(|_| format!("{port:?} is no port; write HOST:PORT"))?;
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, password })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Error of an attempt.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot connect: {0}")]
    Connect(RedisError),
    #[error("cannot connect: no answer in time")]
    ConnectTimeout,
    #[error("no answer in time")]
    AnswerTimeout,
    #[error("the connection broke: {0}")]
    Broken(RedisError),
    #[error("refused: {0}")]
    Refused(RedisError),
}

pub struct Link {
    server: Server,
    connection: Option<MultiplexedConnection>,
}

impl Link {
    pub fn new(server: Server) -> Self {
        Self { server, connection: None }
    }

    /// Makes one attempt, given up at `deadline` at the latest. After an error other than a refusal the next
    /// attempt uses a new connection.
    pub async fn attempt<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(deadline).await?,
        };
        let limit = deadline.min(Instant::now() + ANSWER_TIMEOUT);
        match timeout_at(limit, command.query_async(&mut connection)).await {
            Err(_) => Err(LinkError::AnswerTimeout),
            Ok(Err(error)) if error.is_unrecoverable_error() || error.is_io_error() => {
                Err(LinkError::Broken(error))
            }
            Ok(answer) => {
                self.connection = Some(connection);
                answer.map_err(LinkError::Refused)
            }
        }
    }

    /// Repeats the command until it succeeds; returns the last error when `deadline` has passed.
    pub async fn persist<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<T, LinkError> {
        loop {
            match self.attempt(command, deadline).await {
                Err(error) if !pause(deadline).await => return Err(error),
                Err(_) => {}
                answer => return answer,
            }
        }
    }

    async fn connect(&self, deadline: Instant) -> Result<MultiplexedConnection, LinkError> {
        let address = ConnectionAddr::Tcp(self.server.host.clone(), self.server.port);
        // The client's timeouts are off, because ours depend on the time left until the deadline.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let settings = match &self.server.password {
            Some(password) => RedisConnectionInfo::default().set_password(password),
            None => RedisConnectionInfo::default(),
        };
        let info = address.into_connection_info().map_err(LinkError::Connect)?.set_redis_settings(settings);
        let client = Client::open(info).map_err(LinkError::Connect)?;
        let limit = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        timeout_at(limit, client.get_multiplexed_async_connection_with_config(&config))
            .await
            .map_err(|_| LinkError::ConnectTimeout)?
            .map_err(LinkError::Connect)
    }
}

/// Pauses before the next attempt; returns false when `deadline` is too near for one.
pub async fn pause(deadline: Instant) -> bool {
    let next = Instant::now() + BETWEEN_ATTEMPTS;
    if next >= deadline {
        return false;
    }
    sleep_until(next).await;
    true
}

pub fn set(key: &str, value: &str, expires_in: Option<Duration>) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(value);
    if let Some(time) = expires_in {
        command.arg("PX").arg(time.as_millis().to_string());
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_parsed_from_host_and_port() {
        assert_eq!("demo.default.svc:6379".parse::<Server>().unwrap().to_string(), "demo.default.svc:6379");
        assert_eq!("[::1]:6379".parse::<Server>().unwrap().host, "::1");
        let url = "redis://default:secret@demo:6379".parse::<Server>().unwrap().with_password(None);
        assert_eq!((url.to_string().as_str(), url.password.as_deref()), ("demo:6379", Some("secret")));
        for wrong in ["demo", ":6379", "demo:", "demo:redis", "demo:65536"] {
            assert!(wrong.parse::<Server>().is_err(), "{wrong}");
        }
    }
}
