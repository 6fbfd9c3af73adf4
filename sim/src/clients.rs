//! Clients: each asks one thing at a time, of the member it believes in, and writes down what it saw.

use std::ops::Range;

use bytes::Bytes;
use helios_history::{Answer, History, Op, OpId, Value};
use helios_node::error::Error;
use helios_node::simulation::{Charge, Input, Proposal, format_of};
use helios_proto::v1::command::Op as CommandOp;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{Command, Delete, ErrorCode, Increment, Reply, Set, SetCondition};
use prost::Message as _;
use rand::Rng;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::events::{Event, Run, Slot};
use crate::plan::{MILLIS, Micros, Plan};
use crate::world::World;

pub struct Clients {
    pub history: History,
    clients: Vec<Client>,
    next_value: i64,
}

/// How long clients wait for an answer: most not for long, so that much is asked of a cluster in trouble.
const HASTY: Range<Micros> = 20 * MILLIS..200 * MILLIS;
const PATIENT: Range<Micros> = 200 * MILLIS..1_500 * MILLIS;

struct Client {
    /// The machine it asks.
    asks: Slot,
    waits: Option<Waiting>,
}

struct Waiting {
    op: OpId,
    slot: Slot,
    run: Run,
    deadline: Micros,
    question: Question,
}

enum Question {
    Write { asked: Op, answer: oneshot::Receiver<Result<Reply, Error>> },
    ReadIndex { key: String, answer: oneshot::Receiver<Result<u64, Error>> },
    Read { key: String, index: u64 },
}

/// How a question ended.
enum Ended {
    Answered(Answer),
    /// It certainly changed nothing.
    Failed,
    Unknown,
}

impl Clients {
    pub fn new(plan: &Plan) -> Self {
        let clients = (0..plan.clients).map(|client| Client { asks: client % plan.members, waits: None });
        Self { history: History::new(), clients: clients.collect(), next_value: 0 }
    }

    fn next_value(&mut self) -> i64 {
        self.next_value += 1;
        self.next_value
    }
}

impl World {
    /// A client's turn: it gives up what took too long, or asks something new.
    pub fn client(&mut self, client: usize) {
        self.poll_client(client);
        if let Some(waiting) = &self.clients.clients[client].waits {
            if waiting.deadline > self.now {
                let at = waiting.deadline;
                self.events.plan(at, Event::Client(client));
                return;
            }
            self.end_question(client, Ended::Unknown);
        } else if self.now < self.plan.horizon {
            self.ask(client);
        }
        let at = self.now + self.random.random_range(self.plan.think.clone()) + 20;
        if self.now < self.plan.horizon {
            self.events.plan(at, Event::Client(client));
        }
    }

    fn ask(&mut self, client: usize) {
        let op = self.choose_op();
        // Whoever writes is sent to the leader and stays there; followers are asked by reads alone.
        if op == Op::Get && self.random.random_ratio(1, 2) {
            self.look_elsewhere(client);
        }
        let slot = self.clients.clients[client].asks;
        if self.machines[slot].process.is_none() {
            self.look_elsewhere(client);
            return;
        }
        let key = format!("k{}", self.random.random_range(0..self.plan.keys));
        self.ask_for(client, slot, &key, op);
    }

    fn choose_op(&mut self) -> Op {
        if self.random.random_range(0..100) < self.plan.reads {
            return Op::Get;
        }
        let number = self.clients.next_value();
        match self.random.random_range(0..10) {
            0 => Op::SetIfAbsent(number.into()),
            1 => Op::Delete,
            2..=4 => Op::Incr(self.random.random_range(1..1_000) * 1_000_000),
            _ => Op::Set(number.into()),
        }
    }

    /// Asks a machine; the answer is looked for whenever that machine did something.
    pub fn ask_for(&mut self, client: usize, slot: Slot, key: &str, op: Op) -> Option<()> {
        let run = self.machines[slot].process.as_ref()?.run;
        let id = self.clients.history.invoke(client as u64, key, op.clone(), self.now);
        let (input, question) = if op == Op::Get {
            let (waiter, answer) = oneshot::channel();
            let by_lease = self.plan.lease.is_some() && self.random.random_ratio(1, 2);
            let input = if by_lease { Input::LeaseRead(waiter) } else { Input::Read(waiter) };
            (input, Question::ReadIndex { key: key.to_owned(), answer })
        } else {
            let (waiter, answer) = oneshot::channel();
            (
                Input::Propose(vec![proposal(&self.command(slot, key, &op), waiter)]),
                Question::Write { asked: op, answer },
            )
        };
        let is_patient = self.random.random_ratio(1, 4);
        let deadline = self.now + self.random.random_range(if is_patient { PATIENT } else { HASTY });
        self.clients.clients[client].waits = Some(Waiting { op: id, slot, run, deadline, question });
        self.input(slot, input);
        Some(())
    }

    fn command(&self, slot: Slot, key: &str, op: &Op) -> Command {
        let key = Bytes::copy_from_slice(key.as_bytes());
        // The checker knows a value by its number; what follows fills segments.
        let value = |value: &Value| Bytes::from(format!("{value}{}", " ".repeat(self.plan.padding)));
        let set = |condition: SetCondition, of: &Value| {
            CommandOp::Set(Set {
                key: key.clone(),
                value: value(of),
                condition: condition.into(),
                ..Set::default()
            })
        };
        let op = match op {
            Op::Set(of) => set(SetCondition::Always, of),
            Op::SetIfAbsent(of) => set(SetCondition::IfAbsent, of),
            Op::Incr(delta) => CommandOp::Increment(Increment { key: key.clone(), delta: *delta }),
            Op::Delete | Op::Get => CommandOp::Delete(Delete { keys: vec![key.clone()] }),
        };
        // No two wall clocks agree.
        let now_ms = 1_000_000 + self.now / 1_000 + slot as u64 * 3_600_000;
        Command { now_ms, op: Some(op), ..Command::default() }
    }

    /// Looks whether those who wait for `slot` were answered.
    pub fn poll_clients(&mut self, slot: Slot) {
        for client in 0..self.clients.clients.len() {
            if self.clients.clients[client].waits.as_ref().is_some_and(|waiting| waiting.slot == slot) {
                self.poll_client(client);
            }
        }
    }

    fn poll_client(&mut self, client: usize) {
        while let Some(waiting) = &mut self.clients.clients[client].waits {
            let process = self.machines[waiting.slot].process.as_ref();
            let process = process.filter(|process| process.run == waiting.run);
            let ended = match &mut waiting.question {
                Question::Write { asked, answer } => match answer.try_recv() {
                    Err(TryRecvError::Empty) => return,
                    // The process died.
                    Err(TryRecvError::Closed) => Ended::Unknown,
                    Ok(Ok(reply)) => Ended::of_reply(asked, reply),
                    Ok(Err(error)) => Ended::of_error(&error),
                },
                Question::ReadIndex { key, answer } => match answer.try_recv() {
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Closed) | Ok(Err(_)) => Ended::Failed,
                    Ok(Ok(index)) => {
                        waiting.question = Question::Read { key: std::mem::take(key), index };
                        continue;
                    }
                },
                Question::Read { key, index } => match process {
                    Some(process) if process.applied_index() < *index => return,
                    Some(process) => match process.store.get(key.as_bytes(), 0) {
                        Ok(value) => Ended::Answered(Answer::Value(
                            value.map(|value| value.data.trim_ascii_end().into()),
                        )),
                        Err(_) => Ended::Failed,
                    },
                    None => Ended::Failed,
                },
            };
            self.end_question(client, ended);
        }
    }

    fn end_question(&mut self, client: usize, ended: Ended) {
        let Some(waiting) = self.clients.clients[client].waits.take() else { return };
        let history = &mut self.clients.history;
        match ended {
            Ended::Answered(answer) => {
                history.ok(waiting.op, answer, self.now);
                self.report.answered += 1;
                return;
            }
            Ended::Failed => history.failed(waiting.op),
            Ended::Unknown => {
                history.maybe(waiting.op);
                self.report.unknown += 1;
            }
        }
        self.look_elsewhere(client);
    }

    fn look_elsewhere(&mut self, client: usize) {
        self.clients.clients[client].asks = self.random.random_range(0..self.plan.machines);
    }

    /// Nobody waits any more.
    pub fn clients_are_done(&self) -> bool {
        self.clients.clients.iter().all(|client| client.waits.is_none())
    }
}

pub fn proposal(command: &Command, waiter: oneshot::Sender<Result<Reply, Error>>) -> Proposal {
    let format = format_of(command).expect("it is of this build");
    Proposal { data: command.encode_to_vec(), format, waiter: waiter.into(), charge: Charge::default() }
}

impl Ended {
    fn of_reply(asked: &Op, reply: Reply) -> Self {
        if let Some(Kind::Error(_)) = reply.kind {
            // Applied and refused, as INCR of a text is.
            return Self::Failed;
        }
        Self::Answered(match (asked, reply.kind) {
            (Op::SetIfAbsent(_), Some(Kind::Done(_))) => Answer::Flag(true),
            (Op::SetIfAbsent(_), Some(Kind::Nil(_))) => Answer::Flag(false),
            (Op::Delete, Some(Kind::Integer(count))) => Answer::Flag(count == 1),
            (Op::Incr(_), Some(Kind::Integer(sum))) => Answer::Number(sum),
            (Op::Set(_), Some(Kind::Done(_))) => Answer::Done,
            // An answer to another question: the checker will not accept it.
            _ => Answer::Value(None),
        })
    }

    /// As `requests.rs` and clients take it: only these codes say that nothing happened.
    fn of_error(error: &Error) -> Self {
        match error.code {
            ErrorCode::NotLeader | ErrorCode::Overloaded => Self::Failed,
            _ => Self::Unknown,
        }
    }
}
