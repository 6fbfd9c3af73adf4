//! What a member keeps on its disk: the file system behind a trait ([`disk`]), the Raft log ([`wal`]) and the identity of
//! the data directory ([`lifecycle`]). Knows nothing of consensus, of the state machine or of a network.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests have the machine's clock and disk"))]

pub mod disk;
mod faults;
#[allow(clippy::disallowed_methods, reason = "draws the disk's identity and waits for its lock")]
pub mod lifecycle;
pub mod seeded_bug;
pub mod wal;
