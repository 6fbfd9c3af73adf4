//! Tests of the checker with histories whose verdict is known: by hand, by their generation, by exhaustive
//! search, and by another checker.

// `clippy.toml` allows unwrap in `#[test]` functions only; helpers of tests may panic too.
#![allow(clippy::unwrap_used)]

mod effort;
mod every_order;
mod known;
mod made;
mod porcupine;
mod random;
