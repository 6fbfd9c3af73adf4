//! Commands tried out on top of the state before it is known whether they may count: what a script does.
//!
//! Each command sees the state of its moment and what the ones before it would change. In the end the trial is a
//! transaction of the commands that write, guarded by the revision of every key that any of them looked at:
//! applied, it finds what the trial found, or it does nothing. What no key stands for (`DBSIZE`, `KEYS`, `SCAN`,
//! `RANDOMKEY`) is not guarded.

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Command, ErrorCode, Guard, Transaction};
use prost::Message as _;

use super::budget::Limits;
use super::calls;
use super::command::Failure;
use super::store::Store;
use super::transaction;
use super::txn::{Draft, Lookups, Txn};
use crate::faults;
use helios_proto::Error;

/// What a trial may hold of keys and of changes, estimated.
const MAX_BYTES: usize = 64 << 20;
/// What a key that was looked at costs beside its own bytes.
const SEEN_BYTES: usize = 96;

pub struct Trial {
    draft: Draft,
    steps: Vec<Command>,
    bytes: usize,
    lookups: Lookups,
    /// Error that ended the trial: nothing more is executed, even if a script catches it.
    failure: Option<Error>,
}

impl Default for Trial {
    fn default() -> Self {
        Self::new(Limits::DEFAULT_READ)
    }
}

impl Trial {
    /// `limits`: of all its commands together.
    #[allow(clippy::disallowed_methods, reason = "the effects of a trial are logged, not its draws")]
    pub fn new(limits: Limits) -> Self {
        Self::with_seed(rand::random(), limits)
    }

    /// `seed` decides what is drawn by lot.
    pub fn with_seed(seed: u64, limits: Limits) -> Self {
        let draft = Draft::new(seed, limits);
        Self { draft, steps: Vec::new(), bytes: 0, lookups: Lookups::default(), failure: None }
    }

    /// What `op` answers after all that was tried before; a refusal is an answer.
    ///
    /// `now_ms`: the clock that it sees, milliseconds since the Unix epoch. An error ends the trial.
    pub fn run(&mut self, store: &Store, op: Op, now_ms: u64) -> Result<Answer, Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let outcome = self.try_next(store, op, now_ms);
        self.failure = outcome.as_ref().err().cloned();
        outcome
    }

    fn try_next(&mut self, store: &Store, op: Op, now_ms: u64) -> Result<Answer, Error> {
        if self.bytes() > MAX_BYTES {
            let message =
                format!("a script may hold {MAX_BYTES} bytes of keys and changes: make several of it");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        let command = Command { op: Some(op), ..Command::default() };
        let draft = self.draft.take();
        let keys_before = draft.seen.len();
        let (answer, draft, lookups) = store.try_out(draft, now_ms, |txn| transaction::run(txn, &command))?;
        self.bytes += (draft.seen.len() - keys_before) * SEEN_BYTES;
        self.draft = draft;
        self.lookups.found += lookups.found;
        self.lookups.missed += lookups.missed;
        if let Some(effect) = effect(command, &answer) {
            self.bytes += effect.encoded_len();
            self.steps.push(effect);
        }
        Ok(answer)
    }

    /// What it holds of keys and of changes, estimated.
    pub fn bytes(&self) -> usize {
        self.bytes + self.draft.bytes()
    }

    pub fn lookups(&self) -> Lookups {
        self.lookups
    }

    /// Without steps if nothing was to be written.
    pub fn finish(self) -> Transaction {
        let seen = self.draft.seen.into_iter().filter(|_| faults::is_script_guarded());
        Transaction {
            guards: seen.map(|(key, revision)| Guard { key, revision }).collect(),
            steps: self.steps,
        }
    }
}

/// What has to go through the log for `command` to have done what it did here: nothing for a read or a refusal.
fn effect(command: Command, answer: &Answer) -> Option<Command> {
    if matches!(answer, Answer::Error(_)) {
        return None;
    }
    match &command.op {
        // Which members it took was chance; the entry would draw others.
        Some(Op::Call(call)) if faults::logs_drawn(call.name == "spop") => {
            let key = call.args.first()?.clone();
            let popped = popped(answer);
            let args = std::iter::once(key).chain(popped.iter().cloned()).collect();
            let call = Call { name: "srem".to_owned(), args };
            (!popped.is_empty()).then(|| Command { op: Some(Op::Call(call)), ..Command::default() })
        }
        Some(Op::Call(call)) if !calls::find(&call.name)?.writes => None,
        _ => Some(command),
    }
}

fn popped(answer: &Answer) -> Vec<Bytes> {
    match answer {
        Answer::Bytes(member) => vec![member.clone()],
        Answer::Set(members) | Answer::List(members) => {
            members.items.iter().filter_map(|reply| reply.kind.as_ref()).flat_map(popped).collect()
        }
        _ => Vec::new(),
    }
}

impl Store {
    fn try_out(
        &self,
        draft: Draft,
        now_ms: u64,
        run: impl FnOnce(&mut Txn<'_>) -> Result<Answer, Failure>,
    ) -> Result<(Answer, Draft, Lookups), Error> {
        self.check()?;
        let state = self.inner.state();
        let meta = state.meta_for_reading(now_ms);
        let key_count = meta.key_count;
        let mut txn = Txn::resume(state.view(), meta, draft);
        match run(&mut txn) {
            Ok(answer) => {
                let lookups = txn.lookups();
                Ok((answer, txn.put_aside(key_count), lookups))
            }
            Err(failure) => Err(self.error_of(failure)),
        }
    }

    /// Whether every key is as its guard says, all at one applied index.
    pub fn holds(&self, guards: &[Guard], now_ms: u64) -> Result<bool, Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(now_ms, self.read_limits());
        transaction::holds(&mut txn, guards).map_err(|halt| self.error_of(halt.into()))
    }
}
