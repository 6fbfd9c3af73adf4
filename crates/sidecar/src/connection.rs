//! One connection of the application, and its connection to a member: requests go to the member in order, replies come
//! back as they are.
//!
//! Each request is classified before it is sent (`request`), and its reply takes its turn in the queue, whichever side gives it.
//! So a request may be answered here instead of by a member, in order with the others.

mod admit;
mod local;
mod replies;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use helios_proto::tls::Pipe;
use helios_redis::codec::Decoder;
use helios_redis::frame::Frame;
use helios_redis::output::Output;
use helios_service::client_memory::{Account, ClientMemory};
use helios_service::idle::until;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::members::Members;
use crate::metrics::Metrics;
use crate::queue::{Entry, Queue};
use crate::replica::Replica;
use crate::request::Kind;
use crate::session::Session;
use crate::upstream::{CHUNK_BYTES, Dialer, KEPT_BYTES, Upstream, poll_receive};
use local::{Observed, Waiting};
use replies::Incoming;

/// Limits on the requests that wait for a reply; one request may be larger.
const MAX_REQUESTS: usize = 1_024;
const MAX_REQUESTS_BYTES: usize = 1 << 20;
/// Unread bytes of replies above which no more replies and requests are read, while the client reads or has nothing more
/// to send.
const UNSENT_BYTES: usize = 1 << 20;
/// Bytes of requests that are read ahead.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Time without progress after which the limit on unread bytes is doubled, as in a member: a client may write its whole
/// pipeline before it reads.
const STALL: Duration = Duration::from_millis(50);
/// Time for a request to arrive, from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before refused requests are sent to another member, for each time that they were sent.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 16 << 20;
/// The account is updated when the input has changed by so many bytes.
const INPUT_STEP: usize = 16 * 1024;

/// State that all connections share.
pub struct Shared {
    pub dialer: Dialer,
    pub members: Arc<Members>,
    pub metrics: Arc<Metrics>,
    /// In Replica mode.
    pub replica: Option<Arc<Replica>>,
    pub memory: Arc<ClientMemory>,
    pub max_request_bytes: usize,
    pub idle_timeout: Option<Duration>,
    /// Argument of the PING that marks the end of the replies to SUBSCRIBE: no client knows it.
    pub fence: String,
    pub stop: CancellationToken,
}

pub struct Connection {
    shared: Arc<Shared>,
    stream: Pipe,
    input: BytesMut,
    decoder: Decoder,
    output: Output,
    account: Arc<Account>,
    cut: CancellationToken,
    queue: Queue,
    /// A read that the replica may answer within milliseconds. Nothing after it is decoded.
    waiting: Option<Waiting>,
    /// Observations of the client, in Replica mode.
    observed: Option<Observed>,
    /// When the last bytes of the client arrived, microseconds by the clock of the replica.
    received_us: u64,
    session: Session,
    upstream: Option<Upstream>,
    /// Reply of the member that has begun.
    incoming: Option<Incoming>,
    /// Reason for which the connection to the member ended.
    lost: Option<String>,
    is_half_closed: bool,
    /// Whether the next request has arrived in part, and nothing but its rest is missing.
    is_within_request: bool,
    /// Whether nothing more is accepted from the client, and the connection closes once all is answered.
    is_closing: bool,
    /// Whether the client may still send, although the connection closes with an error.
    lingers: bool,
    /// Whether the member is not to be used for the next request.
    must_leave: bool,
    must_authenticate: bool,
    removals: u64,
    retry_at: Option<Instant>,
    window: usize,
    charged_input: usize,
    last_request: Instant,
    request_began: Option<Instant>,
}

impl Connection {
    pub fn new(stream: Pipe, shared: Arc<Shared>, account: Account, cut: CancellationToken) -> Self {
        let account = Arc::new(account);
        Self {
            removals: shared.members.removals(),
            observed: shared.replica.as_ref().map(Observed::new),
            received_us: 0,
            shared,
            stream,
            input: BytesMut::new(),
            decoder: Decoder::default(),
            output: Output::new(Arc::clone(&account)),
            account,
            cut,
            queue: Queue::default(),
            waiting: None,
            session: Session::default(),
            upstream: None,
            incoming: None,
            lost: None,
            is_half_closed: false,
            is_within_request: false,
            is_closing: false,
            lingers: false,
            must_leave: false,
            must_authenticate: false,
            retry_at: None,
            window: UNSENT_BYTES,
            charged_input: 0,
            last_request: Instant::now(),
            request_began: None,
        }
    }

    /// Serves the connection until the client leaves, breaks the protocol or idles too long, or until the sidecar stops
    /// and all requests are answered.
    ///
    /// # Errors
    /// The connection is lost, or closed because the rest of a reply is.
    pub async fn run(mut self) -> io::Result<()> {
        let mut identity = self.shared.dialer.identity.clone();
        identity.mark_unchanged();
        loop {
            self.advance()?;
            self.charge_input();
            if self.is_over() {
                return self.finish().await;
            }
            if self.queue.has_unsent() && self.upstream.is_none() && self.retry_at.is_none() {
                self.connect().await?;
                continue;
            }
            self.half_close_upstream().await;
            self.wait(&mut identity).await?;
        }
    }

    /// Does everything that needs no waiting.
    fn advance(&mut self) -> io::Result<()> {
        loop {
            let mut has_progress = self.receive()?;
            self.settle_refused();
            has_progress |= self.answer_ready();
            self.leave_if_idle();
            has_progress |= self.settle_waiting();
            has_progress |= self.decode();
            has_progress |= self.answer_ready();
            self.authenticate_if_changed();
            self.ask_position();
            self.send();
            if !has_progress {
                return Ok(());
            }
        }
    }

    fn is_over(&self) -> bool {
        // Requests may wait until the client has read more.
        let has_sent_all = self.is_half_closed && self.output.len() < self.window;
        let nothing_follows = self.is_closing || has_sent_all || self.shared.stop.is_cancelled();
        nothing_follows && self.queue.is_empty() && self.waiting.is_none() && self.incoming.is_none()
    }

    /// Leaves a member that is stopping or without a quorum, between two requests.
    fn leave_if_idle(&mut self) {
        let Some(upstream) = &self.upstream else { return };
        if !self.queue.is_empty() || self.incoming.is_some() || !self.session.can_move() {
            return;
        }
        let removals = self.shared.members.removals();
        if self.removals != removals {
            self.removals = removals;
            self.must_leave |= !self.shared.members.is_listed(&upstream.member);
        }
        if std::mem::take(&mut self.must_leave) {
            self.observe_lost();
            self.session.lose();
            self.upstream = None;
        }
    }

    /// Authenticates again when the user or the password of the sidecar has changed.
    fn authenticate_if_changed(&mut self) {
        let Some(upstream) = &mut self.upstream else { return };
        if !self.must_authenticate || !self.session.can_authenticate() || self.queue.is_held() {
            return;
        }
        self.must_authenticate = false;
        let identity = self.shared.dialer.identity.borrow().clone();
        if let Some(auth) = identity.auth().filter(|_| upstream.identity != identity.number) {
            upstream.identity = identity.number;
            let words = auth.into_iter().map(|word| word.to_owned().into()).collect();
            self.queue.push(Entry::new(Kind::Internal, words, Instant::now()));
        }
    }

    /// Connects to a member, or answers the requests that wait with an error.
    async fn connect(&mut self) -> io::Result<()> {
        // Earlier replies do not wait for the new connection.
        poll_fn(|context| Poll::Ready(self.poll_send(context))).await?;
        let replay = self.session.replay();
        let opened = tokio::select! {
            biased;
            () = self.cut.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            opened = self.shared.dialer.open(&replay) => opened,
        };
        self.shared.metrics.connected(opened.is_ok());
        match opened {
            Ok(upstream) => {
                self.removals = self.shared.members.removals();
                // The identity may have changed while the connection was opened.
                self.must_authenticate = true;
                self.upstream = Some(upstream);
            }
            Err(problem) => {
                self.read_offline();
                let seconds = self.shared.members.since_contact().as_secs();
                let text = format!("CLUSTERDOWN cut off from the cluster for {seconds} s: {problem}");
                let count = self.queue.fail_unsent(&Frame::error(text), &mut self.session);
                self.shared.metrics.error("cut_off", count);
            }
        }
        Ok(())
    }

    /// Closes the direction to the member when the client has closed its own: blocking commands then end.
    async fn half_close_upstream(&mut self) {
        let Some(upstream) = &mut self.upstream else { return };
        if self.is_half_closed
            && upstream.is_written()
            && !std::mem::replace(&mut upstream.is_half_closed, true)
        {
            // The member then closes as well, which ends this connection.
            let _ = upstream.half_close().await;
        }
    }

    fn wants_input(&self) -> bool {
        let has_room = self.is_within_request || self.input.len() < READ_AHEAD_BYTES;
        !self.is_half_closed && !self.is_closing && has_room
    }

    async fn wait(
        &mut self,
        identity: &mut tokio::sync::watch::Receiver<Arc<crate::secret::Identity>>,
    ) -> io::Result<()> {
        let (cut, stop) = (self.cut.clone(), self.shared.stop.clone());
        let (reads_client, reads_member) = (self.wants_input(), self.output.len() < self.window);
        let may_send = !self.is_half_closed && !self.is_closing;
        let is_stalled = !reads_member && !reads_client && may_send;
        let deadline = self.output.deadline();
        let (late, retry_at) = (self.late(), self.retry_at);
        let mut waiting = self.waiting.as_ref().map(Waiting::woken);
        let is_waiting = waiting.is_some();
        tokio::select! {
            biased;
            () = cut.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            moved = poll_fn(|context| self.poll_io(context, reads_client, reads_member)) => return moved,
            _ = identity.changed() => self.must_authenticate = true,
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            () = Waiting::over(&mut waiting), if is_waiting => {}
            () = until(retry_at), if retry_at.is_some() => self.retry_at = None,
            () = tokio::time::sleep(STALL), if is_stalled => self.window *= 2,
            () = until(late) => {
                self.shared.metrics.rejections.count("idle");
                self.is_closing = true;
            }
            () = until(deadline.map(|(deadline, _)| deadline)) => if let Some((_, cause)) = deadline {
                self.account.close(cause);
            }
        }
        Ok(())
    }

    /// Returns when the client is late: with the rest of a request, or with the next one.
    fn late(&mut self) -> Option<Instant> {
        self.request_began =
            if self.is_within_request { self.request_began.or_else(|| Some(Instant::now())) } else { None };
        if let Some(began) = self.request_began {
            return Some(began + REQUEST_TIMEOUT);
        }
        let is_idle = self.queue.is_empty()
            && self.waiting.is_none()
            && self.session.subscriptions == 0
            && !self.is_closing;
        self.shared.idle_timeout.filter(|_| is_idle).map(|limit| self.last_request + limit)
    }

    /// Moves bytes in all directions; ready when some moved.
    fn poll_io(
        &mut self,
        context: &mut Context<'_>,
        reads_client: bool,
        reads_member: bool,
    ) -> Poll<io::Result<()>> {
        let mut has_moved = self.poll_send(context)?;
        if let Some(upstream) = &mut self.upstream {
            while upstream.poll_write(context).is_ready() {
                has_moved = true;
            }
            if reads_member && let Poll::Ready(received) = upstream.poll_read(context) {
                has_moved = true;
                match received {
                    Ok(0) => self.lost = Some("the member closed the connection".to_owned()),
                    Ok(_) => self.shared.members.contact(),
                    Err(error) => self.lost = Some(error.to_string()),
                }
            }
        }
        if reads_client
            && let Poll::Ready(received) = poll_receive(&mut self.stream, &mut self.input, context)
        {
            has_moved = true;
            let count = received?;
            self.is_half_closed = count == 0;
            if let Some(replica) = &self.shared.replica {
                self.received_us = replica.gate.now_us();
            }
            self.shared.metrics.received.inc_by(count as u64);
        }
        if has_moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Writes replies to the client; returns whether it took any.
    fn poll_send(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let before = self.output.sent_bytes();
        loop {
            let bytes = self.output.front();
            if bytes.is_empty() {
                self.window = UNSENT_BYTES;
                break;
            }
            match Pin::new(&mut self.stream).poll_write(context, bytes) {
                Poll::Pending => {
                    self.output.stall();
                    break;
                }
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.output.sent(count),
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        self.output.charge();
        let sent = self.output.sent_bytes() - before;
        self.shared.metrics.sent.inc_by(sent);
        Ok(sent > 0)
    }

    /// Sends the unsent replies and closes.
    async fn finish(mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let (cut, deadline) = (self.cut.clone(), self.output.deadline());
            tokio::select! {
                biased;
                () = cut.cancelled() => return Ok(()),
                moved = poll_fn(|context| match self.poll_send(context) {
                    Ok(false) => Poll::Pending,
                    moved => Poll::Ready(moved),
                }) => drop(moved?),
                () = until(deadline.map(|(deadline, _)| deadline)) => return Ok(()),
            }
        }
        self.stream.shutdown().await?;
        if self.lingers {
            // Closing a socket with unread input would reset the connection and could lose the last reply.
            let mut rest = (&mut self.stream).take(LINGER_BYTES);
            let mut nowhere = tokio::io::sink();
            let drained = tokio::io::copy(&mut rest, &mut nowhere);
            // Best effort: nothing else can be done for a client that did not receive the reply.
            let _ = tokio::time::timeout(LINGER, drained).await;
        }
        Ok(())
    }

    /// Charges the account for requests, and for what was read from the member.
    fn charge_input(&mut self) {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = BytesMut::new();
        }
        let upstream = self.upstream.as_mut().map_or(0, |upstream| {
            if upstream.input.is_empty() && upstream.input.capacity() > CHUNK_BYTES {
                upstream.input = BytesMut::new();
            }
            upstream.input.capacity() + upstream.output.capacity()
        });
        let held = self.input.capacity() + self.decoder.held_bytes() + self.queue.bytes() + upstream;
        if held.abs_diff(self.charged_input) >= INPUT_STEP {
            self.charged_input = held;
            self.account.set_input(held);
        }
    }
}
