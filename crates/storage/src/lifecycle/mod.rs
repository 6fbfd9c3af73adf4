//! The identity of a node, written to its disk, so that a wiped, foreign or restored disk is not taken for
//! the member that it claims to be (docs/design/product.md, C6).

mod marker;

pub use marker::{Belonging, DataDir, ForceNew, Marker, MarkerError};
