//! Clients: each has one request at a time, at one member, and records its answer. Every answer is compared with the
//! reference at once; operations on registers go into the history, too, which is checked for linearizability at the
//! end.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use helios_history::{Answer, History, Op, OpId, Value};
use helios_proto::Error;
use helios_proto::v1::command::Op as CommandOp;
use helios_proto::v1::reply::Kind;
use helios_proto::v1::{
    Call, Command, Delete, ErrorCode, Guard, Increment, Nil, Reply, RequestId, Set, SetCondition,
};
use helios_raft::simulation::{Charge, Input, Proposal, format_of};
use helios_state::{Limits, Store, Trial, commands};
use prost::Message as _;
use rand::Rng;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::Violation;
use crate::events::{Event, Run, Slot};
use crate::plan::{MILLIS, Micros, Plan};
use crate::reference::is_void;
use crate::workload::{self, Ask};
use crate::world::World;

pub struct Clients {
    pub history: History,
    clients: Vec<Client>,
    next_value: i64,
    /// Highest index of an answer to any client: all later requests have to see the entry.
    seen: u64,
    /// First violation by an answer, until it is reported.
    violation: Option<Violation>,
    /// Ids of requests that were rejected, and so must not be applied.
    pub refused: Vec<RequestId>,
    flushes: u32,
}

/// Timeout of most requests: short, so that many requests reach a cluster under faults.
const HASTY: Range<Micros> = 20 * MILLIS..200 * MILLIS;
/// Timeout of the other requests.
const PATIENT: Range<Micros> = 200 * MILLIS..1_500 * MILLIS;
/// Limit of the retries of a request whose outcome is unknown.
const MOST_RETRIES: u32 = 4;
/// Limit of the FLUSHALLs of a run: each makes the histories of all registers harder to check.
const MOST_FLUSHES: u32 = 3;

struct Client {
    /// Machine that gets its requests.
    asks: Slot,
    waits: Option<Waiting>,
    /// Time of its next turn; turns that were planned for another time are ignored.
    turn_at: Micros,
    /// Sequence number of its last request id.
    sequence: u64,
    /// Whether a request with an id was answered: from then on the members know this client, and a retry gets the
    /// answer of the request.
    is_known: bool,
}

struct Waiting {
    /// Operation of the history, if the request is on a register.
    op: Option<OpId>,
    slot: Slot,
    run: Run,
    deadline: Micros,
    /// [`Clients::seen`] at the time of the request.
    seen: u64,
    id: Option<RequestId>,
    retries: u32,
    request: Request,
}

/// A request whose answer is not there yet, by what it waits for.
enum Request {
    Write { command: Command, script: Option<Script>, answer: oneshot::Receiver<Result<Reply, Error>> },
    ReadIndex { then: Then, answer: oneshot::Receiver<Result<u64, Error>> },
    Read { then: Then, index: u64 },
}

/// Next step after a ReadIndex round, once the member has applied its index.
#[derive(Clone)]
enum Then {
    Register(String),
    Read(Call),
    Exec { watched: Vec<Bytes>, steps: Vec<CommandOp> },
    Script(Vec<CommandOp>),
}

/// Commands of a script and their results, from before its transaction was proposed.
#[derive(Clone)]
struct Script {
    ops: Vec<CommandOp>,
    saw: Vec<Kind>,
    /// The log's clock that it saw, ms.
    now_ms: u64,
}

/// Progress of a request.
enum Step {
    Replied(Reply),
    /// The member has applied the read index.
    Fresh,
    Ended(Ended),
}

/// Outcome of a request.
pub enum Ended {
    Answered,
    /// The request certainly changed nothing.
    Failed,
    Unknown,
}

impl Clients {
    pub fn new(plan: &Plan) -> Self {
        let client = |client| Client {
            asks: client % plan.members,
            waits: None,
            turn_at: 0,
            sequence: 0,
            is_known: false,
        };
        Self {
            history: History::new(),
            clients: (0..plan.clients).map(client).collect(),
            next_value: 0,
            seen: 0,
            violation: None,
            refused: Vec::new(),
            flushes: 0,
        }
    }

    fn next_value(&mut self) -> i64 {
        self.next_value += 1;
        self.next_value
    }

    /// Returns the first violation by an answer, once.
    pub fn check(&mut self) -> Result<(), Violation> {
        self.violation.take().map_or(Ok(()), Err)
    }

    fn record(&mut self, verdict: Result<(), Violation>) {
        if let (Err(violation), None) = (verdict, &self.violation) {
            self.violation = Some(violation);
        }
    }

    /// Records a violation if the index of an answer is below `seen`, the least index that earlier answers require.
    fn check_index(&mut self, what: &str, index: u64, seen: u64) {
        if index < seen {
            let message = format!("{what} index {index}; answers before the request require {seen} or later");
            self.record(Err(Violation(message)));
        }
    }

    /// Returns the id of the client's next request.
    fn next_request_id(&mut self, client: usize) -> RequestId {
        let asker = &mut self.clients[client];
        asker.sequence += 1;
        RequestId { client_id: format!("client-{client}").into(), sequence: asker.sequence, retry: false }
    }
}

impl World {
    /// Runs a client's turn: its request times out, or it sends a new one.
    pub fn client(&mut self, client: usize) {
        if self.clients.clients[client].turn_at != self.now {
            return;
        }
        self.poll_client(client);
        let deadline = self.clients.clients[client].waits.as_ref().map(|waiting| waiting.deadline);
        if deadline.is_some_and(|deadline| deadline <= self.now) {
            self.end_request(client, Ended::Unknown);
        } else if deadline.is_none() && self.now < self.plan.horizon {
            self.ask(client);
        }
        self.plan_turn(client);
    }

    /// Plans a client's next turn: at the deadline of its request, or after a pause.
    pub fn plan_turn(&mut self, client: usize) {
        let waits = self.clients.clients[client].waits.as_ref();
        let Some(at) = waits.map(|waiting| waiting.deadline).or_else(|| {
            (self.now < self.plan.horizon)
                .then(|| self.now + self.random.random_range(self.plan.think.clone()) + 20)
        }) else {
            return;
        };
        self.clients.clients[client].turn_at = at;
        self.events.plan(at, Event::Client(client));
    }

    fn ask(&mut self, client: usize) {
        let slot = self.clients.clients[client].asks;
        let is_wide = self.random.random_range(0..100) < self.plan.wide;
        let clock_ms = self.machines[slot].process.as_ref().map_or(0, |process| process.store.clock_ms());
        let ask = is_wide.then(|| {
            let may_flush = self.plan.flushes && self.clients.flushes < MOST_FLUSHES;
            workload::draw(&mut self.random, clock_ms, self.plan.reads, may_flush)
        });
        let register = ask.is_none().then(|| self.choose_op());
        // Clients that write stay at the leader once they have found it; only reads move to other members.
        let only_reads = register == Some(Op::Get) || matches!(ask, Some(Ask::Read(_) | Ask::Script(_)));
        if only_reads && self.random.random_ratio(1, 2) {
            self.choose_machine(client);
        }
        let slot = self.clients.clients[client].asks;
        if self.machines[slot].process.is_none() {
            self.choose_machine(client);
            return;
        }
        if let Some(op) = register {
            let key = format!("k{}", self.random.random_range(0..self.plan.keys));
            self.ask_for(client, slot, &key, op);
        } else if let Some(ask) = ask {
            self.ask_wide(client, slot, ask);
        }
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

    /// Sends an operation on a register to a machine, whose answers are polled after each of its steps.
    pub fn ask_for(&mut self, client: usize, slot: Slot, key: &str, op: Op) {
        let id = self.clients.history.invoke(client as u64, key, op.clone(), self.now);
        if op == Op::Get {
            self.read_then(client, slot, Some(id), Then::Register(key.to_owned()));
        } else {
            let op = self.op_of(key, &op);
            self.begin_wait(client, slot, Some(id));
            self.propose(client, slot, op, None);
        }
    }

    fn ask_wide(&mut self, client: usize, slot: Slot, ask: Ask) {
        match ask {
            Ask::Read(call) => self.read_then(client, slot, None, Then::Read(call)),
            Ask::Exec { watched, steps } if watched.is_empty() => {
                self.begin_wait(client, slot, None);
                self.propose(client, slot, workload::transaction(Vec::new(), steps), None);
            }
            Ask::Exec { watched, steps } => self.read_then(client, slot, None, Then::Exec { watched, steps }),
            Ask::Script(ops) => self.read_then(client, slot, None, Then::Script(ops)),
            Ask::Write(op) => {
                if matches!(&op, CommandOp::Call(call) if commands::name_of(call) == "flushall") {
                    self.flush(client);
                }
                self.begin_wait(client, slot, None);
                self.propose(client, slot, op, None);
            }
        }
    }

    /// Records a FLUSHALL in the history, as a removal of each register that may have happened.
    fn flush(&mut self, client: usize) {
        self.clients.flushes += 1;
        for key in 0..self.plan.keys {
            self.clients.history.invoke(client as u64, &format!("k{key}"), Op::Delete, self.now);
        }
    }

    /// Makes the client wait; [`World::put`] sets its request.
    fn begin_wait(&mut self, client: usize, slot: Slot, op: Option<OpId>) {
        let (deadline, seen) = (self.deadline(), self.clients.seen);
        let request = Request::Read { then: Then::Script(Vec::new()), index: u64::MAX };
        let waiting = Waiting { op, slot, run: 0, deadline, seen, id: None, retries: 0, request };
        self.clients.clients[client].waits = Some(waiting);
    }

    fn deadline(&mut self) -> Micros {
        let is_patient = self.random.random_range(0..100) < self.plan.patient;
        self.now + self.random.random_range(if is_patient { PATIENT } else { HASTY })
    }

    fn read_then(&mut self, client: usize, slot: Slot, op: Option<OpId>, then: Then) {
        self.begin_wait(client, slot, op);
        let (waiter, answer) = oneshot::channel();
        let by_lease = self.plan.lease.is_some() && self.random.random_ratio(1, 2);
        let input = if by_lease { Input::LeaseRead(waiter) } else { Input::Read(waiter) };
        self.put(client, slot, Request::ReadIndex { then, answer }, input);
    }

    /// Proposes a write to a machine, for a client that waits already.
    fn propose(&mut self, client: usize, slot: Slot, op: CommandOp, script: Option<Script>) {
        let is_named = self.random.random_range(0..100) < self.plan.named;
        let is_first =
            self.clients.clients[client].waits.as_ref().is_some_and(|waiting| waiting.retries == 0);
        if is_named && is_first {
            let id = self.clients.next_request_id(client);
            self.clients.clients[client].waits.iter_mut().for_each(|waiting| waiting.id = Some(id.clone()));
        }
        let now_ms = self.clock_ms(slot);
        let request_id = self.clients.clients[client].waits.as_ref().and_then(|waiting| waiting.id.clone());
        let command = Command { now_ms, request_id, op: Some(op), ..Command::default() };
        let (waiter, answer) = oneshot::channel();
        let mut proposals = vec![proposal(&command, waiter)];
        // At times a retry is sent before the first try is answered.
        if let Some(id) = command.request_id.clone().filter(|_| self.clients.clients[client].is_known)
            && self.random.random_ratio(1, 8)
        {
            let again = Command { request_id: Some(RequestId { retry: true, ..id }), ..command.clone() };
            proposals.push(proposal(&again, oneshot::channel().0));
        }
        let input = Input::Propose(proposals);
        self.put(client, slot, Request::Write { command, script, answer }, input);
    }

    fn put(&mut self, client: usize, slot: Slot, request: Request, input: Input) {
        let run = self.machines[slot].process.as_ref().map_or(0, |process| process.run);
        if let Some(waiting) = &mut self.clients.clients[client].waits {
            (waiting.slot, waiting.run, waiting.request) = (slot, run, request);
        }
        self.input(slot, input);
    }

    /// Wall-clock time of a machine, ms. The clocks of two machines differ by an hour at least.
    pub fn clock_ms(&self, slot: Slot) -> u64 {
        1_000_000 + self.now / 1_000 + slot as u64 * 3_600_000
    }

    fn op_of(&self, key: &str, op: &Op) -> CommandOp {
        let key = Bytes::from(key.to_owned());
        // The checker identifies a value by its number; the padding fills segments.
        let text = |value: &Value| Bytes::from(format!("{value}{}", " ".repeat(self.plan.padding)));
        let set = |value: &Value, condition: SetCondition| {
            CommandOp::Set(Set {
                key: key.clone(),
                value: text(value),
                condition: condition.into(),
                ..Set::default()
            })
        };
        match op {
            Op::Set(value) => set(value, SetCondition::Always),
            Op::SetIfAbsent(value) => set(value, SetCondition::IfAbsent),
            Op::Delete => CommandOp::Delete(Delete { keys: vec![key] }),
            Op::Incr(delta) => CommandOp::Increment(Increment { key, delta: *delta }),
            Op::Get => unreachable!("reads are not proposed"),
        }
    }

    /// Polls the clients that wait for an answer of the machine `slot`.
    pub fn poll_clients(&mut self, slot: Slot) {
        for client in 0..self.clients.clients.len() {
            if self.clients.clients[client].waits.as_ref().is_some_and(|waiting| waiting.slot == slot) {
                self.poll_client(client);
            }
        }
    }

    fn poll_client(&mut self, client: usize) {
        while let Some(step) = self.next_step(client) {
            match step {
                Step::Replied(reply) => self.replied(client, reply),
                Step::Fresh => self.continue_read(client),
                Step::Ended(ended) => self.end_request(client, ended),
            }
        }
    }

    /// Returns the next step of a client's request; `None` if there is none yet.
    fn next_step(&mut self, client: usize) -> Option<Step> {
        let waiting = self.clients.clients[client].waits.as_mut()?;
        if let Request::ReadIndex { then, answer } = &mut waiting.request {
            let index = match answer.try_recv() {
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Closed) | Ok(Err(_)) => return Some(Step::Ended(Ended::Failed)),
                Ok(Ok(index)) => index,
            };
            let seen = waiting.seen;
            waiting.request = Request::Read { then: then.clone(), index };
            self.clients.check_index("a ReadIndex round returned", index, seen);
        }
        let waiting = self.clients.clients[client].waits.as_mut()?;
        let process = self.machines[waiting.slot].process.as_ref();
        match (&mut waiting.request, process.filter(|process| process.run == waiting.run)) {
            (Request::Write { answer, .. }, _) => match answer.try_recv() {
                Err(TryRecvError::Empty) => None,
                // The process ended.
                Err(TryRecvError::Closed) => Some(Step::Ended(Ended::Unknown)),
                Ok(Ok(reply)) => Some(Step::Replied(reply)),
                Ok(Err(error)) => Some(Step::Ended(Ended::of_error(&error))),
            },
            (Request::Read { index, .. }, Some(process)) if process.applied_index() < *index => None,
            (Request::Read { .. }, Some(_)) => Some(Step::Fresh),
            (_, None) => Some(Step::Ended(Ended::Failed)),
            (Request::ReadIndex { .. }, _) => None,
        }
    }

    /// Checks the answer to a write, which took effect or was rejected at an index.
    fn replied(&mut self, client: usize, reply: Reply) {
        let Some(waiting) = &self.clients.clients[client].waits else { return };
        let Request::Write { command, script, .. } = &waiting.request else { return };
        let (answer, index, seen) =
            (reply.kind.clone().unwrap_or(Kind::Nil(Nil {})), reply.index, waiting.seen);
        let mut verdict = self.reference.check_reply(command, index, &answer);
        if let (Ok(()), Some(script), Kind::List(_)) = (&verdict, script, &answer) {
            verdict =
                self.reference.check_script(&script.ops, &script.saw, (index - 1, index), script.now_ms);
            self.report.note("script");
        }
        if let Some(CommandOp::Transaction(_)) = &command.op {
            self.report.note(if is_void(&answer) { "void transaction" } else { "transaction" });
        }
        if waiting.retries > 0 {
            self.report.note("retry");
        }
        let mut kinds = BTreeSet::new();
        command.op.iter().for_each(|op| workload::kinds_of(op, &mut kinds));
        kinds.into_iter().for_each(|kind| self.report.note(kind));
        self.clients.record(verdict);
        // The entry of a write follows those of all answers before the request.
        self.clients.check_index("a write was answered at", index, seen + 1);
        self.record_index(index);
        self.end_write(client, reply);
    }

    fn end_write(&mut self, client: usize, reply: Reply) {
        let Some(waiting) = &self.clients.clients[client].waits else { return };
        let Request::Write { command, .. } = &waiting.request else { return };
        let (slot, key, op) = (waiting.slot, command.op.as_ref().and_then(workload::key_of), waiting.op);
        self.clients.clients[client].is_known |= waiting.id.is_some();
        let answer = op.map(|id| (id, answer_of(&self.clients.history.operation(id).op, reply.kind)));
        match answer {
            Some((id, Some(answer))) => self.clients.history.ok(id, answer, self.now),
            // The entry was applied and rejected, as INCR of a text is.
            Some((id, None)) => self.clients.history.failed(id),
            None => {}
        }
        if let Some(waiting) = &mut self.clients.clients[client].waits {
            waiting.op = None;
        }
        self.end_request(client, Ended::Answered);
        if let Some(key) = key {
            self.follow_up(client, slot, &key);
        }
    }

    /// Records the index of an answer.
    fn record_index(&mut self, index: u64) {
        self.clients.seen = self.clients.seen.max(index);
    }

    /// Has another client read the key of an answered write at once, at another member: it has to see the write.
    fn follow_up(&mut self, writer: usize, wrote_at: Slot, key: &Bytes) {
        if self.now >= self.plan.horizon || self.random.random_range(0..100) >= self.plan.follow_ups {
            return;
        }
        let is_idle = |client: &usize| *client != writer && self.clients.clients[*client].waits.is_none();
        let Some(client) = (0..self.clients.clients.len()).find(is_idle) else { return };
        let others =
            self.machines.iter().filter(|machine| machine.slot != wrote_at && machine.process.is_some());
        let others: Vec<_> = others.map(|machine| machine.slot).collect();
        if others.is_empty() {
            return;
        }
        let slot = others[self.random.random_range(0..others.len())];
        self.report.note("follow-up");
        if key.starts_with(b"k") {
            self.ask_for(client, slot, &String::from_utf8_lossy(key), Op::Get);
        } else {
            self.ask_wide(client, slot, Ask::Read(workload::read_of(key)));
        }
        self.plan_turn(client);
    }

    /// Continues a request whose member has applied the read index.
    fn continue_read(&mut self, client: usize) {
        let Some(Waiting { slot, seen, request: Request::Read { then, .. }, .. }) =
            &self.clients.clients[client].waits
        else {
            return;
        };
        let (slot, seen, then) = (*slot, *seen, then.clone());
        let Some(process) = &self.machines[slot].process else { return };
        let (store, applied) = (process.store.clone(), process.applied_index());
        self.clients.check_index("a read was answered at", applied, seen);
        match then {
            Then::Register(key) => self.read_register(client, &store, &key, applied),
            Then::Read(call) => {
                let Some(answer) = query(&store, &call) else {
                    return self.end_request(client, Ended::Failed);
                };
                let verdict = self.reference.check_read(&call, applied, &answer);
                self.clients.record(verdict);
                self.record_index(applied);
                self.end_request(client, Ended::Answered);
            }
            Then::Exec { watched, steps } => {
                let revision =
                    |key: &Bytes| store.get(key, 0).ok().flatten().map_or(0, |value| value.revision);
                let guards = watched.iter().map(|key| Guard { key: key.clone(), revision: revision(key) });
                let op = workload::transaction(guards.collect(), steps);
                self.forward(client, op, None);
            }
            Then::Script(ops) => self.run_script(client, &store, ops, applied),
        }
    }

    fn read_register(&mut self, client: usize, store: &Store, key: &str, applied: u64) {
        let Ok(value) = store.get(key.as_bytes(), 0) else { return self.end_request(client, Ended::Failed) };
        let held = value.map(|value| value.data);
        let answer = held.clone().map_or(Kind::Nil(Nil {}), Kind::Bytes);
        let call = commands::call("get", vec![Bytes::copy_from_slice(key.as_bytes())]);
        let verdict = self.reference.check_read(&call, applied, &answer);
        self.clients.record(verdict);
        self.record_index(applied);
        let id = self.clients.clients[client].waits.as_mut().and_then(|waiting| waiting.op.take());
        if let Some(id) = id {
            let value = held.map(|data| data.trim_ascii_end().into());
            self.clients.history.ok(id, Answer::Value(value), self.now);
        }
        self.end_request(client, Ended::Answered);
    }

    /// Runs a script as a member does: on its own state first, then as a guarded transaction.
    fn run_script(&mut self, client: usize, store: &Store, ops: Vec<CommandOp>, applied: u64) {
        let mut trial = Trial::with_seed(self.random.random(), Limits::DEFAULT_READ);
        let (mut saw, now_ms) = (Vec::new(), store.clock_ms());
        for op in &ops {
            let Ok(answer) = trial.run(store, op.clone(), now_ms) else {
                return self.end_request(client, Ended::Failed);
            };
            saw.push(answer);
        }
        let transaction = trial.finish();
        if transaction.steps.is_empty() {
            let verdict = self.reference.check_script(&ops, &saw, (applied, applied), now_ms);
            self.clients.record(verdict);
            self.record_index(applied);
            return self.end_request(client, Ended::Answered);
        }
        self.forward(client, CommandOp::Transaction(transaction), Some(Script { ops, saw, now_ms }));
    }

    /// Forwards a client's write to the leader, if one is known.
    fn forward(&mut self, client: usize, op: CommandOp, script: Option<Script>) {
        let Some(waiting) = &self.clients.clients[client].waits else { return };
        let slot = self.leader().map_or(waiting.slot, |(leader, _)| leader);
        if self.machines[slot].process.is_none() {
            return self.end_request(client, Ended::Failed);
        }
        self.propose(client, slot, op, script);
    }

    fn end_request(&mut self, client: usize, ended: Ended) {
        let Some(waiting) = &self.clients.clients[client].waits else { return };
        // The outcome of an earlier try is unknown.
        let may_be_applied = waiting.retries > 0;
        let ended = if may_be_applied && matches!(ended, Ended::Failed) { Ended::Unknown } else { ended };
        if matches!(ended, Ended::Unknown) && self.retry(client) {
            return;
        }
        let Some(waiting) = self.clients.clients[client].waits.take() else { return };
        let history = &mut self.clients.history;
        match ended {
            Ended::Answered => {
                self.report.answered += 1;
                self.plan_turn(client);
                return;
            }
            Ended::Failed => {
                waiting.op.iter().for_each(|op| history.failed(*op));
                self.clients.refused.extend(waiting.id);
            }
            Ended::Unknown => {
                waiting.op.iter().for_each(|op| history.maybe(*op));
                self.report.unknown += 1;
            }
        }
        self.choose_machine(client);
        self.plan_turn(client);
    }

    /// Sends a request with an id again; earlier tries may still be in transit. Returns false if it cannot: it has no
    /// id, the members do not know the client, it was retried often enough, or no process runs.
    fn retry(&mut self, client: usize) -> bool {
        let asker = &self.clients.clients[client];
        let Some(waiting) = &asker.waits else { return false };
        let Request::Write { command, script, .. } = &waiting.request else { return false };
        if !asker.is_known || waiting.id.is_none() || waiting.retries >= MOST_RETRIES {
            return false;
        }
        let (op, script) = (command.op.clone(), script.clone());
        let up: Vec<_> = self.machines.iter().filter(|machine| machine.process.is_some()).collect();
        if up.is_empty() {
            return false;
        }
        let anyone = up[self.random.random_range(0..up.len())].slot;
        let leader = self.leader().map(|(leader, _)| leader).filter(|_| self.random.random_ratio(2, 3));
        let deadline = self.deadline();
        if let Some(waiting) = &mut self.clients.clients[client].waits {
            waiting.retries += 1;
            waiting.deadline = deadline;
            waiting.id.iter_mut().for_each(|id| id.retry = true);
        }
        if let Some(op) = op {
            self.propose(client, leader.unwrap_or(anyone), op, script);
        }
        self.plan_turn(client);
        true
    }

    fn choose_machine(&mut self, client: usize) {
        self.clients.clients[client].asks = self.random.random_range(0..self.plan.machines);
    }

    /// Whether no client waits for an answer.
    pub fn clients_are_done(&self) -> bool {
        self.clients.clients.iter().all(|client| client.waits.is_none())
    }
}

pub fn proposal(command: &Command, waiter: oneshot::Sender<Result<Reply, Error>>) -> Proposal {
    let format = format_of(command).expect("commands of this build have a format");
    Proposal { data: command.encode_to_vec(), format, waiter: waiter.into(), charge: Charge::default() }
}

/// Answer of a member's state to a read; `None` if the state cannot be read.
pub fn query(store: &Store, call: &Call) -> Option<Kind> {
    match store.query(call, 0, Limits::DEFAULT_READ) {
        Ok((answer, _)) => Some(answer),
        Err(_) if store.failure().is_some() => None,
        Err(error) => Some(Kind::Error(error.into())),
    }
}

/// Answer as the history has it; `None` if the operation was rejected.
fn answer_of(asked: &Op, answer: Option<Kind>) -> Option<Answer> {
    Some(match (asked, answer) {
        (_, Some(Kind::Error(_))) => return None,
        (Op::SetIfAbsent(_), Some(Kind::Done(_))) => Answer::Flag(true),
        (Op::SetIfAbsent(_), Some(Kind::Nil(_))) => Answer::Flag(false),
        (Op::Delete, Some(Kind::Integer(count))) => Answer::Flag(count == 1),
        (Op::Incr(_), Some(Kind::Integer(sum))) => Answer::Number(sum),
        (Op::Set(_), Some(Kind::Done(_))) => Answer::Done,
        // No answer of this operation: the checker does not accept it.
        _ => Answer::Value(None),
    })
}

impl Ended {
    /// Outcome for an error, as the node's `requests` and clients read it: only these codes mean that nothing happened.
    pub fn of_error(error: &Error) -> Self {
        match error.code {
            ErrorCode::NotLeader | ErrorCode::Overloaded | ErrorCode::EntryUnappliable => Self::Failed,
            _ => Self::Unknown,
        }
    }
}
