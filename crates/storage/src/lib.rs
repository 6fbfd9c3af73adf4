//! What a member keeps on its disk: the file system behind a trait ([`disk`]), the Raft log ([`wal`]) and the identity of
//! the data directory ([`lifecycle`]). Knows nothing of consensus, of the state machine or of a network.

pub mod disk;
pub mod lifecycle;
pub mod mutation;
pub mod wal;
