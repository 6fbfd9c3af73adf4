//! The search for a linearization (Wing and Gong, 1993; with Lowe's cache of visited configurations, 2017).
//!
//! It places one operation after another, backtracks if none fits, and never explores the same set of
//! placed operations with the same state twice. Four rules prevent an exponential search with concurrent
//! operations and operations of unknown outcome. None loses an order that explains the answers:
//!
//! - **An operation that only observes is placed as soon as it fits**, without an alternative: every
//!   continuation from here is also valid with that operation first.
//! - **A maybe is placed only if the next operation depends on its change.** A maybe that changes nothing,
//!   or whose change is overwritten without being observed, can be left out.
//! - **Of equal candidates, the one that returns first is placed**, and of equal maybes, which never
//!   return, the one invoked first. In an order with the opposite choice, the two can be exchanged.
//! - **A state is not left while an answer still needs it and no operation can restore it.**

use std::collections::{HashMap, HashSet};

use crate::model::{Effect, KeyHistory, State, Step, Sums};

pub enum Found {
    Order,
    Nothing(Stuck),
    /// The limit of steps was reached.
    Unknown(Stuck),
}

/// The longest order that the search found.
pub struct Stuck {
    /// Number of answered operations in the order.
    pub placed: usize,
    /// Last operations of the order, including maybes, as indexes in the whole history.
    pub last: Vec<usize>,
    pub state: State,
    /// Candidates for the next operation, by the time of their return, as indexes in the whole history.
    pub next: Vec<usize>,
}

const SHOWN: usize = 6;
/// Maximum number of steps of the search for the longest order, after it is known that there is no complete
/// one.
const MAX_STEPS_TO_EXPLAIN: u64 = 10_000;

/// A candidate for the next operation.
#[derive(Clone, Copy)]
struct Choice {
    op: usize,
    state: State,
    /// Whether the operation is a maybe whose change no later operation has depended on yet.
    is_unobserved: bool,
}

struct Frame {
    state: State,
    choices: std::vec::IntoIter<Choice>,
    /// Operation that was placed last.
    op: usize,
}

/// The state of the search. Operations are numbered: those with an answer first, then the maybes.
struct Search<'a> {
    key: &'a KeyHistory,
    is_placed: Vec<bool>,
    placed: usize,
    /// First answered operation that is not placed.
    first: usize,
    open: Open<'a>,
    looks_ahead: bool,
    seen: HashSet<Box<[u64]>>,
}

pub fn search(key: &KeyHistory, max_steps: u64) -> Found {
    match Search::new(key, true).run(max_steps) {
        // The last rule ends the search before an answer is impossible, which does not explain the violation:
        // search again without it.
        Found::Nothing(_) => match Search::new(key, false).run(MAX_STEPS_TO_EXPLAIN) {
            Found::Nothing(furthest) | Found::Unknown(furthest) => Found::Nothing(furthest),
            Found::Order => {
                debug_assert!(false, "the last rule has lost an order");
                Found::Order
            }
        },
        found => found,
    }
}

impl<'a> Search<'a> {
    fn new(key: &'a KeyHistory, looks_ahead: bool) -> Self {
        let total = key.definite.len() + key.maybe.len();
        Self {
            key,
            is_placed: vec![false; total],
            placed: 0,
            first: 0,
            open: Open::new(key),
            looks_ahead,
            seen: HashSet::new(),
        }
    }

    fn run(mut self, max_steps: u64) -> Found {
        let start = Choice { op: usize::MAX, state: State::Absent, is_unobserved: false };
        let mut stack = vec![self.frame(start)];
        let mut furthest = self.stuck(&stack, start.state);
        let mut steps = 0;
        while let Some(frame) = stack.last_mut() {
            if self.placed == self.key.definite.len() {
                return Found::Order;
            }
            let Some(choice) = frame.choices.next() else {
                let op = frame.op;
                stack.pop();
                if !stack.is_empty() {
                    self.unplace(op);
                }
                continue;
            };
            steps += 1;
            if steps > max_steps {
                return Found::Unknown(furthest);
            }
            let before = frame.state;
            self.place(choice.op);
            let loses_needed_state =
                self.looks_ahead && choice.state != before && self.open.loses_needed(before, choice.state);
            if loses_needed_state || !self.seen.insert(self.position(choice)) {
                self.unplace(choice.op);
                continue;
            }
            stack.push(self.frame(choice));
            if self.placed > furthest.placed {
                furthest = self.stuck(&stack, choice.state);
            }
        }
        Found::Nothing(furthest)
    }

    fn frame(&self, choice: Choice) -> Frame {
        Frame { state: choice.state, choices: self.choices(choice).into_iter(), op: choice.op }
    }

    fn step(&self, op: usize) -> &'a Step {
        let maybe = op.checked_sub(self.key.definite.len());
        maybe.map_or_else(|| &self.key.definite[op], |index| &self.key.maybe[index])
    }

    fn place(&mut self, op: usize) {
        self.is_placed[op] = true;
        self.open.change(self.step(op).effect, |count| *count -= 1);
        if op < self.key.definite.len() {
            self.placed += 1;
            while self.first < self.key.definite.len() && self.is_placed[self.first] {
                self.first += 1;
            }
        }
    }

    fn unplace(&mut self, op: usize) {
        self.is_placed[op] = false;
        self.open.change(self.step(op).effect, |count| *count += 1);
        if op < self.key.definite.len() {
            self.placed -= 1;
            self.first = self.first.min(op);
        }
    }

    /// Returns the answered operations that can be next (those that are not placed and were invoked before
    /// the first return among them), by their return, and that first return.
    fn concurrent(&self) -> (Vec<usize>, u64) {
        let mut found = Vec::new();
        let mut first_end = u64::MAX;
        for (op, step) in self.key.definite.iter().enumerate().skip(self.first) {
            if step.invoked > first_end {
                break;
            }
            if !self.is_placed[op] {
                found.push(op);
                first_end = first_end.min(step.returned);
            }
        }
        found.sort_by_key(|&op| self.key.definite[op].returned);
        (found, first_end)
    }

    fn choices(&self, at: Choice) -> Vec<Choice> {
        let (concurrent, first_end) = self.concurrent();
        let mut found = Vec::new();
        let mut tried: Vec<Effect> = Vec::new();
        for op in concurrent {
            let effect = self.key.definite[op].effect;
            let Some(state) = effect.apply(at.state) else { continue };
            let choice = Choice { op, state, is_unobserved: false };
            if effect.only_observes() {
                return vec![choice];
            }
            let is_useless = at.is_unobserved && effect.is_blind();
            if !is_useless && !tried.contains(&effect) {
                tried.push(effect);
                found.push(choice);
            }
        }
        tried.clear();
        for (index, step) in self.key.maybe.iter().enumerate() {
            let op = self.key.definite.len() + index;
            if step.invoked > first_end {
                break;
            }
            if self.is_placed[op] || tried.contains(&step.effect) {
                continue;
            }
            tried.push(step.effect);
            let state = step.effect.apply(at.state).filter(|&state| state != at.state);
            if let Some(state) = state
                && !(at.is_unobserved && step.effect.is_blind())
            {
                found.push(Choice { op, state, is_unobserved: true });
            }
        }
        found
    }

    /// Returns the configuration of the search in a compact encoding: the state, the placed operations after
    /// the first answered one that is not placed, and the placed maybes.
    fn position(&self, at: Choice) -> Box<[u64]> {
        let (definite, maybe) = self.is_placed.split_at(self.key.definite.len());
        let (kind, value) = match at.state {
            State::Absent => (0, 0),
            State::Number(number) => (1, number as u64),
            State::Text(text) => (2, text.into()),
        };
        let mut words = vec![(kind << 1) | u64::from(at.is_unobserved), value, self.first as u64];
        let placed = |(op, &is_placed): (usize, &bool)| is_placed.then_some(op as u64);
        let ahead = self.placed - self.first;
        words.extend(definite.iter().enumerate().skip(self.first).filter_map(placed).take(ahead));
        words.push(u64::MAX);
        words.extend(maybe.iter().enumerate().filter_map(placed));
        words.into()
    }

    fn stuck(&self, stack: &[Frame], state: State) -> Stuck {
        let source = |op: usize| self.step(op).source;
        let path = &stack[1..];
        let (next, _) = self.concurrent();
        Stuck {
            placed: self.placed,
            last: path[path.len().saturating_sub(SHOWN)..].iter().map(|frame| source(frame.op)).collect(),
            state,
            next: next.into_iter().take(SHOWN).map(source).collect(),
        }
    }
}

/// The states that the operations that are not placed need and produce.
struct Open<'a> {
    sums: &'a Sums,
    states: HashMap<State, Tally>,
}

#[derive(Default)]
struct Tally {
    needed: usize,
    makers: usize,
}

impl<'a> Open<'a> {
    fn new(key: &'a KeyHistory) -> Self {
        let steps = || key.definite.iter().chain(&key.maybe);
        let needed = steps().filter_map(|step| step.effect.needs());
        let states = needed.map(|state| (state, Tally::default())).collect();
        let mut open = Self { sums: &key.sums, states };
        steps().for_each(|step| open.change(step.effect, |count| *count += 1));
        open
    }

    fn change(&mut self, effect: Effect, change: impl Fn(&mut usize)) {
        if let Some(tally) = effect.needs().and_then(|state| self.states.get_mut(&state)) {
            change(&mut tally.needed);
        }
        for state in effect.makes().into_iter().flat_map(|made| self.sums.reached(made)) {
            if let Some(tally) = self.states.get_mut(&state) {
                change(&mut tally.makers);
            }
        }
    }

    /// Whether an answer needs `before` and no operation can restore it from `now`.
    fn loses_needed(&self, before: State, now: State) -> bool {
        let tally = self.states.get(&before);
        tally.is_some_and(|tally| tally.needed > 0 && tally.makers == 0)
            && !self.sums.are_too_many(before)
            && !self.sums.reached(now).any(|state| state == before)
    }
}
