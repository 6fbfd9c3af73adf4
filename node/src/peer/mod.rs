//! Traffic between members: ordered streams of Raft messages, snapshots, forwarded writes and messages.

mod backoff;
mod bandwidth;
mod dialer;
mod fetch;
mod lanes;
mod links;
mod service;
mod snapshot;
mod turns;

pub use bandwidth::Bandwidth;
pub use dialer::Dialer;
pub use fetch::Fetcher;
pub use helios_raft::handshake::{Local, Standing, Verdict, check, check_call};
pub use links::{Identity, LinkOptions, Links, Target};
pub use service::{PeerHost, PeerService};
pub use snapshot::{CHUNKS, Pace, blocking, header_of, read_chunks};

/// Largest gRPC message between peers, bytes: one maximal log entry and its frame.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Limit of published messages in one call of a member.
pub const MAX_PUBLICATIONS: usize = 256;
/// Limit of forwarded writes in one call of a member.
pub const MAX_FORWARDED: usize = 16_384;
