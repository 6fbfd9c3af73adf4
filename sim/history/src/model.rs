//! The model of one key: its states, and the effect of each operation on them.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::history::{Answer, Op, Operation, Outcome, Value};

/// The state of the key. Texts are numbered, which makes a state cheap to copy and compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Absent,
    Number(i64),
    Text(u32),
}

/// A placeholder for all values that no answer contains.
const UNSEEN: State = State::Text(u32::MAX);

/// An operation with its observed answer; `None` if the answer is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Read(State),
    Write(State),
    Create(State, Option<bool>),
    Remove(Option<bool>),
    Add(i64, Option<i64>),
    /// The answer is one that the operation never gives.
    Impossible,
}

#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Index of the operation in the whole history.
    pub source: usize,
    pub invoked: u64,
    /// Time of the return; `u64::MAX` for an unknown outcome.
    pub returned: u64,
    pub effect: Effect,
}

/// The operations on one key, each list in the order of invocation.
#[derive(Debug, Default)]
pub struct KeyHistory {
    /// Operations with an answer, which must be in the order.
    pub definite: Vec<Step>,
    /// Operations of unknown outcome, which may be in the order.
    pub maybe: Vec<Step>,
    pub sums: Sums,
    texts: HashMap<Vec<u8>, u32>,
}

/// The possible sums of any subset of the additions of unknown outcome; `None` for more than `MAX_SUMS`.
#[derive(Debug, Default)]
pub struct Sums(Option<Vec<i64>>);

const MAX_SUMS: usize = 256;

impl Effect {
    /// Returns the state after the operation; `None` if its answer is impossible in `state`.
    pub fn apply(self, state: State) -> Option<State> {
        let expected = |answer: Option<bool>, actual| answer.is_none_or(|answer| answer == actual);
        match self {
            Self::Read(seen) => (seen == state).then_some(state),
            Self::Write(value) => Some(value),
            Self::Create(value, created) => {
                let is_absent = state == State::Absent;
                expected(created, is_absent).then_some(if is_absent { value } else { state })
            }
            Self::Remove(removed) => expected(removed, state != State::Absent).then_some(State::Absent),
            Self::Add(by, sum) => {
                let actual = match state {
                    State::Absent => Some(by),
                    State::Number(number) => number.checked_add(by),
                    State::Text(_) => None,
                };
                match (actual, sum) {
                    (Some(actual), sum) if sum.is_none_or(|sum| sum == actual) => Some(State::Number(actual)),
                    // The operation fails, which is possible only if its outcome is unknown.
                    (None, None) => Some(state),
                    _ => None,
                }
            }
            Self::Impossible => None,
        }
    }

    /// Whether the operation changes nothing.
    pub fn only_observes(self) -> bool {
        matches!(self, Self::Read(_) | Self::Create(_, Some(false)) | Self::Remove(Some(false)))
    }

    /// Whether neither the answer nor the state after the operation depends on the state before it.
    pub fn is_blind(self) -> bool {
        matches!(self, Self::Write(_) | Self::Remove(None))
    }

    /// Returns the only state in which the answer is possible, if there is only one. For a sum, an absent key
    /// is equivalent to 0, which `Sums::reached` includes.
    pub fn needs(self) -> Option<State> {
        match self {
            Self::Read(state) => Some(state),
            Self::Create(_, Some(true)) | Self::Remove(Some(false)) => Some(State::Absent),
            Self::Add(by, Some(sum)) => sum.checked_sub(by).map(State::Number),
            _ => None,
        }
    }

    /// Returns the state after the operation if it changes the state; `None` also for a sum of unknown
    /// outcome.
    pub fn makes(self) -> Option<State> {
        match self {
            Self::Write(state) | Self::Create(state, None | Some(true)) => Some(state),
            Self::Remove(None | Some(true)) => Some(State::Absent),
            Self::Add(_, Some(sum)) => Some(State::Number(sum)),
            _ => None,
        }
    }

    fn observes_presence(self) -> bool {
        matches!(self, Self::Create(_, Some(_)) | Self::Remove(Some(_)))
    }
}

impl KeyHistory {
    pub fn add(&mut self, source: usize, operation: &Operation) {
        let invoked = operation.invoked;
        match &operation.outcome {
            Outcome::Failed => {}
            Outcome::Ok { answer, returned } => {
                let effect = self.answered(&operation.op, answer);
                self.definite.push(Step { source, invoked, returned: *returned, effect });
            }
            Outcome::Maybe => {
                let effect = match &operation.op {
                    // A read of unknown outcome has no effect and no answer.
                    Op::Get => return,
                    Op::Set(value) => Effect::Write(self.state_of(value)),
                    Op::SetIfAbsent(value) => Effect::Create(self.state_of(value), None),
                    Op::Delete => Effect::Remove(None),
                    Op::Incr(by) => Effect::Add(*by, None),
                };
                self.maybe.push(Step { source, invoked, returned: u64::MAX, effect });
            }
        }
    }

    fn answered(&mut self, op: &Op, answer: &Answer) -> Effect {
        match (op, answer) {
            (Op::Get, Answer::Value(None)) => Effect::Read(State::Absent),
            (Op::Get, Answer::Value(Some(value))) => Effect::Read(self.state_of(value)),
            (Op::Set(value), Answer::Done) => Effect::Write(self.state_of(value)),
            (Op::SetIfAbsent(value), Answer::Flag(set)) => Effect::Create(self.state_of(value), Some(*set)),
            (Op::Delete, Answer::Flag(existed)) => Effect::Remove(Some(*existed)),
            (Op::Incr(by), Answer::Number(sum)) => Effect::Add(*by, Some(*sum)),
            _ => Effect::Impossible,
        }
    }

    fn state_of(&mut self, value: &Value) -> State {
        let bytes = match value {
            Value::Number(number) => return State::Number(*number),
            Value::Bytes(bytes) => bytes,
        };
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok());
        if let Some(number) = number.filter(|number| number.to_string().as_bytes() == bytes) {
            return State::Number(number);
        }
        let next = self.texts.len() as u32;
        State::Text(*self.texts.entry(bytes.clone()).or_insert(next))
    }

    /// Returns `state` as text for messages.
    pub fn show(&self, state: State) -> String {
        match state {
            State::Absent => "nothing".to_owned(),
            State::Number(number) => number.to_string(),
            State::Text(text) => {
                let known = self.texts.iter().find(|&(_, &number)| number == text);
                known.map_or_else(
                    || "a value that no answer contains".to_owned(),
                    |(bytes, _)| Value::Bytes(bytes.clone()).to_string(),
                )
            }
        }
    }

    /// Sorts the operations, merges values that no answer distinguishes, and drops writes of unknown outcome
    /// that cannot explain any answer.
    ///
    /// All values that no answer needs are equivalent, so one value replaces them. If no answer depends on
    /// the presence of the key either, a maybe that writes such a value can be left out of every order.
    pub fn prepare(&mut self) {
        self.definite.sort_by_key(|step| step.invoked);
        self.maybe.sort_by_key(|step| step.invoked);
        self.sums = Sums::of(&self.maybe);
        let needed: HashSet<State> = self.definite.iter().filter_map(|step| step.effect.needs()).collect();
        let is_presence_seen = self.definite.iter().any(|step| step.effect.observes_presence());
        for step in self.definite.iter_mut().chain(&mut self.maybe) {
            if let Effect::Write(value) | Effect::Create(value, _) = &mut step.effect
                && !self.sums.are_too_many(*value)
                && !self.sums.reached(*value).any(|state| needed.contains(&state))
            {
                *value = UNSEEN;
            }
        }
        let explains = |effect| !matches!(effect, Effect::Write(UNSEEN) | Effect::Create(UNSEEN, None));
        self.maybe.retain(|step| is_presence_seen || explains(step.effect));
    }
}

impl Sums {
    fn of(maybe: &[Step]) -> Self {
        let mut sums = BTreeSet::from([0_i64]);
        for step in maybe {
            if let Effect::Add(by, None) = step.effect {
                let with: Vec<_> = sums.iter().filter_map(|sum| sum.checked_add(by)).collect();
                sums.extend(with);
            }
            if sums.len() > MAX_SUMS {
                return Self(None);
            }
        }
        Self(Some(sums.into_iter().collect()))
    }

    /// Whether `reached(state)` is incomplete, because there are more than `MAX_SUMS` sums.
    pub fn are_too_many(&self, state: State) -> bool {
        self.0.is_none() && !matches!(state, State::Text(_))
    }

    /// Returns the states that additions of unknown outcome may turn `from` into, including `from`.
    pub fn reached(&self, from: State) -> impl Iterator<Item = State> {
        let number = match from {
            State::Absent => Some(0),
            State::Number(number) => Some(number),
            State::Text(_) => None,
        };
        let sums = self.0.iter().flatten();
        let added = sums.filter_map(move |&sum| number?.checked_add(sum).map(State::Number));
        std::iter::once(from).chain(added)
    }
}
