//! The checker against histories whose verdict is known: by hand, by how they were made, by trying
//! every order, and by another checker.

// Helpers are no `#[test]` functions, where `clippy.toml` allows it; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod effort;
mod every_order;
mod known;
mod made;
mod porcupine;
mod random;
