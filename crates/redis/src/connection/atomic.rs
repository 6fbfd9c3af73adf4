//! Scripts, and transactions with scripts in them: tried out here, and written as one guarded transaction.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{Command, ErrorCode, Guard, Reply};
use helios_service::auth::{Identity, Role};
use helios_service::database::{Database, Freshness};
use helios_state::Trial;

use super::super::commands::write::Answer;
use super::super::frame::Frame;
use super::super::script::{
    self, Halt, Job, MAX_MEMORY_BYTES, MAX_TIME, Purpose, ScriptCall, Stopped, World,
};
use super::super::transaction::Queued;
use super::super::wire::Moved;
use super::subscriptions::next_message;
use super::{Connection, Round, UNSENT_BYTES};

/// Each try but the last found that another write had come between.
const MAX_TRIES: usize = 100;
/// A client that sends nothing more may have closed one direction only: what is done within this time it still gets.
const GONE_GRACE: Duration = Duration::from_millis(100);
/// A script looks at its deadline more often than this; one that does not is left to itself and holds its slot.
const LATE_GRACE: Duration = Duration::from_secs(2);

/// A part of what takes effect as a whole.
pub(super) enum Part {
    Step(Command, Answer),
    Script(ScriptCall),
}

/// A part that can be tried.
#[derive(Clone)]
enum Ready {
    Step(Op, Answer),
    Script(ScriptCall),
    /// Answered already.
    Told(Frame),
}

/// The result of one try.
struct Tried {
    frames: Vec<Frame>,
    world: World,
}

/// How a try ended for its client.
enum Ended {
    Counts,
    /// Something that it looked at was changed.
    Met,
    Answered(Frame),
}

impl<D: Database> Connection<D> {
    pub(super) async fn run_script(&mut self, call: ScriptCall, round: &mut Round) -> Frame {
        let told = self.run_parts(vec![Part::Script(call)], Vec::new(), round).await;
        told.map_or_else(|frame| frame, |mut frames| frames.pop().unwrap_or(Frame::Null))
    }

    /// The answers of all parts, or the one answer of a whole that did not take effect.
    pub(super) async fn run_parts(
        &mut self,
        parts: Vec<Part>,
        watched: Vec<Guard>,
        round: &mut Round,
    ) -> Result<Vec<Frame>, Frame> {
        match self.try_parts(parts, watched, round).await {
            Ok(told) => told,
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
        let stays = Halt::default();
        let turn = match self.attend(shared.scripts.turn(keys), &stays, round).await {
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
            let role = self.session.identity.as_ref().map_or(Role::ReadOnly, Identity::role);
            let job = Job { role, deadline, halt: turn.halt.clone() };
            let tried = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                Tried::of(parts, world, &job)
            });
            let tried = tokio::time::timeout_at((deadline + LATE_GRACE).into(), tried);
            let ended = match self.attend(tried, &turn.halt, round).await {
                Ok(Ok(ended)) => ended,
                Ok(Err(_)) => return Ok(Err(Stopped::TooLong.frame())),
                Err(stopped) => return Ok(Err(stopped.frame())),
            };
            let ended = ended.map_err(|_| Error::new(ErrorCode::Internal, "a script ended by a panic"))?;
            let Tried { frames, world: World { trial, messages, .. } } = match ended? {
                Ok(tried) => tried,
                Err(void) => return Ok(Err(void)),
            };
            match self.settle(trial, &watched, seen_ms, round).await? {
                Ended::Counts => {
                    for (channel, payload) in messages {
                        self.db.publish(channel, payload).await;
                    }
                    return Ok(Ok(frames));
                }
                // The next try sees the clock of the log, which is the one that judges.
                Ended::Met => now_ms = Some(self.db.store().clock_ms()),
                Ended::Answered(frame) => return Ok(Err(frame)),
            }
        }
        Ok(Err(Frame::error(
            "TRYAGAIN the keys of this script were changed by others each time before it could take effect; \
             nothing of it was done",
        )))
    }

    /// The result of `work`, unless its client leaves or the server shuts down before; `halt` is asked to stop then,
    /// and nobody waits for it. Input that comes meanwhile is kept for later.
    async fn attend<T>(
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
            let hears = self.wire.output.len() < UNSENT_BYTES;
            self.charge_input();
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = round.shutdown.cancelled() => break Stopped::ShuttingDown,
                () = self.client.cut.cancelled() => break Stopped::ClientGone,
                () = &mut grace, if is_gone => break Stopped::ClientGone,
                delivery = next_message(&mut self.session.subscriber), if hears => {
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

    /// A stale read is for the first try: what it saw may be why it failed.
    async fn await_state_of(&self, tries: usize) -> Result<(), Error> {
        let freshness = if tries == 0 { self.session.freshness } else { Freshness::Linearizable };
        self.db.await_fresh(freshness, self.session.after.as_ref()).await
    }

    async fn settle(
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
            let is_so = self.db.store().holds(&transaction.guards, now_ms)?;
            return Ok(if is_so { Ended::Counts } else { Ended::Met });
        }
        let reply = self.submit_one(Op::Transaction(transaction), round).await?;
        Ok(match reply {
            Reply { kind: Some(Kind::List(_)), .. } => Ended::Counts,
            Reply { kind: Some(Kind::NilList(_)), .. } => Ended::Met,
            reply => Ended::Answered(Answer::Plain.frame(reply)),
        })
    }

    fn prepare(&self, part: Part) -> Ready {
        match part {
            Part::Step(command, answer) => match command.op {
                Some(op) => Ready::Step(op, answer),
                None => Ready::Told(Frame::Null),
            },
            Part::Script(call) => Ready::Script(call),
        }
    }
}

impl Part {
    /// Queued commands with the steps that belong to them; what is neither step nor script stays as it is.
    pub(super) fn of_queue(queued: Vec<Queued>, steps: Vec<Command>) -> (Vec<Self>, Vec<Queued>) {
        let mut steps = steps.into_iter();
        let mut parts = Vec::new();
        let queued = queued.into_iter().map(|queued| match queued {
            Queued::Step(answer) => {
                parts.push(Self::Step(steps.next().unwrap_or_default(), answer));
                Queued::Told
            }
            Queued::Script(call) => {
                parts.push(Self::Script(call));
                Queued::Told
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
            Self::Step(..) | Self::Told(_) => &[],
        };
        keys.iter()
    }
}

impl Tried {
    /// Or why nothing of it may count.
    fn of(parts: Vec<Ready>, mut world: World, job: &Job) -> Result<Result<Self, Frame>, Error> {
        let mut frames = Vec::with_capacity(parts.len());
        for part in parts {
            let frame = match part {
                Ready::Told(frame) => frame,
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
