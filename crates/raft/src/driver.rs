//! The Raft thread: owns the [`Core`], blocks only to wait for work, and never touches a disk.
//! It sends the heartbeats and counts the ticks, so neither user work nor a slow disk can delay them
//! (docs/design/node.md, decision 5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use helios_proto::v1::Membership;
use raft::eraftpb::Message;
use tokio::sync::watch;

use super::core::{Core, MAX_TICKS_PER_TURN, TICK};
use super::types::*;
use crate::metrics::Metrics;

/// Limit of inputs that are handled before the core drains; bounds the time between two readings of the clock.
const MAX_INPUTS_PER_TURN: usize = 1_024;

/// Sender of the core's messages to the peers. Its functions must not block.
pub trait Outbound: Send + Sync {
    fn send(&self, messages: Vec<Message>);
    fn set_membership(&self, membership: Arc<Membership>);
}

/// Queues of the worker threads. They need no separate bound: the core has at most `MAX_IN_FLIGHT` log jobs in
/// flight, rejects writes from `MAX_APPLYING_BYTES` on, and fetches entries once for each member at a time.
pub struct Workers {
    pub log: Sender<LogJob>,
    pub apply: Sender<ApplyJob>,
    pub fetch: Sender<FetchJob>,
    pub checkpoint: Sender<CheckpointJob>,
    #[expect(dead_code, reason = "its end stops the threads of merges and of the scrub")]
    pub background: Sender<()>,
}

pub struct Driver {
    pub core: Core,
    pub inbox: Receiver<Input>,
    pub done: Receiver<Done>,
    pub workers: Workers,
    pub outbound: Arc<dyn Outbound>,
    pub status: watch::Sender<Arc<RaftStatus>>,
    pub metrics: Arc<Metrics>,
}

impl Driver {
    /// Runs until [`Input::Stop`], or until a worker thread is gone.
    pub fn run(mut self) -> Result<(), String> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            if !self.take_work(wait)? {
                return Ok(());
            }
            let now = Instant::now();
            next_tick = self.tick(next_tick, now);
            let effects = self.core.drain(now);
            // Published first, so that a client that is answered finds the effect of its request in the status.
            self.publish(now);
            for effect in effects {
                self.dispatch(effect)?;
            }
        }
    }

    /// Waits for a completion or an input, then handles all that are queued, up to the limit. Returns false on
    /// [`Input::Stop`].
    fn take_work(&mut self, wait: Duration) -> Result<bool, String> {
        let mut first = None;
        crossbeam_channel::select! {
            recv(self.done) -> done => {
                let done = done.map_err(|_| "the worker threads are gone".to_owned())?;
                self.core.on_done(done, Instant::now());
            }
            recv(self.inbox) -> input => match input {
                Ok(input) => first = Some(input),
                Err(_) => return Ok(false),
            },
            default(wait) => {}
        }
        let now = Instant::now();
        while let Ok(done) = self.done.try_recv() {
            self.core.on_done(done, now);
        }
        for input in first.into_iter().chain(self.inbox.try_iter()).take(MAX_INPUTS_PER_TURN) {
            if matches!(input, Input::Stop) {
                return Ok(false);
            }
            self.core.handle(input, now);
        }
        Ok(true)
    }

    fn tick(&mut self, mut next_tick: Instant, now: Instant) -> Instant {
        for _ in 0..MAX_TICKS_PER_TURN {
            if now < next_tick {
                return next_tick;
            }
            self.core.tick();
            next_tick += TICK;
        }
        next_tick.max(now)
    }

    fn dispatch(&self, effect: Effect) -> Result<(), String> {
        let gone = |what: &str| format!("the {what} thread is gone");
        match effect {
            Effect::Send(messages) => self.outbound.send(messages),
            Effect::Log(job) => self.workers.log.send(job).map_err(|_| gone("log"))?,
            Effect::Apply(job) => self.workers.apply.send(job).map_err(|_| gone("apply"))?,
            Effect::Fetch(job) => {
                self.metrics.log_fetches.inc();
                self.workers.fetch.send(job).map_err(|_| gone("log reader"))?;
            }
            Effect::BuildSnapshot { as_set } => self.checkpoint(CheckpointJob::BuildSnapshot { as_set })?,
            Effect::RemoveSnapshots { before } => {
                self.checkpoint(CheckpointJob::RemoveSnapshots { before })?
            }
            Effect::Membership(membership) => self.outbound.set_membership(membership),
            Effect::Changed(waiter, membership) => drop(waiter.send(Ok(membership))),
            Effect::ElectionOver(took) => self.metrics.election_over(took),
            Effect::Lost(reason) => return Err(reason),
        }
        Ok(())
    }

    fn checkpoint(&self, job: CheckpointJob) -> Result<(), String> {
        self.workers.checkpoint.send(job).map_err(|_| "the checkpoint thread is gone".to_owned())
    }

    fn publish(&self, now: Instant) {
        let status = self.core.status(now);
        self.status.send_if_modified(|published| {
            let changed = **published != status;
            if changed {
                *published = Arc::new(status);
            }
            changed
        });
    }
}
