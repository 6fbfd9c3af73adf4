//! Whose disk this is. A node's identity is written to its disk, so that a wiped, foreign or
//! restored disk is told apart from the member it claims to be (docs/design/product.md, C6).

mod marker;

pub use marker::{Belonging, DataDir, ForceNew, Marker, MarkerError};
