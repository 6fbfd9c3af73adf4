//! Traces of requests: spans of OpenTelemetry with the feature `otel`; without it nothing, at no cost.
//!
//! A trace begins at a door, with what the client sent as `traceparent`, and goes on over the write or the read, the
//! proposal (the log, a majority) and the application of the entry.

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;

#[cfg(not(feature = "otel"))]
pub use off::Span;
#[cfg(feature = "otel")]
pub use on::{Span, TARGET, client_call, finish, layer};
