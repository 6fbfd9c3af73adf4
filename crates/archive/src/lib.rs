//! The archive of a cluster in an object store: bases (whole states) and the log between them as segments, from which a
//! cluster is restored to a moment. It knows neither Kubernetes nor the node (docs/adr/0026-archive.md).
//!
//! Pure: [`layout`] (names), [`catalog`] (what a listing has), [`plan`] (which objects restore a target), [`retention`]
//! (which objects may go), [`crypto`] (bytes of an object). Effects: [`store`], and through it [`base`], [`segments`],
//! [`verify`].

pub mod base;
pub mod catalog;
mod collection;
pub mod crypto;
mod document;
mod error;
pub mod layout;
pub mod plan;
pub mod retention;
pub mod segments;
pub mod store;
pub mod verify;

mod archive;

pub use archive::{Archive, Drill, Origin, Parent, Pass};
pub use catalog::Catalog;
pub use collection::Collected;
pub use crypto::Keyring;
pub use error::ArchiveError;
pub use layout::{BaseId, History, Object, SegmentId};
pub use store::Store;

pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;
