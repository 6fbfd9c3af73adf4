//! One connection: reads what a client pipelined, runs it in rounds, answers in order.
//!
//! In a round, writes that follow one another go to the log as one batch, and reads that follow
//! one another share one read barrier. A read after a write waits for that write.

mod atomic;
mod blocking;
mod subscriptions;
mod transactions;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use helios_proto::v1::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::clients::Client;
use super::codec::{DecodeLimits, Decoder, ProtocolError};
use super::commands::acl::role_for;
use super::commands::read::Snapshot;
use super::commands::write::Answer;
use super::commands::{Args, Context, Local, Read, Request};
use super::error::Refusal;
use super::frame::Frame;
use super::server::{Limits, Shared};
use super::session::Session;
use super::table::{Spec, resolve};
use crate::database::{Database, WriteRequest};
use crate::error::Error;
use crate::idle::until;
use crate::tls::Stream;
use crate::wall_ms;
use subscriptions::{check_while_listening, next_message};

const MAX_ROUND_COMMANDS: usize = 1024;
const READ_CHUNK_BYTES: usize = 32 * 1024;
/// Replies held back at most before they are sent, save the last one.
const FLUSH_BYTES: usize = 1024 * 1024;
/// A reply buffer that grew beyond this is given back.
const KEPT_OUTPUT_BYTES: usize = 64 * 1024;
/// How long, and how much, a refused client may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 16 * 1024 * 1024;

pub struct Connection<D> {
    stream: Stream,
    db: D,
    shared: Arc<Shared>,
    client: Arc<Client>,
    session: Session,
    decoder: Decoder,
    /// When the request that is not whole yet began to arrive.
    begun: Option<Instant>,
    input: BytesMut,
    output: BytesMut,
}

/// What the commands of one round share.
struct Round {
    arrived: Instant,
    now_ms: u64,
    writes: Vec<WriteRequest>,
    /// For each of `writes`, which command it is.
    writers: Vec<(&'static Spec, Answer)>,
    /// Outcome of the barrier that covers the reads from here to the next write.
    barrier: Option<Result<(), Error>>,
    shutdown: CancellationToken,
}

impl<D: Database> Connection<D> {
    pub fn new(stream: Stream, db: D, shared: Arc<Shared>, client: Arc<Client>) -> Self {
        let session = Session::new(shared.access.anyone());
        Self {
            stream,
            db,
            shared,
            client,
            session,
            decoder: Decoder::default(),
            begun: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    /// Until the client leaves, breaks the protocol or idles too long, or the server shuts down.
    pub async fn run(mut self, shutdown: CancellationToken) -> io::Result<()> {
        while !self.session.closing && !shutdown.is_cancelled() {
            let (requests, broken) = self.decode_round();
            if requests.is_empty() && broken.is_none() {
                if !self.receive(&shutdown).await? {
                    break;
                }
                continue;
            }
            self.begun = None;
            self.run_round(requests, &shutdown).await?;
            if let Some(error) = broken {
                self.shared.metrics.rejected("protocol_error");
                return self.refuse(&error).await;
            }
            self.flush().await?;
        }
        self.stream.shutdown().await
    }

    /// The complete requests received so far, and what is wrong with the one after them.
    fn decode_round(&mut self) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
        self.recognise();
        let authenticated = self.session.identity.is_some();
        let limits = DecodeLimits { request_bytes: self.shared.limits.max_request_bytes, authenticated };
        // A stranger's next request may be read under wider limits, once this one was AUTH.
        let most = if authenticated { MAX_ROUND_COMMANDS } else { 1 };
        let mut requests = Vec::new();
        while requests.len() < most {
            match self.decoder.decode(&mut self.input, limits) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
        (requests, None)
    }

    /// Waits for input; false when there will be none. An idle connection holds no buffer.
    async fn receive(&mut self, shutdown: &CancellationToken) -> io::Result<bool> {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let is_within = !self.input.is_empty() || self.decoder.is_within_request();
        self.begun = if is_within { self.begun.or_else(|| Some(Instant::now())) } else { None };
        let Limits { idle_timeout, request_timeout, .. } = &self.shared.limits;
        // A request that has begun may take so long whatever the client sends of it. Who listens is not idle.
        let listens = self.session.subscriber.as_ref().is_some_and(|subscriber| subscriber.count() > 0);
        let begun = self.begun;
        let is_late = async {
            match begun {
                Some(begun) => until(Some(begun + *request_timeout)).await,
                None if listens => std::future::pending().await,
                None => idle_timeout.passed(Instant::now()).await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(false),
            () = self.client.cut.cancelled() => return Ok(false),
            delivery = next_message(&mut self.session.subscriber) => {
                // What it listens to is not for whoever it is now.
                if !self.recognise() {
                    return Ok(false);
                }
                self.hear(delivery).await?;
                return Ok(true);
            }
            received = self.stream.receive(&mut self.input, READ_CHUNK_BYTES) => return Ok(received? > 0),
            () = is_late => {}
        }
        if self.begun.is_some() {
            self.shared.metrics.rejected("slow_request");
            tracing::debug!(client = self.client.id, "a Redis client did not finish its request in time");
        }
        Ok(false)
    }

    async fn run_round(&mut self, requests: Vec<Vec<Bytes>>, shutdown: &CancellationToken) -> io::Result<()> {
        let mut round = Round {
            arrived: Instant::now(),
            // A slow clock here must not make a new expiry look past already.
            now_ms: wall_ms().max(self.db.store().clock_ms()),
            writes: Vec::new(),
            writers: Vec::new(),
            barrier: None,
            shutdown: shutdown.clone(),
        };
        for words in requests {
            let bytes = words.iter().map(Bytes::len).sum();
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
                && !self.sit_out_pause(request.may_write(), &mut round).await?
            {
                return Ok(());
            }
            if !matches!(understood, Ok((_, Request::Write(_)))) {
                self.write_batch(&mut round).await;
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
            if self.output.len() >= FLUSH_BYTES {
                self.flush().await?;
            }
            if self.session.closing {
                return Ok(());
            }
        }
        self.write_batch(&mut round).await;
        Ok(())
    }

    /// Answers what was asked before and waits; false if the connection is to end.
    async fn sit_out_pause(&mut self, writes: bool, round: &mut Round) -> io::Result<bool> {
        self.write_batch(round).await;
        self.flush().await?;
        round.barrier = None;
        tokio::select! {
            () = self.shared.pause.is_over(writes) => Ok(true),
            () = round.shutdown.cancelled() => Ok(false),
            () = self.client.cut.cancelled() => Ok(false),
        }
    }

    /// The request with its meaning, or the name to count it under and why it is refused.
    fn understand(
        &mut self,
        words: Vec<Bytes>,
        round: &Round,
    ) -> Result<(&'static Spec, Request), (&'static str, Refusal)> {
        // A browser made to speak to this port sends an HTTP request: nothing in it may run.
        if words
            .first()
            .is_some_and(|name| name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:"))
        {
            self.session.closing = true;
        }
        let spec = resolve(&words).map_err(|refusal| ("unknown", refusal))?;
        if !spec.has_flag("no_auth") {
            self.allow(spec).map_err(|refusal| (spec.name, refusal))?;
        }
        check_while_listening(&self.session, spec).map_err(|refusal| (spec.name, refusal))?;
        {
            let mut profile = self.client.profile();
            profile.last_command = spec.name;
            profile.last_active = round.arrived;
        }
        let args = Args::new(spec, words, round.now_ms, &self.shared.limits);
        (spec.parse)(args).map(|request| (spec, request)).map_err(|refusal| (spec.name, refusal))
    }

    /// Whether this connection's user may run the command.
    fn allow(&self, spec: &Spec) -> Result<(), Refusal> {
        let (reason, refusal) = match &self.session.identity {
            None => ("unauthenticated", Refusal::NoAuth),
            Some(identity) if identity.role() < role_for(spec) => {
                ("no_permission", Refusal::NoPermission(spec.name))
            }
            Some(_) => return Ok(()),
        };
        self.shared.metrics.rejected(reason);
        Err(refusal)
    }

    /// Forgets who the client is, once its user is gone or has another password or role; answers whether it did not.
    fn recognise(&mut self) -> bool {
        let known = self.session.identity.as_mut().is_none_or(|known| self.shared.access.still_knows(known));
        if !known {
            self.session.identity = None;
            self.client.profile().user.clear();
        }
        known
    }

    /// Runs the writes gathered so far and answers each.
    async fn write_batch(&mut self, round: &mut Round) {
        if round.writes.is_empty() {
            return;
        }
        let results = self.db.submit(std::mem::take(&mut round.writes), self.session.ack).await;
        // The reads to come must see these writes.
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
        }
    }

    /// The error reply. A node that was removed will answer nothing else, so its clients are sent elsewhere.
    fn failure(&mut self, error: Error) -> Frame {
        self.session.closing |= error.code == ErrorCode::MemberRemoved;
        error.into()
    }

    async fn wait(&mut self, replicas: u64, timeout: Duration) -> Result<Frame, Error> {
        let index = self.session.after.as_ref().map_or(0, |token| token.index);
        let count = self.db.wait_replicas(index, replicas, timeout).await?;
        Ok(Frame::Integer(count.cast_signed()))
    }

    async fn read(&mut self, read: Read, round: &mut Round) -> Result<Frame, Error> {
        self.await_fresh(round).await?;
        let Shared { cursors, stats, .. } = &*self.shared;
        let snapshot =
            Snapshot { store: self.db.store(), wall_ms: self.db.now_ms(), cursors, stats, tried: None };
        read.execute(&snapshot).await
    }

    async fn await_fresh(&self, round: &mut Round) -> Result<(), Error> {
        if round.barrier.is_none() {
            let Session { freshness, after, .. } = &self.session;
            round.barrier = Some(self.db.await_fresh(*freshness, after.as_ref()).await);
        }
        round.barrier.clone().unwrap_or(Ok(()))
    }

    /// An attempt to authenticate waits for its turn.
    async fn run_local_in_turn(&mut self, local: Local, round: &Round) -> Frame {
        if local.authenticates() && !self.shared.access.is_open() {
            let turn = tokio::select! {
                turn = self.shared.access.turn(self.client.address.ip()) => turn,
                // Its answer will not be read.
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
        };
        local.execute(&mut context)
    }

    fn reply(&mut self, command: &'static str, frame: Frame, round: &Round) {
        // What a client listens to is no reply: CLIENT REPLY does not silence it.
        let is_heard = matches!(frame, Frame::Push(_) | Frame::Sequence(_));
        if !self.session.is_silent() || is_heard {
            frame.encode(self.session.protocol, &mut self.output);
        }
        self.shared.stats.answered(frame.is_error());
        self.shared.metrics.command(command, frame.is_error(), round.arrived.elapsed());
    }

    async fn flush(&mut self) -> io::Result<()> {
        let sent = async {
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await
        };
        tokio::select! {
            biased;
            sent = sent => sent?,
            // It may be the client that does not read.
            () = self.client.cut.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        if self.output.capacity() > KEPT_OUTPUT_BYTES {
            self.output = BytesMut::new();
        }
        Ok(())
    }

    /// Says what is wrong and closes; reads on for a moment, since closing with input unread
    /// would reset the connection and could take the message with it.
    async fn refuse(mut self, error: &ProtocolError) -> io::Result<()> {
        Frame::error(format!("ERR {error}")).encode(self.session.protocol, &mut self.output);
        self.flush().await?;
        self.stream.shutdown().await?;
        let mut rest = self.stream.take(LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut rest, &mut nowhere);
        // Whether the client heard or not, there is nothing more to do for it.
        let _ = tokio::time::timeout(LINGER, drained).await;
        Ok(())
    }
}
