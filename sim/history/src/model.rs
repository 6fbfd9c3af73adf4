//! One key: what it may hold, and what each operation makes of that.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::history::{Answer, Op, Operation, Outcome, Value};

/// State of the key. Texts are known by a number, which makes a state cheap to copy and compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Absent,
    Number(i64),
    Text(u32),
}

/// Some value that no answer shows.
const UNSEEN: State = State::Text(u32::MAX);

/// An operation with the answer that it must give; `None` where any will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Read(State),
    Write(State),
    Create(State, Option<bool>),
    Remove(Option<bool>),
    Add(i64, Option<i64>),
    /// An answer that this operation never gives.
    Impossible,
}

#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Its place in the whole history.
    pub source: usize,
    pub invoked: u64,
    /// `u64::MAX` for an unknown outcome.
    pub returned: u64,
    pub effect: Effect,
}

/// The operations on one key, each list in the order of invocation.
#[derive(Debug, Default)]
pub struct KeyHistory {
    /// Have an answer, so they have a place.
    pub definite: Vec<Step>,
    /// May have a place.
    pub maybe: Vec<Step>,
    pub sums: Sums,
    texts: HashMap<Vec<u8>, u32>,
}

/// Sums of all additions of unknown outcome, or of some of them; `None` for more than `MAX_SUMS`.
#[derive(Debug, Default)]
pub struct Sums(Option<Vec<i64>>);

const MAX_SUMS: usize = 256;

impl Effect {
    /// The state after it; `None` if it cannot be answered so in `state`.
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
                    // An error: possible only if nobody saw the answer.
                    (None, None) => Some(state),
                    _ => None,
                }
            }
            Self::Impossible => None,
        }
    }

    /// It looks and changes nothing.
    pub fn only_observes(self) -> bool {
        matches!(self, Self::Read(_) | Self::Create(_, Some(false)) | Self::Remove(Some(false)))
    }

    /// Neither its answer nor the state after it depends on the state before it.
    pub fn is_blind(self) -> bool {
        matches!(self, Self::Write(_) | Self::Remove(None))
    }

    /// The only state in which it can be answered so, if there is only one; that nothing counts as 0
    /// for a sum, `Sums::reached` knows, too.
    pub fn needs(self) -> Option<State> {
        match self {
            Self::Read(state) => Some(state),
            Self::Create(_, Some(true)) | Self::Remove(Some(false)) => Some(State::Absent),
            Self::Add(by, Some(sum)) => sum.checked_sub(by).map(State::Number),
            _ => None,
        }
    }

    /// The state that it leaves if it changes any; not known of a sum that nobody saw.
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
                    // Changed nothing, and nobody saw an answer.
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

    /// `state` for people.
    pub fn show(&self, state: State) -> String {
        match state {
            State::Absent => "nothing".to_owned(),
            State::Number(number) => number.to_string(),
            State::Text(text) => {
                let known = self.texts.iter().find(|&(_, &number)| number == text);
                known.map_or_else(
                    || "a value that nobody read".to_owned(),
                    |(bytes, _)| Value::Bytes(bytes.clone()).to_string(),
                )
            }
        }
    }

    /// Brings the operations in order, makes those equal that no answer distinguishes, and leaves out
    /// writes of unknown outcome that explain nothing.
    ///
    /// A value that no answer needs is as good as any other such value, so one stands for all of them.
    /// If no answer shows whether the key was there either, an order with a maybe that writes such a
    /// value explains the same answers without it.
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

    /// Whether `state` is one of those for which `reached` does not tell all.
    pub fn are_too_many(&self, state: State) -> bool {
        self.0.is_none() && !matches!(state, State::Text(_))
    }

    /// States that `from` may become by additions that nobody saw, itself included.
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
