//! Optimistic execution of a script's commands: a trial runs them on top of the state before anything is
//! proposed.
//!
//! Each command sees the current state and the changes of the commands before it. The result is a transaction
//! of the writing commands, guarded by the revision of every key that any command read: when it is applied,
//! it finds the values that the trial found, or it does nothing. Commands that read no particular key
//! (`DBSIZE`, `KEYS`, `SCAN`, `RANDOMKEY`) are not guarded.

use bytes::Bytes;
use helios_proto::v1::command::Op;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Command, ErrorCode, Guard, Transaction};
use prost::Message as _;

use super::budget::Limits;
use super::command::Failure;
use super::commands;
use super::store::Store;
use super::transaction;
use super::txn::{Draft, Lookups, Txn};
use crate::faults;
use helios_proto::Error;

/// Maximum estimated size of a trial's keys and changes, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// Estimated overhead in bytes of a key that was read.
const SEEN_BYTES: usize = 96;

pub struct Trial {
    draft: Draft,
    steps: Vec<Command>,
    bytes: usize,
    lookups: Lookups,
    /// Error that ended the trial: no further command is executed, even if the script catches it.
    failure: Option<Error>,
}

impl Default for Trial {
    fn default() -> Self {
        Self::new(Limits::DEFAULT_READ)
    }
}

impl Trial {
    /// Creates a trial; `limits` apply to all its commands together.
    #[allow(clippy::disallowed_methods, reason = "the effects of a trial are logged, not its random numbers")]
    pub fn new(limits: Limits) -> Self {
        Self::with_seed(rand::random(), limits)
    }

    /// Creates a trial whose random numbers are decided by `seed`.
    pub fn with_seed(seed: u64, limits: Limits) -> Self {
        let draft = Draft::new(seed, limits);
        Self { draft, steps: Vec::new(), bytes: 0, lookups: Lookups::default(), failure: None }
    }

    /// Executes `op` after the earlier commands and returns its answer; a refusal is an answer.
    ///
    /// `now_ms` is the clock of the command, milliseconds since the Unix epoch. An error ends the trial.
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

    /// Returns the estimated size of the trial's keys and changes, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes + self.draft.bytes()
    }

    pub fn lookups(&self) -> Lookups {
        self.lookups
    }

    /// Returns the trial's transaction; it has no steps if no command wrote.
    pub fn finish(self) -> Transaction {
        let seen = self.draft.seen.into_iter().filter(|_| faults::is_script_guarded());
        Transaction {
            guards: seen.map(|(key, revision)| Guard { key, revision }).collect(),
            steps: self.steps,
        }
    }
}

/// Returns the command to log so that it has the effect that `command` had in the trial; `None` for a read or
/// a refusal.
fn effect(command: Command, answer: &Answer) -> Option<Command> {
    if matches!(answer, Answer::Error(_)) {
        return None;
    }
    match &command.op {
        // SPOP chose random members, and the applied entry would choose others: log SREM of the chosen ones.
        Some(Op::Call(call)) if faults::logs_drawn(commands::of(call)?.name == "spop") => {
            let key = call.args.first()?.clone();
            let popped = popped(answer);
            let args = std::iter::once(key).chain(popped.iter().cloned()).collect();
            let call = commands::call("srem", args);
            (!popped.is_empty()).then(|| Command { op: Some(Op::Call(call)), ..Command::default() })
        }
        Some(Op::Call(call)) if !commands::of(call)?.writes() => None,
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
                Ok((answer, txn.suspend(key_count), lookups))
            }
            Err(failure) => Err(self.error_of(failure)),
        }
    }

    /// Whether every guarded key has its guard's revision, all at one applied index.
    pub fn holds(&self, guards: &[Guard], now_ms: u64) -> Result<bool, Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(now_ms, self.read_limits());
        transaction::holds(&mut txn, guards).map_err(|halt| self.error_of(halt.into()))
    }
}
