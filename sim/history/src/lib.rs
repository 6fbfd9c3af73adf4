//! A linearizability checker: whether a single database without replicas could have given the answers that
//! clients got.
//!
//! A [`History`] holds the operations of all clients with the times of invocation and return. [`check`]
//! searches, for each key, one order of its operations that respects those times and explains every
//! answer. Linearizability is local: a history is linearizable if the part of each key is (Herlihy and
//! Wing, 1990). Operations on several keys are not supported.
//!
//! Pure: no clock, no file, no thread. The node's tests, the simulator and the stories use it.
//!
//! ```
//! use helios_history::{Answer, History, Op, check};
//!
//! let mut history = History::new();
//! let set = history.invoke(1, "color", Op::Set("red".into()), 10);
//! history.ok(set, Answer::Done, 20);
//! let get = history.invoke(2, "color", Op::Get, 30);
//! history.ok(get, Answer::Value(None), 40);
//! let verdict = check(&history);
//! assert!(!verdict.is_legal(), "a stale read");
//! println!("{verdict}");
//! ```

mod history;
mod json;
mod model;
#[cfg(feature = "redis")]
pub mod redis;
mod search;
mod verdict;

pub use history::{Answer, History, Op, OpId, Operation, Outcome, Value};
pub use json::ParseError;
pub use verdict::{MAX_STEPS, Verdict, Violation, check, check_within};
