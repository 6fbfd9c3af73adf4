//! One connection to a member, authenticated and with the settings of the client that it is for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use helios_proto::tls::Pipe;
use helios_proto::v1::Token;
use helios_service::token;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::members::{Member, Members};
use crate::reply::{Scanner, prelude};
use crate::request::{POSITION, encode};
use crate::secret::Identity;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Limit of the TLS handshake, AUTH and the settings.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// A member whose host is gone is noticed by TCP: data that is not acknowledged, and probes of an idle connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;
/// Pause after all members were tried.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// Capacity in bytes above which an empty buffer is freed.
pub const KEPT_BYTES: usize = 4 * 1024;
/// Bytes read at once.
pub const CHUNK_BYTES: usize = 16 * 1024;

pub struct Upstream {
    pub member: Member,
    /// Number of the identity that it authenticated with.
    pub identity: u64,
    stream: Pipe,
    pub input: BytesMut,
    pub output: BytesMut,
    /// Offset of the end of `output` in all bytes of the connection.
    pub queued: u64,
    /// Offset of its begin: so many bytes the socket has taken.
    pub written: u64,
    is_flushed: bool,
    /// Whether the direction to the member was closed.
    pub is_half_closed: bool,
    /// Whether a write failed. Replies that arrived before are still read.
    is_broken: bool,
}

/// A source of the current identity, and the members.
pub struct Dialer {
    pub members: Arc<Members>,
    pub identity: tokio::sync::watch::Receiver<Arc<Identity>>,
    pub server_name: Option<String>,
}

impl Dialer {
    /// Opens a connection to the first member that accepts it, as long as requests may wait for one.
    ///
    /// # Errors
    /// No member accepted a connection: why the last one did not.
    pub async fn open(&self, replay: &[Vec<Bytes>]) -> Result<Upstream, String> {
        let deadline = Instant::now() + self.members.patience();
        while Instant::now() < deadline {
            let limit = deadline.saturating_duration_since(Instant::now());
            if let Ok(Some(upstream)) = timeout(limit, self.open_once(replay)).await {
                return Ok(upstream);
            }
            tokio::time::sleep(ROUND_PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
            self.members.resolve().await;
        }
        Err(self.members.problem())
    }

    /// Tries each member once.
    pub async fn open_once(&self, replay: &[Vec<Bytes>]) -> Option<Upstream> {
        let number = self.identity.borrow().number;
        if !self.members.may_authenticate(number) {
            return None;
        }
        for member in self.members.in_order() {
            match self.open_to(member.clone(), replay).await {
                Ok(upstream) => {
                    self.members.contact();
                    self.members.prefer(&member);
                    self.members.report(String::new());
                    return Some(upstream);
                }
                Err(problem) => {
                    let is_refused = problem.starts_with("WRONGPASS ");
                    self.members.report(format!("{}: {problem}", member.address));
                    if is_refused {
                        self.members.refused(number);
                        // Another member may have the changed users already.
                        self.members.avoid(&member);
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Connects to this member, without making it the one that is used. `None`: it did not accept the connection.
    pub async fn open_apart(&self, member: &Member) -> Option<Upstream> {
        let number = self.identity.borrow().number;
        if !self.members.may_authenticate(number) {
            return None;
        }
        let opened = self.open_to(member.clone(), &[]).await;
        if opened.as_ref().is_err_and(|problem| problem.starts_with("WRONGPASS ")) {
            self.members.refused(number);
        }
        opened.ok()
    }

    async fn open_to(&self, member: Member, replay: &[Vec<Bytes>]) -> Result<Upstream, String> {
        let identity = Arc::clone(&self.identity.borrow());
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(member.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the connection was not accepted within 1 s".to_owned()),
        };
        prepare(&stream).map_err(|error| error.to_string())?;
        let set_up = async {
            let stream: Pipe = match &identity.tls {
                Some(tls) => {
                    let name = self.server_name.as_deref().unwrap_or(&member.host);
                    Box::new(tls.handshake(stream, name).await.map_err(|error| error.to_string())?)
                }
                None => Box::new(stream),
            };
            let mut upstream = Upstream::new(member, identity.number, stream);
            upstream.set_up(&identity, replay).await?;
            Ok(upstream)
        };
        timeout(SET_UP_TIMEOUT, set_up)
            .await
            .unwrap_or_else(|_| Err("no answer to AUTH within 3 s".to_owned()))
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

impl Upstream {
    fn new(member: Member, identity: u64, stream: Pipe) -> Self {
        Self {
            member,
            identity,
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            queued: 0,
            written: 0,
            is_flushed: true,
            is_half_closed: false,
            is_broken: false,
        }
    }

    async fn set_up(&mut self, identity: &Identity, replay: &[Vec<Bytes>]) -> Result<(), String> {
        let mut requests = BytesMut::new();
        let auth = identity.auth();
        if let Some(auth) = &auth {
            encode(auth, &mut requests);
        }
        replay.iter().for_each(|words| encode(words, &mut requests));
        let mut count = usize::from(auth.is_some()) + replay.len();
        if count == 0 {
            // Without a reply it is not known whether the member takes this client.
            encode(&["PING"], &mut requests);
            count = 1;
        }
        let failed = |error: io::Error| error.to_string();
        self.stream.write_all(&requests).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)?;
        for _ in 0..count {
            if let Some(error) = self.next_reply().await.map_err(failed)? {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sends a request outside of the queue and returns the error that it is answered with, if any.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn ask(&mut self, words: &[&str]) -> io::Result<Option<String>> {
        let mut request = BytesMut::new();
        encode(words, &mut request);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        self.next_reply().await
    }

    /// Reads `key`, which sees all that is acknowledged by now, outside of the queue. Returns the token of a state that
    /// has all that the read saw; `None` if the member could not read.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn position_after_read(&mut self, key: &[u8]) -> io::Result<Option<Token>> {
        let mut requests = BytesMut::new();
        encode(&[&b"EXISTS"[..], key], &mut requests);
        encode(&POSITION, &mut requests);
        self.stream.write_all(&requests).await?;
        self.stream.flush().await?;
        let read = self.next_answer().await?;
        let position = self.next_answer().await?;
        Ok(position.ok().filter(|_| read.is_ok()).as_deref().and_then(token::parse))
    }

    async fn next_reply(&mut self) -> io::Result<Option<String>> {
        self.next_answer().await.map(Result::err)
    }

    /// Returns the begin of the next reply; the inner error is an error reply.
    async fn next_answer(&mut self) -> io::Result<Result<String, String>> {
        let malformed =
            |_| io::Error::new(io::ErrorKind::InvalidData, "the answer is none of a Redis server");
        let (mut scanner, mut answer) = (Scanner::default(), None);
        loop {
            if answer.is_none()
                && let Some(begin) = prelude(&self.input).map_err(malformed)?
            {
                let word = String::from_utf8_lossy(begin.word).into_owned();
                answer = Some(if begin.is_error() { Err(word) } else { Ok(word) });
            }
            if answer.is_some() {
                let (taken, is_done) = scanner.advance(&self.input).map_err(malformed)?;
                self.input.advance(taken);
                if is_done && let Some(answer) = answer {
                    return Ok(answer);
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Queues a request; returns the offset of its end.
    pub fn send(&mut self, words: &[impl AsRef<[u8]>]) -> u64 {
        let before = self.output.len();
        encode(words, &mut self.output);
        self.queued += (self.output.len() - before) as u64;
        self.queued
    }

    /// Writes queued requests; ready when bytes were written or flushed.
    pub fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_written() || self.is_broken {
            return Poll::Pending;
        }
        let written = if self.output.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_flush(context)).map(|()| self.is_flushed = true)
        } else {
            ready!(Pin::new(&mut self.stream).poll_write(context, &self.output)).map(|count| self.took(count))
        };
        self.is_broken |= written.is_err();
        Poll::Ready(())
    }

    fn took(&mut self, count: usize) {
        self.output.advance(count);
        if self.output.is_empty() && self.output.capacity() > KEPT_BYTES {
            self.output = BytesMut::new();
        }
        self.written += count as u64;
        self.is_flushed = false;
        self.is_broken |= count == 0;
    }

    /// Reads replies; ready with their number of bytes.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_receive(&mut self.stream, &mut self.input, context)
    }

    /// Closes the direction to the member once everything is written: its client sends nothing more.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    pub fn is_written(&self) -> bool {
        self.output.is_empty() && self.is_flushed
    }
}

/// Reads into `buffer`, which holds no memory until there is input; ready with the number of bytes, 0 at the end.
pub fn poll_receive(
    stream: &mut Pipe,
    buffer: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut chunk = [std::mem::MaybeUninit::uninit(); CHUNK_BYTES];
    let mut chunk = ReadBuf::uninit(&mut chunk);
    ready!(Pin::new(stream).poll_read(context, &mut chunk))?;
    buffer.extend_from_slice(chunk.filled());
    Poll::Ready(Ok(chunk.filled().len()))
}
