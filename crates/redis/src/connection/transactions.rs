//! `WATCH` and `EXEC` of a connection.

use bytes::Bytes;
use helios_proto::Error;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{Command, Guard, Reply, Transaction};
use helios_service::database::Database;
use helios_state::{AnswerBudget, Store};

use super::super::commands::Request;
use super::super::commands::write::Answer;
use super::super::frame::Frame;
use super::super::transaction::{MAX_WATCHED, Queued};
use super::atomic::Part;
use super::{Connection, Round, Turn};

impl<D: Database> Connection<D> {
    pub(super) async fn watch(&mut self, keys: Vec<Bytes>, round: &mut Round) -> Result<Frame, Error> {
        if self.session.queue.is_some() {
            return Ok(Frame::error("ERR WATCH inside MULTI is not allowed"));
        }
        if self.session.watched.len() + keys.len() > MAX_WATCHED {
            return Ok(Frame::error(format!(
                "ERR this connection may watch {MAX_WATCHED} keys; UNWATCH some"
            )));
        }
        self.await_fresh(round).await?;
        for key in keys {
            if self.session.watched.iter().any(|guard| guard.key == key) {
                continue;
            }
            let revision = self.db.store().revision(&key, self.db.now_ms())?;
            // Copied: a slice would keep the chunk that it was read in.
            let key = Bytes::copy_from_slice(&key);
            self.session.watched_bytes += key.len() + size_of::<Guard>();
            self.session.watched.push(Guard { key, revision });
        }
        Ok(Frame::OK)
    }

    /// Executes the queue: commands on keys in one log entry, then those that this node answers locally.
    pub(super) async fn exec(&mut self, round: &mut Round) -> Frame {
        let Some(queue) = self.session.queue.take() else {
            return Frame::error("ERR EXEC without MULTI");
        };
        let guards = self.session.unwatch();
        if queue.is_broken() {
            return Frame::error("EXECABORT Transaction discarded because of previous errors.");
        }
        let (steps, queued) = queue.finish();
        if queued.iter().any(|queued| matches!(queued, Queued::Script(_))) {
            return self.exec_with_scripts(steps, queued, guards, round).await;
        }
        let mut replies = Vec::new().into_iter();
        if !(steps.is_empty() && guards.is_empty()) {
            match self.run_transaction(Transaction { guards, steps }, round).await {
                Ok(Reply { kind: Some(Kind::List(list)), .. }) => replies = list.items.into_iter(),
                Ok(reply) => return Answer::Plain.frame(reply),
                Err(error) => return self.failure(error),
            }
        }
        let mut budget = AnswerBudget::of_transaction(self.db.store().read_limits());
        let (mut frames, mut turn) = (Vec::with_capacity(queued.len()), Turn::new());
        for queued in queued {
            turn.yield_if_due().await;
            frames.push(match queued {
                Queued::Step(answer) => within(&mut budget, answer.frame(replies.next().unwrap_or_default())),
                queued => self.answer_queued(queued, &mut budget, round).await,
            });
        }
        Frame::Array(frames)
    }

    /// Runs a transaction. If it only reads, it does not enter the log: reads must not be stored and applied by
    /// all members.
    async fn run_transaction(&mut self, transaction: Transaction, round: &mut Round) -> Result<Reply, Error> {
        if transaction.steps.iter().any(helios_state::writes) {
            return self.submit_one(Op::Transaction(transaction), round).await;
        }
        self.await_fresh(round).await?;
        let now_ms = self.db.now_ms();
        let read = move |store: &Store, limits| store.read_transaction(&transaction, now_ms, limits);
        let answer = helios_service::long_reads::run(self.db.store(), read).await?;
        Ok(Reply { kind: Some(answer), ..Reply::default() })
    }

    /// Executes a queue with scripts. A step may depend on a script before it, so all are tried here, one after
    /// the other.
    async fn exec_with_scripts(
        &mut self,
        steps: Vec<Command>,
        queued: Vec<Queued>,
        guards: Vec<Guard>,
        round: &mut Round,
    ) -> Frame {
        let (parts, queued) = Part::of_queue(queued, steps);
        let mut answers = match self.run_parts(parts, guards, round).await {
            Ok(frames) => frames.into_iter(),
            Err(frame) => return frame,
        };
        let mut budget = AnswerBudget::of_transaction(self.db.store().read_limits());
        let (mut frames, mut turn) = (Vec::with_capacity(queued.len()), Turn::new());
        for queued in queued {
            turn.yield_if_due().await;
            frames.push(match queued {
                Queued::Part => within(&mut budget, answers.next().unwrap_or(Frame::Null)),
                queued => self.answer_queued(queued, &mut budget, round).await,
            });
        }
        Frame::Array(frames)
    }

    /// Answers a queued command that is no step; executes nothing once a reply has exceeded `budget`.
    async fn answer_queued(&mut self, queued: Queued, budget: &mut AnswerBudget, round: &mut Round) -> Frame {
        if let Err(error) = budget.check() {
            return error.into();
        }
        let frame = match queued {
            Queued::Refused(refusal) => refusal.into(),
            Queued::Later(request) => self.answer_later(request, round).await,
            Queued::Step(_) | Queued::Script(_) | Queued::Part => Frame::Null,
        };
        within(budget, frame)
    }

    async fn answer_later(&mut self, request: Request, round: &mut Round) -> Frame {
        match request {
            Request::Read(read) => {
                let answer = self.read(read, round).await;
                answer.unwrap_or_else(|error| self.failure(error))
            }
            Request::Local(local) => self.run_local_in_turn(local, round).await,
            Request::Publish { channel, payload } => {
                Frame::Integer(self.db.publish(channel, payload).await.cast_signed())
            }
            Request::Subscribe { .. } | Request::Unsubscribe { .. } => {
                Frame::error("ERR subscriptions are not allowed inside MULTI")
            }
            // As in Redis, no command waits inside a transaction. The other kinds are never queued as `Later`.
            Request::Wait { .. }
            | Request::Write(_)
            | Request::Script(_)
            | Request::Block(_)
            | Request::Exec
            | Request::Watch(_) => Frame::Integer(0),
        }
    }

    pub(super) async fn submit_one(&mut self, op: Op, round: &mut Round) -> Result<Reply, Error> {
        let submitted = self.db.submit(vec![op.into()], self.session.ack);
        let outcome = self.wire.alongside(submitted).await.pop();
        round.barrier = None;
        let reply = outcome.unwrap_or_else(|| Err(Error::outcome_unknown()))?;
        self.session.follow(self.db.token_of(&reply));
        Ok(reply)
    }
}

/// Returns the reply, or in its place the error if it exceeds `budget`.
fn within(budget: &mut AnswerBudget, frame: Frame) -> Frame {
    match budget.charge(frame.parts(), frame.cost()) {
        Ok(()) => frame,
        Err(error) => error.into(),
    }
}
