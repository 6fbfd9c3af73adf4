//! A member's durable data: the file system behind a trait ([`disk`]), the Raft log ([`wal`]) and the
//! identity of the data directory ([`lifecycle`]). This crate knows nothing of consensus, of the state
//! machine or of a network.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests use the machine's clock and disk"))]

pub mod disk;
mod faults;
#[allow(
    clippy::disallowed_methods,
    reason = "generates the disk id and waits for the lock of the data directory"
)]
pub mod lifecycle;
pub mod seeded_bug;
pub mod wal;
