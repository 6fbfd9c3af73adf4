//! The server that data is imported from, and the connection to it as a replica (PSYNC).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use helios_proto::tls::{ClientTls, Pipe};
use redis::{ConnectionAddr, IntoConnectionInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::args::ImportArgs;
use super::progress::{Progress, mib, note};
use super::spool;
use super::target::Retry;
use crate::error::Error;
use crate::lock::{Lock, User, read};
use crate::place::Place;

const READ_BYTES: usize = 64 << 10;
const MAX_LINE_BYTES: usize = 64 << 10;
/// Length of the mark after an RDB file of unknown length.
const MARK_BYTES: usize = 40;
const ACK_EVERY: Duration = Duration::from_secs(1);
/// A source that is silent for longer is taken for gone; it sends a PING every ten seconds.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Source {
    pub place: Place,
    pub user: User,
    has_tls: bool,
    patience: Duration,
}

impl Source {
    /// # Errors
    /// When the URL or a file of the command line cannot be used.
    pub fn new(url: &str, args: &ImportArgs) -> Result<Self, Error> {
        let wrong = |why: String| Error::Impossible(format!("--from {why}; write redis://[USER@]HOST:PORT"));
        let has_tls = url.starts_with("rediss://") || url.starts_with("valkeys://");
        let plain = url.replacen("rediss://", "redis://", 1).replacen("valkeys://", "redis://", 1);
        let info = plain.as_str().into_connection_info().map_err(|error| wrong(error.to_string()))?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(wrong("is no address of a server".to_owned()));
        };
        if info.redis_settings().db() != 0 {
            return Err(wrong("has a database: choose it with --database".to_owned()));
        }
        let tls = match (&args.from_cacert, has_tls) {
            (Some(ca), true) => {
                let tls = ClientTls::from_pem(&read(ca)?, None);
                Some(tls.map_err(|error| Error::Impossible(format!("--from-cacert {error}")))?)
            }
            (None, true) => return Err(Error::Impossible("rediss:// needs --from-cacert".to_owned())),
            (Some(_), false) => return Err(Error::Impossible("--from-cacert is for rediss://".to_owned())),
            (None, false) => None,
        };
        let settings = info.redis_settings();
        let user = User::new(
            settings.username().map(str::to_owned),
            settings.password().map(str::to_owned),
            args.from_password_file.as_deref(),
        )?;
        let lock = Lock { tls, advice: Some("give the CA of the source with --from-cacert".to_owned()) };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        Ok(Self {
            place: Place::address(format!("{host}:{port}"), lock),
            user,
            has_tls,
            patience: args.patience,
        })
    }

    /// Names the source in an error of its connection.
    pub fn unreachable(&self, error: Error) -> Error {
        match error {
            Error::Unreachable { message, .. } => self.failed(message),
            Error::Refused { doing, message, hint, retryable, .. } => {
                // The flags in the hint are those of the target. Errors that the server replies have their code in quotes.
                let hint = if !hint.is_empty() {
                    "; write redis://USER@HOST:PORT, and give its password with --from-password-file"
                } else if !self.has_tls && !message.starts_with('"') {
                    "; a port with TLS needs rediss:// and --from-cacert"
                } else {
                    ""
                };
                let (member, hint) = (format!("the source {}", self.place.name()), hint.to_owned());
                Error::Refused { member, doing, message, hint, retryable }
            }
            other => other,
        }
    }

    fn failed(&self, message: impl Into<String>) -> Error {
        Error::Unreachable {
            place: format!("the source {}", self.place.name()),
            message: message.into(),
            advice: "does it run, and does its user have the rights of a replica (+psync +replconf +ping)?"
                .to_owned(),
        }
    }

    /// Connects and introduces itself as a replica.
    ///
    /// # Errors
    /// When the source cannot be reached, or refuses.
    pub async fn connect(&self) -> Result<Link, Error> {
        let pipe = self.place.open().await.map_err(|error| self.unreachable(error))?;
        let mut link = Link { pipe, source: self.clone(), buffer: Vec::new(), heard: Instant::now() };
        if let Some(password) = &self.user.password {
            let mut words = vec!["AUTH"];
            words.extend(self.user.name.as_deref());
            words.push(password);
            link.ask(&words).await?;
        }
        link.ask(&["PING"]).await?;
        // Port 0: no client is sent here.
        link.ask(&["REPLCONF", "listening-port", "0"]).await?;
        link.ask(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
        Ok(link)
    }
}

/// Position in the stream of a source.
#[derive(Debug, Clone)]
pub struct Position {
    pub id: String,
    pub offset: u64,
}

/// A connection to the source as a replica.
pub struct Link {
    pipe: Pipe,
    source: Source,
    /// Bytes that were received and not used.
    buffer: Vec<u8>,
    heard: Instant,
}

impl Link {
    async fn send(&mut self, words: &[&str]) -> Result<(), Error> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let sent = self.pipe.write_all(request.as_bytes()).await;
        sent.map_err(|error| self.source.failed(error.to_string()))
    }

    async fn ask(&mut self, words: &[&str]) -> Result<String, Error> {
        self.send(words).await?;
        let line = self.line().await?;
        match line.strip_prefix('-') {
            None => Ok(line),
            Some(error) => {
                let name = if words[0] == "PSYNC" || words[0] == "REPLCONF" {
                    format!("{} (managed services often do: import an RDB file of theirs)", words[0])
                } else {
                    words[0].to_owned()
                };
                Err(self.source.failed(format!("it refuses {name}: {error}")))
            }
        }
    }

    /// Receives more bytes into the buffer. It may be cancelled.
    async fn fill(&mut self) -> Result<(), Error> {
        self.buffer.reserve(READ_BYTES);
        let read = tokio::time::timeout_at(self.heard + SILENCE, self.pipe.read_buf(&mut self.buffer)).await;
        let read = read
            .unwrap_or_else(|_| Err(std::io::Error::other(format!("silent for {} s", SILENCE.as_secs()))));
        self.heard = Instant::now();
        match read {
            Ok(0) => Err(self.source.failed("it closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(self.source.failed(error.to_string())),
        }
    }

    /// The next line that is not empty.
    async fn line(&mut self) -> Result<String, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if !line.is_empty() {
                    return Ok(line);
                }
            } else if self.buffer.len() > MAX_LINE_BYTES {
                return Err(self.source.failed("its answer is no line"));
            } else {
                self.fill().await?;
            }
        }
    }

    /// Requests all data; returns the position after it. `receive` comes next.
    ///
    /// # Errors
    /// When the source refuses.
    pub async fn full_sync(&mut self) -> Result<Position, Error> {
        let line = self.ask(&["PSYNC", "?", "-1"]).await?;
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next().and_then(|offset| offset.parse().ok())) {
            (Some("+FULLRESYNC"), Some(id), Some(offset)) => Ok(Position { id: id.to_owned(), offset }),
            _ => Err(self.source.failed(format!("it answers PSYNC with {line:?}"))),
        }
    }

    /// Receives the RDB file.
    ///
    /// # Errors
    /// When the connection ends, or the file cannot be written.
    pub async fn receive(&mut self, path: &Path, progress: &mut Progress) -> Result<(), Error> {
        // The source sends empty lines while it prepares the file.
        let line = self.line().await?;
        let Some(header) = line.strip_prefix('$') else {
            return Err(self.source.failed("it sends no RDB file"));
        };
        let mark = header.strip_prefix("EOF:").map(|mark| mark.as_bytes().to_vec());
        let length = match &mark {
            Some(mark) if mark.len() == MARK_BYTES => None,
            Some(_) => return Err(self.source.failed("the mark of its RDB file is malformed")),
            None => match header.parse::<u64>() {
                Ok(length) => Some(length),
                Err(_) => return Err(self.source.failed("the length of its RDB file is malformed")),
            },
        };
        let failed = |source| Error::File { path: path.to_owned(), source };
        let mut file = File::create(path).map_err(failed)?;
        let mut received = 0;
        loop {
            // The end of the buffer may be a part of the mark, after which the source sends nothing before an ACK.
            let (usable, is_end) = match (&mark, length) {
                (Some(mark), _) if self.buffer.ends_with(mark) => (self.buffer.len() - MARK_BYTES, true),
                (Some(_), _) => (self.buffer.len().saturating_sub(MARK_BYTES), false),
                (None, length) => {
                    let left = length.unwrap_or(0) - received;
                    let usable = (self.buffer.len() as u64).min(left);
                    (usable as usize, usable == left)
                }
            };
            file.write_all(&self.buffer[..usable]).map_err(failed)?;
            self.buffer.drain(..usable);
            received += usable as u64;
            if is_end {
                self.buffer.drain(..mark.map_or(0, |mark| mark.len()));
                return Ok(());
            }
            if progress.is_due() {
                note(&format!("receiving: {}", mib(received)));
            }
            self.fill().await?;
        }
    }

    /// Appends the commands to the spool, until its reader is gone or the source cannot be followed, and acknowledges what
    /// was applied. `applied` counts bytes after `start`.
    pub async fn follow(self, start: Position, mut spool: spool::Writer, applied: Arc<AtomicU64>) {
        let mut followed = Followed { link: self, id: start.id, base: start.offset, applied };
        if let Err(error) = followed.run(&mut spool).await {
            spool.end(error.to_string());
        }
    }
}

struct Followed {
    link: Link,
    id: String,
    base: u64,
    applied: Arc<AtomicU64>,
}

impl Followed {
    async fn run(&mut self, spool: &mut spool::Writer) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(ACK_EVERY);
        loop {
            if !self.link.buffer.is_empty() {
                spool.append(&self.link.buffer, super::now_ms())?;
                self.link.buffer.clear();
            }
            let used = tokio::select! {
                filled = self.link.fill() => filled,
                _ = ticks.tick() => self.acknowledge().await,
                () = spool.closed() => return Ok(()),
            };
            if let Err(error) = used {
                note(&format!("{error}; connecting again"));
                self.resume(spool.bytes(), error).await?;
            }
        }
    }

    async fn acknowledge(&mut self) -> Result<(), Error> {
        let offset = (self.base + self.applied.load(Ordering::Relaxed)).to_string();
        self.link.send(&["REPLCONF", "ACK", &offset]).await
    }

    /// Connects again and continues after the last byte.
    async fn resume(&mut self, received: u64, lost: Error) -> Result<(), Error> {
        let next = (self.base + received + 1).to_string();
        let mut retry = Retry::new(self.link.source.patience);
        let mut last = lost.to_string();
        loop {
            retry.pause("reach the source again", last).await?;
            let mut link = match self.link.source.connect().await {
                Ok(link) => link,
                Err(error) => {
                    last = error.to_string();
                    continue;
                }
            };
            let answer = match link.ask(&["PSYNC", &self.id, &next]).await {
                Ok(answer) => answer,
                Err(error) => {
                    last = error.to_string();
                    continue;
                }
            };
            let mut words = answer.split(' ');
            if words.next() != Some("+CONTINUE") {
                return Err(Error::Impossible(format!(
                    "the source {} no longer has the commands after the lost connection (it was restarted, or \
                     repl-backlog-size is too small)",
                    self.link.source.place.name()
                )));
            }
            if let Some(id) = words.next() {
                self.id = id.to_owned();
            }
            self.link = link;
            return Ok(());
        }
    }
}
