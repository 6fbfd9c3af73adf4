//! What the reads and writes of a connection promise: commands of our own, as Redis has none.

use super::super::error::{Refusal, shown};
use super::{Args, Local, Request};
use crate::database::Ack;

pub fn ack(mut args: Args) -> Result<Request, Refusal> {
    let Some(word) = args.next() else { return Ok(Request::Local(Local::Ack(None))) };
    args.end()?;
    let ack = std::str::from_utf8(&word).ok().and_then(Ack::parse);
    let wrong = || Refusal::other(format!("ERR ack '{}': write MAJORITY or ALL", shown(&word, 32)));
    Ok(Request::Local(Local::Ack(Some(ack.ok_or_else(wrong)?))))
}
