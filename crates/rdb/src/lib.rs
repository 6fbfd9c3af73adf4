//! Reader of Redis RDB files: those of Redis up to 8.2 and of Valkey 8 and 9, as a stream of keys and elements.
//!
//! The crate `rdb` was considered: it builds whole collections in memory, checks no checksum, and leaves out streams, module
//! values and the expiry of fields without a word to its caller.
//!
//! **No length in the file decides an allocation**: memory grows with the bytes that were really read. The largest string
//! that is accepted is that of Redis, 512 MiB.

mod error;
mod input;
mod pack;
mod reader;
mod skip;

pub use error::{Error, Problem};
pub use reader::{Key, Kind, Summary, Unsupported, Visitor, read};

#[cfg(test)]
mod tests;
