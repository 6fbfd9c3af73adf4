//! Scripts, and transactions with scripts: tried on a view of the state, and written as one guarded
//! transaction.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{Command, ErrorCode, Guard, Reply};
use helios_service::database::{Database, Freshness};
use helios_state::Trial;

use super::super::commands::write::Answer;
use super::super::error::Refusal;
use super::super::frame::Frame;
use super::super::script::{
    self, Halt, Job, MAX_MEMORY_BYTES, MAX_TIME, Purpose, ScriptCall, Stopped, World,
};
use super::super::transaction::Queued;
use super::super::wire::Moved;
use super::subscriptions::next_message;
use super::{Connection, Round, UNSENT_BYTES};

/// Maximum number of tries; a further one is made only if another write came between.
const MAX_TRIES: usize = 100;
/// Time after end of input within which a result is still sent: the client may have closed one direction only.
const GONE_GRACE: Duration = Duration::from_millis(100);
/// Time after its deadline at which a script is abandoned; it keeps its slot until it ends. Scripts check their
/// deadline more often than this.
const LATE_GRACE: Duration = Duration::from_secs(2);

/// Part of a group of commands that takes effect as a whole.
pub(super) enum Part {
    Step(Command, Answer),
    Script(ScriptCall),
}

/// Part that can be tried any number of times.
#[derive(Clone)]
enum Ready {
    Step(Op, Answer),
    Script(ScriptCall),
    /// Reply that is known without a try.
    Answered(Frame),
}

/// Result of a try: the replies, and the state after it.
struct Tried {
    frames: Vec<Frame>,
    world: World,
}

/// Outcome of a try when it is committed.
enum Ended {
    Succeeded,
    /// A key that the try looked at was changed meanwhile.
    Conflicted,
    Answered(Frame),
}

impl<D: Database> Connection<D> {
    pub(super) async fn run_script(&mut self, call: ScriptCall, round: &mut Round) -> Frame {
        let answers = self.run_parts(vec![Part::Script(call)], Vec::new(), round).await;
        answers.map_or_else(|frame| frame, |mut frames| frames.pop().unwrap_or(Frame::Null))
    }

    /// Executes the parts as a whole. Returns their replies, or the one reply if the whole did not take effect.
    pub(super) async fn run_parts(
        &mut self,
        parts: Vec<Part>,
        watched: Vec<Guard>,
        round: &mut Round,
    ) -> Result<Vec<Frame>, Frame> {
        match self.try_parts(parts, watched, round).await {
            Ok(answers) => answers,
            Err(error) => Err(self.failure(error)),
        }
    }

    async fn try_parts(
        &mut self,
        parts: Vec<Part>,
        watched: Vec<Guard>,
        round: &mut Round,
    ) -> Result<Result<Vec<Frame>, Frame>, Error> {
        let shared = self.shared.clone();
        let parts: Vec<_> = parts.into_iter().map(|part| self.prepare(part)).collect();
        let keys = parts.iter().flat_map(Ready::keys);
        let unused_halt = Halt::default();
        let turn = match self.run_or_halt(shared.scripts.turn(keys), &unused_halt, round).await {
            Ok(turn) => turn,
            Err(stopped) => return Ok(Err(stopped.frame())),
        };
        let deadline = Instant::now() + MAX_TIME;
        let mut now_ms = None;
        for tries in 0..MAX_TRIES {
            if tries > 0 && Instant::now() >= deadline {
                break;
            }
            self.await_state_of(tries).await?;
            let seen_ms = now_ms.unwrap_or_else(|| self.db.now_ms().max(self.db.store().clock_ms()));
            if !self.db.store().holds(&watched, seen_ms)? {
                return Ok(Err(Frame::NullArray));
            }
            let world = World::new(self.db.store().clone(), shared.clone(), seen_ms);
            let (parts, slot) = (parts.clone(), turn.slot.clone());
            let Some(identity) = self.session.identity.clone() else {
                return Ok(Err(Refusal::NoAuth.into()));
            };
            let job = Job { identity, deadline, halt: turn.halt.clone() };
            let tried = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                Tried::of(parts, world, &job)
            });
            let tried = tokio::time::timeout_at((deadline + LATE_GRACE).into(), tried);
            let ended = match self.run_or_halt(tried, &turn.halt, round).await {
                Ok(Ok(ended)) => ended,
                Ok(Err(_)) => return Ok(Err(Stopped::TooLong.frame())),
                Err(stopped) => return Ok(Err(stopped.frame())),
            };
            let ended =
                ended.map_err(|_| Error::new(ErrorCode::Internal, "the task of a script panicked"))?;
            let Tried { frames, world: World { trial, messages, .. } } = match ended? {
                Ok(tried) => tried,
                Err(void) => return Ok(Err(void)),
            };
            match self.commit_trial(trial, &watched, seen_ms, round).await? {
                Ended::Succeeded => {
                    for (channel, payload) in messages {
                        self.db.publish(channel, payload).await;
                    }
                    return Ok(Ok(frames));
                }
                // The next try uses the clock of the log, which decides whether keys are expired.
                Ended::Conflicted => now_ms = Some(self.db.store().clock_ms()),
                Ended::Answered(frame) => return Ok(Err(frame)),
            }
        }
        Ok(Err(Frame::error(
            "TRYAGAIN the keys of this script were changed by other writes on each try; the script had no effect",
        )))
    }

    /// Returns the result of `work`. If the client leaves or the server shuts down first, asks `halt` to stop
    /// and does not wait for `work`. Input that arrives meanwhile is kept for later.
    async fn run_or_halt<T>(
        &mut self,
        work: impl Future<Output = T>,
        halt: &Halt,
        round: &Round,
    ) -> Result<T, Stopped> {
        tokio::pin!(work);
        let mut is_gone = self.wire.is_half_closed;
        let grace = tokio::time::sleep(GONE_GRACE);
        tokio::pin!(grace);
        let stopped = loop {
            let has_room = !is_gone && self.wire.input.len() < self.shared.limits.max_request_bytes;
            let may_deliver = self.wire.output.len() < UNSENT_BYTES;
            self.charge_input();
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = round.shutdown.cancelled() => break Stopped::ShuttingDown,
                () = self.client.cut.cancelled() => break Stopped::ClientGone,
                () = &mut grace, if is_gone => break Stopped::ClientGone,
                delivery = next_message(&mut self.session.subscriber), if may_deliver => {
                    if !self.recognise() || self.hear(delivery).await.is_err() {
                        break Stopped::ClientGone;
                    }
                }
                moved = self.wire.moved(has_room) => match moved {
                    Ok(Moved::Received(0)) => {
                        is_gone = true;
                        grace.as_mut().reset(tokio::time::Instant::now() + GONE_GRACE);
                    }
                    Ok(_) => {}
                    Err(_) => break Stopped::ClientGone,
                }
            }
        };
        halt.ask(stopped);
        self.session.closing |= stopped == Stopped::ClientGone;
        Err(stopped)
    }

    /// Waits for the state that a try reads. Only the first try may read stale: what it saw may be why it
    /// failed.
    async fn await_state_of(&self, tries: usize) -> Result<(), Error> {
        let freshness = if tries == 0 { self.session.freshness } else { Freshness::Linearizable };
        self.db.await_fresh(freshness, self.session.after.as_ref()).await
    }

    /// Commits a trial as one guarded transaction; if it only read, checks that its reads still hold.
    async fn commit_trial(
        &mut self,
        trial: Trial,
        watched: &[Guard],
        now_ms: u64,
        round: &mut Round,
    ) -> Result<Ended, Error> {
        self.shared.stats.looked_up(trial.lookups());
        let mut transaction = trial.finish();
        transaction.guards.extend_from_slice(watched);
        if transaction.steps.is_empty() {
            let is_valid = self.db.store().holds(&transaction.guards, now_ms)?;
            return Ok(if is_valid { Ended::Succeeded } else { Ended::Conflicted });
        }
        let reply = self.submit_one(Op::Transaction(transaction), round).await?;
        Ok(match reply {
            Reply { kind: Some(Kind::List(_)), .. } => Ended::Succeeded,
            Reply { kind: Some(Kind::NilList(_)), .. } => Ended::Conflicted,
            reply => Ended::Answered(Answer::Plain.frame(reply)),
        })
    }

    fn prepare(&self, part: Part) -> Ready {
        match part {
            Part::Step(command, answer) => match command.op {
                Some(op) => Ready::Step(op, answer),
                None => Ready::Answered(Frame::Null),
            },
            Part::Script(call) => Ready::Script(call),
        }
    }
}

impl Part {
    /// Splits a queue into the parts to be tried, each step with its command, and the source of each reply.
    /// Queued commands that are neither step nor script stay as they are.
    pub(super) fn of_queue(queued: Vec<Queued>, steps: Vec<Command>) -> (Vec<Self>, Vec<Queued>) {
        let mut steps = steps.into_iter();
        let mut parts = Vec::new();
        let queued = queued.into_iter().map(|queued| match queued {
            Queued::Step(answer) => {
                parts.push(Self::Step(steps.next().unwrap_or_default(), answer));
                Queued::Part
            }
            Queued::Script(call) => {
                parts.push(Self::Script(call));
                Queued::Part
            }
            other => other,
        });
        let queued = queued.collect();
        (parts, queued)
    }
}

impl Ready {
    fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let keys = match self {
            Self::Script(call) => &call.keys[..],
            Self::Step(..) | Self::Answered(_) => &[],
        };
        keys.iter()
    }
}

impl Tried {
    /// Tries the parts one after the other; `Err(frame)` if the whole may not take effect.
    fn of(parts: Vec<Ready>, mut world: World, job: &Job) -> Result<Result<Self, Frame>, Error> {
        let mut frames = Vec::with_capacity(parts.len());
        for part in parts {
            let frame = match part {
                Ready::Answered(frame) => frame,
                Ready::Step(op, answer) => {
                    let frame = world.step(op, answer)?;
                    world.bytes = world.bytes.saturating_add(script::cost(&frame));
                    frame
                }
                Ready::Script(call) => match world.shared.clone().scripts.find(&call.body) {
                    Err(refusal) => refusal.into(),
                    Ok(program) if call.purpose == Purpose::Load => Frame::bulk(program.digest.clone()),
                    Ok(program) => {
                        let ran = script::run(&program, &call, world, job)?;
                        world = ran.world;
                        if ran.is_void {
                            return Ok(Err(ran.frame));
                        }
                        ran.frame
                    }
                },
            };
            frames.push(frame);
            if world.kept_bytes() > MAX_MEMORY_BYTES {
                return Err(script::over_budget());
            }
        }
        Ok(Ok(Self { frames, world }))
    }
}
