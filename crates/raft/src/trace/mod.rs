//! Request traces: OpenTelemetry spans with the feature `otel`; without it an empty type, at no cost.
//!
//! A trace begins where a port receives the request, as a child of the client's `traceparent`. Its spans are the
//! write or the read, the proposal (log and commit), and the apply of the entry.

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;

#[cfg(not(feature = "otel"))]
pub use off::Span;
#[cfg(feature = "otel")]
pub use on::{Span, TARGET, client_call, finish, layer};
