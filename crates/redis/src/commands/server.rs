//! Commands about the node: `INFO`, `ROLE`, `TIME`, `WAIT`.

use std::time::Duration;

use bytes::Bytes;

use super::super::codec::parse_integer;
use super::super::error::Refusal;
use super::super::frame::Frame;
use super::args::is;
use super::{Args, Local, Request};

pub fn info(args: Args) -> Result<Request, Refusal> {
    let lower = |word: Bytes| String::from_utf8_lossy(&word).to_ascii_lowercase();
    Ok(Request::Local(Local::Info(args.rest().into_iter().map(lower).collect())))
}

pub fn role(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Role))
}

/// Parses `TIME`. The node's clock was read when the request arrived.
pub fn time(args: Args) -> Result<Request, Refusal> {
    let (seconds, micros) = (args.now_ms / 1000, args.now_ms % 1000 * 1000);
    let parts = [seconds, micros].map(|part| Frame::bulk(part.to_string()));
    Ok(Request::Local(Local::Answer(Frame::Array(parts.into()))))
}

/// Returns the text of a Redis built without jemalloc.
pub fn malloc_stats(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Answer(Frame::text("Stats not supported for the current allocator"))))
}

pub fn memory_stats(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::MemoryStats))
}

pub fn wait(mut args: Args) -> Result<Request, Refusal> {
    let replicas = args.integer()?;
    let timeout_ms = parse_integer(&args.word()?)
        .ok_or(Refusal::other("ERR timeout is not an integer or out of range"))?;
    let timeout_ms = u64::try_from(timeout_ms).map_err(|_| Refusal::other("ERR timeout is negative"))?;
    Ok(Request::Wait {
        replicas: u64::try_from(replicas).unwrap_or(0),
        timeout: Duration::from_millis(timeout_ms),
    })
}

/// Parses `FUNCTION FLUSH`. There are no functions, so nothing is removed.
pub fn function_flush(mut args: Args) -> Result<Request, Refusal> {
    if let Some(option) = args.next()
        && !(is(&option, "async") || is(&option, "sync"))
    {
        return Err(Refusal::other("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    args.end()?;
    Ok(Request::Local(Local::Answer(Frame::OK)))
}
