//! One connection: reads pipelined requests, executes them in rounds, and replies in order.
//!
//! In a round, consecutive writes go to the log as one batch, and consecutive reads share one read barrier. A
//! read after a write waits for that write.

mod atomic;
mod blocking;
mod subscriptions;
mod transactions;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::ErrorCode;
use helios_service::database::{Database, WriteRequest};
use helios_service::idle::until;
use helios_service::pubsub::Subscriber;
use helios_service::time::wall_ms;
use helios_service::tls::Stream;
use tokio_util::sync::CancellationToken;

use super::clients::Client;
use super::codec::{DecodeLimits, Decoder, ProtocolError, own};
use super::commands::acl::role_for;
use super::commands::read::Snapshot;
use super::commands::write::Answer;
use super::commands::{Context, Local, Read, Request, understand};
use super::error::Refusal;
use super::frame::Frame;
use super::output::Output;
use super::prefixes;
use super::server::{Limits, Shared};
use super::session::Session;
use super::table::{Flags, Spec, resolve};
use super::transaction::{Queue, held_bytes};
use super::wire::{Moved, Wire};
use subscriptions::{check_while_listening, next_message};

const MAX_ROUND_COMMANDS: usize = 1024;
/// Limit on the requests of one round, in bytes that their words hold; the rest is decoded in the next round.
const MAX_ROUND_BYTES: usize = 1024 * 1024;
/// Time after which a connection yields its thread, which it shares with others, between two commands.
const TURN: Duration = Duration::from_millis(5);
/// Unsent bytes of replies above which no more commands are executed, while the client reads or has nothing
/// more to send.
const UNSENT_BYTES: usize = 1024 * 1024;
/// Bytes of requests that are read ahead while replies are unsent.
const READ_AHEAD_BYTES: usize = 1024 * 1024;
/// Time without progress after which the limit on unsent bytes is doubled: a client that accepts no reply, and
/// has sent more requests than are read ahead, may be writing its whole pipeline before it reads.
const STALL: Duration = Duration::from_millis(50);
/// The account is updated when the input has changed by so many bytes.
const INPUT_STEP: usize = 16 * 1024;

pub struct Connection<D> {
    wire: Wire,
    db: D,
    shared: Arc<Shared>,
    client: Arc<Client>,
    session: Session,
    decoder: Decoder,
    /// Time at which the incomplete request began to arrive.
    request_began: Option<Instant>,
    /// Time since which the client is not authenticated or has not completed a request.
    auth_pending_since: Option<Instant>,
    has_sent_request: bool,
    /// Limit on unsent bytes now, see [`STALL`].
    window: usize,
    /// Input bytes that the account was last given.
    charged_input: usize,
}

/// State that the commands of one round share.
struct Round {
    arrived: Instant,
    now_ms: u64,
    writes: Vec<WriteRequest>,
    /// Command, and shape of the reply, of each of `writes`.
    writers: Vec<(&'static Spec, Answer)>,
    /// Outcome of the barrier that covers the reads from here to the next write.
    barrier: Option<Result<(), Error>>,
    shutdown: CancellationToken,
}

/// Time that a connection has used its thread without yielding.
struct Turn(Instant);

impl Turn {
    fn new() -> Self {
        Self(Instant::now())
    }

    /// Yields the thread if [`TURN`] is over. Called between two commands.
    async fn yield_if_due(&mut self) {
        if self.0.elapsed() >= TURN {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

impl<D: Database> Connection<D> {
    pub fn new(stream: Stream, db: D, shared: Arc<Shared>, client: Arc<Client>) -> Self {
        let session = Session::new(shared.access.anyone());
        let output = Output::new(Arc::clone(&client.account));
        Self {
            wire: Wire::new(stream, output),
            db,
            shared,
            client,
            session,
            decoder: Decoder::default(),
            request_began: None,
            auth_pending_since: None,
            has_sent_request: false,
            window: UNSENT_BYTES,
            charged_input: 0,
        }
    }

    /// Serves the connection until the client leaves, breaks the protocol or idles too long, or the server
    /// shuts down.
    pub async fn run(mut self, shutdown: CancellationToken) -> io::Result<()> {
        while !self.session.closing && !shutdown.is_cancelled() {
            let (requests, broken) = self.decode_round();
            if requests.is_empty() && broken.is_none() {
                if !self.receive(&shutdown).await? {
                    break;
                }
                continue;
            }
            self.request_began = None;
            self.has_sent_request = true;
            self.run_round(requests, &shutdown).await?;
            if let Some(error) = broken {
                self.shared.metrics.rejected("protocol_error");
                return self.refuse(&error).await;
            }
            self.flush().await?;
        }
        self.finish().await
    }

    /// Sends the unsent replies and closes, unless the connection is to end at once.
    async fn finish(&mut self) -> io::Result<()> {
        tokio::select! {
            biased;
            () = self.client.cut.cancelled() => {}
            done = self.wire.shutdown() => return done,
        }
        self.wire.abort().await;
        Ok(())
    }

    /// Decodes the complete requests received so far, and the protocol error after them, if any.
    fn decode_round(&mut self) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
        self.recognise();
        let authenticated = self.session.identity.is_some();
        let limits = DecodeLimits { request_bytes: self.shared.limits.max_request_bytes, authenticated };
        // Before authentication one request at a time: after `AUTH` the next may be decoded under the wider
        // limits.
        let most = if authenticated { MAX_ROUND_COMMANDS } else { 1 };
        let (mut requests, mut bytes) = (Vec::new(), 0);
        while requests.len() < most && bytes < MAX_ROUND_BYTES {
            match self.decoder.decode(&mut self.wire.input, limits) {
                Ok(Some(request)) => {
                    bytes += held_bytes(&request);
                    requests.push(request);
                }
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
        (requests, None)
    }

    /// Waits for input; returns false when there will be none. An idle connection holds no buffer.
    async fn receive(&mut self, shutdown: &CancellationToken) -> io::Result<bool> {
        if self.wire.is_half_closed {
            return Ok(false);
        }
        self.wire.trim_input();
        self.charge_input();
        let is_within = !self.wire.input.is_empty() || self.decoder.is_within_request();
        self.request_began =
            if is_within { self.request_began.or_else(|| Some(Instant::now())) } else { None };
        let is_auth_pending = self.session.identity.is_none() || !self.has_sent_request;
        self.auth_pending_since =
            if is_auth_pending { self.auth_pending_since.or_else(|| Some(Instant::now())) } else { None };
        let shared = Arc::clone(&self.shared);
        let Limits { idle_timeout, request_timeout, auth_timeout, .. } = &shared.limits;
        let auth_deadline = self.auth_pending_since.map(|since| since + *auth_timeout);
        // A partial request has its own deadline, whatever the client sends of it. A client with subscriptions
        // is not idle.
        let listens = self.session.subscriber.as_ref().is_some_and(|subscriber| subscriber.count() > 0);
        let request_began = self.request_began;
        let is_late = async {
            match request_began {
                Some(request_began) => until(Some(request_began + *request_timeout)).await,
                None if listens => std::future::pending().await,
                None => idle_timeout.passed(Instant::now()).await,
            }
        };
        tokio::pin!(is_late);
        loop {
            // Messages wait in the subscriber's queue while the client does not read.
            let may_deliver = self.wire.output.len() < UNSENT_BYTES;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(false),
                () = self.client.cut.cancelled() => return Ok(false),
                delivery = next_message(&mut self.session.subscriber), if may_deliver => {
                    // Its user is gone or changed: the messages of its subscriptions are no longer for this
                    // client.
                    if !self.recognise() {
                        return Ok(false);
                    }
                    self.hear(delivery).await?;
                    return Ok(true);
                }
                moved = self.wire.moved(true) => if let Moved::Received(count) = moved? {
                    return Ok(count > 0);
                },
                () = &mut is_late => break,
                () = until(auth_deadline) => {
                    let why = "the client did not authenticate, or sent no complete command, within client.auth_timeout";
                    shared.metrics.refused("auth_timeout", self.client.address, why);
                    return Ok(false);
                }
            }
        }
        if self.request_began.is_some() {
            self.shared.metrics.rejected("slow_request");
            tracing::debug!(
                client = self.client.id,
                "a Redis request was not complete within the request timeout"
            );
        }
        Ok(false)
    }

    async fn run_round(&mut self, requests: Vec<Vec<Bytes>>, shutdown: &CancellationToken) -> io::Result<()> {
        let mut round = Round {
            arrived: Instant::now(),
            // The later clock counts: a slow clock here must not make a new expiry look past already.
            now_ms: wall_ms().max(self.db.store().clock_ms()),
            writes: Vec::new(),
            writers: Vec::new(),
            barrier: None,
            shutdown: shutdown.clone(),
        };
        let mut turn = Turn::new();
        for words in requests {
            if self.client.cut.is_cancelled() {
                return Ok(());
            }
            turn.yield_if_due().await;
            let bytes = held_bytes(&words);
            let understood = self.understand(words, &round);
            if let Some(queue) = &mut self.session.queue
                && !matches!(&understood, Ok((_, request)) if request.is_immediate())
            {
                let limit = self.shared.limits.max_request_bytes;
                let (name, request) = match understood {
                    Ok((spec, request)) => (spec.name, Ok(request)),
                    Err((name, refusal)) => (name, Err(refusal)),
                };
                let frame = queue.push(request, bytes, limit);
                self.reply(name, frame, &round);
                continue;
            }
            if let Ok((_, request)) = &understood
                && self.shared.pause.holds(request.may_write())
                && !request.ends_pause()
                && !self.await_pause_end(request.may_write(), &mut round).await?
            {
                return Ok(());
            }
            if !matches!(understood, Ok((_, Request::Write(_)))) {
                self.write_batch(&mut round).await?;
            }
            let (name, frame) = match understood {
                Ok((spec, Request::Write(write))) => {
                    round.writes.push(write.op.into());
                    round.writers.push((spec, write.answer));
                    continue;
                }
                Ok((spec, Request::Read(read))) => {
                    let answer = self.read(read, &mut round).await;
                    (spec.name, answer.unwrap_or_else(|error| self.failure(error)))
                }
                Ok((spec, Request::Local(local))) => {
                    if local.changes_reads() {
                        round.barrier = None;
                    }
                    (spec.name, self.run_local_in_turn(local, &round).await)
                }
                Ok((spec, Request::Wait { replicas, timeout })) => {
                    let answer = self.wait(replicas, timeout).await;
                    (spec.name, answer.unwrap_or_else(|error| self.failure(error)))
                }
                Ok((spec, Request::Watch(keys))) => {
                    let answer = self.watch(keys, &mut round).await;
                    (spec.name, answer.unwrap_or_else(|error| self.failure(error)))
                }
                Ok((spec, Request::Subscribe { topic, names })) => (spec.name, self.subscribe(topic, names)),
                Ok((spec, Request::Unsubscribe { topic, names })) => {
                    (spec.name, self.unsubscribe(topic, names))
                }
                Ok((spec, Request::Publish { channel, payload })) => {
                    let count = self.db.publish(channel, payload).await;
                    (spec.name, Frame::Integer(count.cast_signed()))
                }
                Ok((spec, Request::Script(call))) => (spec.name, self.run_script(call, &mut round).await),
                Ok((spec, Request::Block(blocking))) => match self.block(blocking, &mut round).await? {
                    Some(frame) => (spec.name, frame),
                    None => return Ok(()),
                },
                Ok((spec, Request::Exec)) => (spec.name, self.exec(&mut round).await),
                Err((name, refusal)) => (name, refusal.into()),
            };
            self.reply(name, frame, &round);
            self.make_room(&round).await?;
            if self.session.closing {
                return Ok(());
            }
        }
        self.write_batch(&mut round).await
    }

    /// Answers the earlier requests and waits for the end of a pause; returns false if the connection is to
    /// end.
    async fn await_pause_end(&mut self, writes: bool, round: &mut Round) -> io::Result<bool> {
        self.write_batch(round).await?;
        self.flush().await?;
        round.barrier = None;
        let is_over = self.wire.alongside(self.shared.pause.is_over(writes));
        tokio::select! {
            () = is_over => Ok(true),
            () = round.shutdown.cancelled() => Ok(false),
            () = self.client.cut.cancelled() => Ok(false),
        }
    }

    /// Parses a request; if it is rejected, returns the error with the name that it is counted under.
    fn understand(
        &mut self,
        mut words: Vec<Bytes>,
        round: &Round,
    ) -> Result<(&'static Spec, Request), (&'static str, Refusal)> {
        // A browser that is made to connect to this port sends an HTTP request: nothing in it may be executed.
        if words
            .first()
            .is_some_and(|name| name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:"))
        {
            self.session.closing = true;
        }
        let spec = resolve(&words).map_err(|refusal| ("unknown", refusal))?;
        if !spec.has(Flags::NO_AUTH) {
            self.check_permission(spec, &words).map_err(|refusal| (spec.name, refusal))?;
        }
        check_while_listening(&self.session, spec).map_err(|refusal| (spec.name, refusal))?;
        {
            let mut profile = self.client.profile();
            profile.last_command = spec.name;
            profile.last_active = round.arrived;
        }
        // Words that are kept for longer than this round must not keep the chunk that they were read in.
        if self.session.queue.is_some() || spec.has(Flags::BLOCKING) {
            own(&mut words);
        }
        let understood = understand(spec, words, round.now_ms, &self.shared.limits);
        let understood = understood.and_then(|request| match &self.session.identity {
            Some(identity) => prefixes::restrict(request, identity),
            None => Ok(request),
        });
        understood.map(|request| (spec, request)).map_err(|refusal| (spec.name, refusal))
    }

    /// Checks that the user of this connection may run the command; counts a rejection.
    fn check_permission(&self, spec: &Spec, words: &[Bytes]) -> Result<(), Refusal> {
        let (reason, refusal) = match &self.session.identity {
            None => ("unauthenticated", Refusal::NoAuth),
            Some(identity) if !identity.role().includes(role_for(spec)) => {
                ("no_permission", Refusal::NoPermission(spec.name))
            }
            Some(identity) => match prefixes::check(spec, words, identity) {
                Ok(()) => return Ok(()),
                Err(refusal) => ("no_permission", refusal),
            },
        };
        self.shared.metrics.rejected(reason);
        Err(refusal)
    }

    /// Drops the identity of the client if its user was removed or has another password or role; returns
    /// whether the identity, if any, is still valid.
    fn recognise(&mut self) -> bool {
        let known = self.session.identity.as_mut().is_none_or(|known| self.shared.access.still_knows(known));
        if !known {
            self.session.identity = None;
            self.client.profile().user.clear();
        }
        known
    }

    /// Submits the writes gathered so far and replies to each.
    async fn write_batch(&mut self, round: &mut Round) -> io::Result<()> {
        if round.writes.is_empty() {
            return Ok(());
        }
        let submitted = self.db.submit(std::mem::take(&mut round.writes), self.session.ack);
        let results = self.wire.alongside(submitted).await;
        // Later reads must see these writes.
        round.barrier = None;
        let last = results.iter().filter_map(|result| result.as_ref().ok()).max_by_key(|reply| reply.index);
        if let Some(reply) = last {
            self.session.follow(self.db.token_of(reply));
        }
        let results = results.into_iter().chain(std::iter::repeat_with(|| Err(Error::outcome_unknown())));
        for ((spec, answer), result) in std::mem::take(&mut round.writers).into_iter().zip(results) {
            let frame = match result {
                Ok(reply) => answer.frame(reply),
                Err(error) => self.failure(error),
            };
            self.reply(spec.name, frame, round);
            self.make_room(round).await?;
        }
        Ok(())
    }

    /// Returns the error reply. If this node was removed from the cluster the connection closes after it, so
    /// that the client connects to another node.
    fn failure(&mut self, error: Error) -> Frame {
        self.session.closing |= error.code == ErrorCode::MemberRemoved;
        error.into()
    }

    async fn wait(&mut self, replicas: u64, timeout: Duration) -> Result<Frame, Error> {
        let index = self.session.after.as_ref().map_or(0, |token| token.index);
        let count = self.wire.alongside(self.db.wait_replicas(index, replicas, timeout)).await?;
        Ok(Frame::Integer(count.cast_signed()))
    }

    async fn read(&mut self, read: Read, round: &mut Round) -> Result<Frame, Error> {
        self.await_fresh(round).await?;
        let Shared { cursors, stats, .. } = &*self.shared;
        let snapshot =
            Snapshot { store: self.db.store(), wall_ms: self.db.now_ms(), cursors, stats, tried: None };
        self.wire.alongside(read.execute(&snapshot)).await
    }

    async fn await_fresh(&mut self, round: &mut Round) -> Result<(), Error> {
        if round.barrier.is_none() {
            let Session { freshness, after, .. } = &self.session;
            let barrier = self.db.await_fresh(*freshness, after.as_ref());
            round.barrier = Some(self.wire.alongside(barrier).await);
        }
        round.barrier.clone().unwrap_or(Ok(()))
    }

    /// Executes a local command; authentication first waits for the turn of the client's address.
    async fn run_local_in_turn(&mut self, local: Local, round: &Round) -> Frame {
        if local.authenticates() && !self.shared.access.is_open() {
            let turn = tokio::select! {
                turn = self.shared.access.turn(self.client.address.ip()) => turn,
                // The reply will not be read.
                () = self.client.cut.cancelled() => return Frame::Null,
                () = round.shutdown.cancelled() => return Frame::Null,
            };
            if let Err(error) = turn {
                self.shared.metrics.rejected("auth_throttled");
                return error.into();
            }
        }
        self.run_local(local)
    }

    fn run_local(&mut self, local: Local) -> Frame {
        let mut context = Context {
            session: &mut self.session,
            client: &self.client,
            shared: &self.shared,
            store: self.db.store(),
            broker: self.db.broker(),
            status: &|| self.db.status(),
            cluster_id: &|| self.db.cluster_id(),
            followers_are_masters: self.db.reports_followers_as_masters(),
        };
        local.execute(&mut context)
    }

    fn reply(&mut self, command: &'static str, frame: Frame, round: &Round) {
        // Messages, and the replies to commands that subscribe and unsubscribe, are pushes: `CLIENT REPLY` does
        // not suppress them.
        let is_heard = matches!(frame, Frame::Push(_) | Frame::Sequence(_));
        let is_error = frame.is_error();
        if !self.session.is_silent() || is_heard {
            self.wire.output.reply(frame, self.session.protocol);
        }
        self.shared.stats.answered(is_error);
        self.shared.metrics.command(command, is_error, round.arrived.elapsed());
    }

    /// Writes as much to the socket as it accepts now; the rest is sent while the connection waits for the
    /// client.
    async fn flush(&mut self) -> io::Result<()> {
        self.wire.flush().await?;
        if self.wire.output.is_empty() {
            self.window = UNSENT_BYTES;
        }
        Ok(())
    }

    /// Waits until the client has accepted enough of its replies, and reads ahead meanwhile.
    async fn make_room(&mut self, round: &Round) -> io::Result<()> {
        if self.wire.output.len() <= self.window {
            return Ok(());
        }
        self.flush().await?;
        while self.wire.output.len() > self.window {
            let may_send = !self.wire.is_half_closed;
            let reads = may_send && self.wire.input.len() < READ_AHEAD_BYTES;
            tokio::select! {
                biased;
                () = self.client.cut.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
                () = round.shutdown.cancelled() => return Ok(()),
                moved = self.wire.moved(reads) => drop(moved?),
                // The limit on its output still closes the connection.
                () = tokio::time::sleep(STALL), if may_send && !reads => self.window *= 2,
            }
        }
        Ok(())
    }

    /// Charges the account for requests that were not executed yet, and for the queue, watches and
    /// subscriptions.
    fn charge_input(&mut self) {
        let queued = self.session.queue.as_ref().map_or(0, Queue::bytes);
        let listens_to = self.session.subscriber.as_ref().map_or(0, Subscriber::topic_bytes);
        let held = self.wire.input.capacity()
            + self.decoder.held_bytes()
            + queued
            + self.session.watched_bytes
            + listens_to;
        if held.abs_diff(self.charged_input) >= INPUT_STEP {
            self.charged_input = held;
            self.client.account.set_input(held);
        }
    }

    /// Replies with the protocol error and closes.
    async fn refuse(mut self, error: &ProtocolError) -> io::Result<()> {
        self.wire.output.reply(Frame::error(format!("ERR {error}")), self.session.protocol);
        tokio::select! {
            biased;
            () = self.client.cut.cancelled() => Ok(()),
            done = self.wire.shutdown_slowly() => done,
        }
    }
}
