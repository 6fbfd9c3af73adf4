//! A pod's port, forwarded to this machine by `kubectl port-forward`.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::time::Duration;

use anyhow::Context;
use redis::{IntoConnectionInfo, RedisConnectionInfo};

use crate::kubectl::{Kubectl, Running};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A running `kubectl port-forward`, ended when dropped.
pub struct Forward {
    _kubectl: Running,
    /// Pipe of kubectl's output, kept open: kubectl writes a line for each connection, and ends when it
    /// cannot.
    _output: BufReader<ChildStdout>,
    port: u16,
    password: Option<String>,
}

impl Forward {
    /// Forwards to `port` of `what`, e.g. `pod/demo-0`.
    ///
    /// # Errors
    /// When kubectl does not print the port on which it listens.
    pub fn to(kubectl: &Kubectl, what: &str, port: u16) -> anyhow::Result<Self> {
        let (kubectl, mut output) = kubectl.spawn(&["port-forward", what, &format!(":{port}")])?;
        let mut line = String::new();
        // kubectl prints the port at once or ends; when it has ended the line is empty.
        output.read_line(&mut line)?;
        let local = local_port(&line)
            .with_context(|| format!("kubectl port-forward {what} :{port} said {line:?}"))?;
        Ok(Self { _kubectl: kubectl, _output: output, port: local, password: None })
    }

    /// Sets the password for [`Self::query`].
    pub fn with_password(self, password: Option<String>) -> Self {
        Self { password, ..self }
    }

    /// Returns the local address that is forwarded.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a Redis command to the port and returns its reply.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the command.
    pub fn query<T: redis::FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        let said = || words.join(" ");
        let settings = match &self.password {
            Some(password) => RedisConnectionInfo::default().set_password(password),
            None => RedisConnectionInfo::default(),
        };
        let server = format!("redis://{}", self.address()).into_connection_info()?;
        let client = redis::Client::open(server.set_redis_settings(settings))?;
        let mut connection = client.get_connection_with_timeout(TIMEOUT).with_context(said)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        let (name, arguments) = words.split_first().context("a command has a name")?;
        redis::cmd(name).arg(arguments).query(&mut connection).with_context(said)
    }
}

/// Parses the port in `Forwarding from 127.0.0.1:40123 -> 6379`.
fn local_port(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::local_port;

    #[test]
    fn local_port_is_parsed_from_kubectls_output() {
        assert_eq!(local_port("Forwarding from 127.0.0.1:40123 -> 6379\n"), Some(40123));
        assert_eq!(local_port(""), None);
    }
}
