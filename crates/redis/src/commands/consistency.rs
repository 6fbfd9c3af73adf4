//! Consistency of a connection's reads and writes: commands specific to HeliosDB.

use std::time::Duration;

use helios_proto::v1::Token;
use helios_service::database::{Ack, Freshness};
use helios_service::token;

use super::super::error::{Refusal, shown};
use super::super::frame::Frame;
use super::args::is;
use super::local::Context;
use super::{Args, Local, Request};

pub fn ack(mut args: Args) -> Result<Request, Refusal> {
    let Some(word) = args.next() else { return Ok(Request::Local(Local::Ack(None))) };
    args.end()?;
    let ack = std::str::from_utf8(&word).ok().and_then(Ack::parse);
    let wrong = || Refusal::other(format!("ERR ack '{}': use MAJORITY or ALL", shown(&word, 32)));
    Ok(Request::Local(Local::Ack(Some(ack.ok_or_else(wrong)?))))
}

pub fn read(mut args: Args) -> Result<Request, Refusal> {
    let Some(word) = args.next() else { return Ok(Request::Local(Local::Read(None))) };
    let freshness = match word {
        word if is(&word, "linearizable") => Freshness::Linearizable,
        word if is(&word, "lease") => Freshness::Lease,
        word if is(&word, "stale") => Freshness::Stale(max_staleness(&mut args)?),
        word => {
            let level = shown(&word, 32);
            return Err(Refusal::other(format!(
                "ERR read level '{level}': use LINEARIZABLE, LEASE or STALE [max-milliseconds]"
            )));
        }
    };
    args.end()?;
    Ok(Request::Local(Local::Read(Some(freshness))))
}

fn max_staleness(args: &mut Args) -> Result<Option<Duration>, Refusal> {
    if args.len() == 0 {
        return Ok(None);
    }
    match u64::try_from(args.integer()?) {
        Ok(max_ms) if max_ms > 0 => Ok(Some(Duration::from_millis(max_ms))),
        _ => Err(Refusal::other("ERR the age of a stale read must be above 0 milliseconds")),
    }
}

pub fn describe(freshness: Freshness) -> String {
    match freshness {
        Freshness::Linearizable => "linearizable".to_owned(),
        Freshness::Lease => "lease".to_owned(),
        Freshness::Stale(None) => "stale".to_owned(),
        Freshness::Stale(Some(max)) => format!("stale {}", max.as_millis()),
    }
}

pub fn token(mut args: Args) -> Result<Request, Refusal> {
    let Some(word) = args.next() else { return Ok(Request::Local(Local::Token(None))) };
    args.end()?;
    if is(&word, "seen") {
        return Ok(Request::Local(Local::Seen));
    }
    let token = std::str::from_utf8(&word).ok().and_then(token::parse);
    let wrong = || Refusal::other("ERR no token: use the reply to HELIOS.TOKEN after a write");
    Ok(Request::Local(Local::Token(Some(token.ok_or_else(wrong)?))))
}

/// Returns the token of a state that has all that this connection has read or written: that of this member, or the
/// connection's last write if the leader has applied it and this member has not.
pub fn seen(context: &Context<'_>) -> Token {
    let applied = context.store.applied();
    let cluster_id = (context.cluster_id)();
    let written = context.session.after.clone();
    written
        .filter(|written| written.cluster_id == cluster_id && written.index > applied.index)
        .unwrap_or(Token { cluster_id, term: applied.term, index: applied.index })
}

/// Makes later reads see the write of `token`, which must be of this cluster: no other write can be waited for.
pub fn follow(token: Token, context: &mut Context<'_>) -> Result<Frame, Refusal> {
    let cluster_id = (context.status)().cluster_id;
    if token.cluster_id != cluster_id {
        return Err(Refusal::other(format!(
            "ERR the token is of cluster {}, this is {cluster_id}",
            shown(token.cluster_id.as_bytes(), 64)
        )));
    }
    context.session.follow(token);
    Ok(Frame::OK)
}
