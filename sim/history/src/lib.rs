//! A linearizability checker: could one database without replicas have given the answers that clients saw?
//!
//! A [`History`] holds the operations of all clients with the times at which they were asked and
//! answered. [`check`] looks, for each key, for one order of its operations that respects those times
//! and explains every answer: linearizability. It is a property of each key alone, so a history
//! is legal when each key's part is (Herlihy and Wing, 1990); operations on several keys are out of
//! its scope.
//!
//! Pure: no clock, no file, no thread. The tests of the node, its simulation and the stories use it.
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
