//! Commands about the node: `INFO`, `CONFIG`, `ROLE`, `TIME`, `WAIT`, `FLUSHALL`.

use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::{FlushAll, command::Op};

use super::super::codec::parse_integer;
use super::super::error::{Refusal, shown};
use super::super::frame::Frame;
use super::super::server::Shared;
use super::args::is;
use super::{Args, Local, Request, Write, introspect};
use crate::glob;

pub fn info(args: Args) -> Result<Request, Refusal> {
    let lower = |word: Bytes| String::from_utf8_lossy(&word).to_ascii_lowercase();
    Ok(Request::Local(Local::Info(args.rest().into_iter().map(lower).collect())))
}

pub fn role(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::Role))
}

/// The node's clock was read when the request arrived.
pub fn time(args: Args) -> Result<Request, Refusal> {
    let (seconds, micros) = (args.now_ms / 1000, args.now_ms % 1000 * 1000);
    let parts = [seconds, micros].map(|part| Frame::bulk(part.to_string()));
    Ok(Request::Local(Local::Answer(Frame::Array(parts.into()))))
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

/// `ASYNC` and `SYNC` are the same here: the reply comes when the flush is applied.
pub fn flush(mut args: Args) -> Result<Request, Refusal> {
    if let Some(option) = args.next()
        && !(is(&option, "async") || is(&option, "sync"))
    {
        return Err(Refusal::Syntax);
    }
    args.end()?;
    Ok(Write::plain(Op::FlushAll(FlushAll {})))
}

pub fn config_help(args: Args) -> Result<Request, Refusal> {
    Ok(introspect::help_of(args.spec))
}

pub fn config_get(args: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::ConfigGet(args.rest())))
}

pub fn config_resetstat(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::ResetStats))
}

/// Redis's tuning of forms that values do not have here, and what Redis has by default: tools set some.
const WITHOUT_EFFECT: [(&str, &str); 10] = [
    ("hash-max-listpack-entries", "512"),
    ("hash-max-listpack-value", "64"),
    ("list-compress-depth", "0"),
    ("list-max-listpack-size", "-2"),
    ("lazyfree-lazy-user-del", "no"),
    ("lazyfree-lazy-user-flush", "no"),
    ("set-max-intset-entries", "512"),
    ("zset-max-listpack-entries", "128"),
    ("zset-max-listpack-value", "64"),
    ("save", ""),
];

/// Accepts what changes nothing here and refuses the rest: settings are in the node's own configuration.
pub fn config_set(args: Args) -> Result<Request, Refusal> {
    if !args.len().is_multiple_of(2) {
        return Err(Refusal::Arity(args.spec.name));
    }
    for pair in args.rest().chunks(2) {
        // Their names before Redis 7.
        let name = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase().replace("ziplist", "listpack");
        if !WITHOUT_EFFECT.iter().any(|(known, _)| *known == name) {
            return Err(Refusal::other(format!(
                "ERR CONFIG SET failed (possibly related to argument '{}') - set it in the configuration of heliosd",
                shown(&pair[0], 128)
            )));
        }
    }
    Ok(Request::Local(Local::Answer(Frame::OK)))
}

/// There are no functions, so there is nothing to remove.
pub fn function_flush(mut args: Args) -> Result<Request, Refusal> {
    if let Some(option) = args.next()
        && !(is(&option, "async") || is(&option, "sync"))
    {
        return Err(Refusal::other("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    args.end()?;
    Ok(Request::Local(Local::Answer(Frame::OK)))
}

/// The settings that tools ask for, under Redis's names.
pub fn settings(patterns: &[Bytes], shared: &Shared) -> Frame {
    let limits = &shared.limits;
    let settings = [
        // What redis-benchmark prints: no RDB save points, every write is in a log.
        ("appendonly", "yes".to_owned()),
        ("appendfsync", "always".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", limits.max_clients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", shared.address.port().to_string()),
        ("proto-max-bulk-len", limits.max_value_bytes.to_string()),
        ("tcp-keepalive", limits.keepalive.as_secs().to_string()),
        ("timeout", limits.idle_timeout.get().unwrap_or_default().as_secs().to_string()),
    ];
    let wanted =
        |name: &str| patterns.iter().any(|pattern| glob::matches_ignoring_case(pattern, name.as_bytes()));
    let without_effect = WITHOUT_EFFECT.map(|(name, value)| (name, value.to_owned()));
    let found = settings.into_iter().chain(without_effect).filter(|(name, _)| wanted(name));
    Frame::Map(found.map(|(name, value)| (Frame::bulk(name), Frame::bulk(value))).collect())
}
