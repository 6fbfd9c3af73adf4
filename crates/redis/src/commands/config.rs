//! `CONFIG`: the settings that Redis tools read, and the few that may change while the node runs.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use helios_service::client_memory::MemoryLimits;
use helios_service::glob::{Pattern, Steps};
use helios_state::EventFilter;

use super::super::codec::parse_integer;
use super::super::error::{Refusal, shown};
use super::super::frame::Frame;
use super::super::server::Shared;
use super::local::Context;
use super::{Args, Local, Request, introspect};

/// One setting with its new value.
#[derive(Debug)]
pub enum Setting {
    Events(EventFilter),
    /// Idle timeout; `None`: no limit.
    IdleTimeout(Option<Duration>),
    /// Accepted without effect.
    Nothing,
}

/// Settings that have no meaning here, with Redis's defaults; tools set some.
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
/// Limit on the patterns of one `CONFIG GET`; there are fewer settings.
const MAX_PATTERNS: usize = 256;
const EVENTS: &str = "notify-keyspace-events";
const TIMEOUT: &str = "timeout";
/// Settings that are shown, and changed in the configuration of the node only.
const FIXED: [&str; 12] = [
    "appendonly",
    "appendfsync",
    "client-output-buffer-limit",
    "databases",
    "maxclients",
    "maxmemory",
    "maxmemory-clients",
    "maxmemory-policy",
    "port",
    "proto-max-bulk-len",
    "protected-mode",
    "tcp-keepalive",
];

pub fn help(args: Args) -> Result<Request, Refusal> {
    Ok(introspect::help_of(args.spec))
}

pub fn get(args: Args) -> Result<Request, Refusal> {
    if args.len() > MAX_PATTERNS {
        return Err(Refusal::other(format!("ERR CONFIG GET takes at most {MAX_PATTERNS} patterns")));
    }
    let patterns =
        args.rest().iter().map(|pattern| Pattern::ignoring_case(pattern)).collect::<Result<_, _>>()?;
    Ok(Request::Local(Local::ConfigGet(patterns)))
}

pub fn resetstat(_: Args) -> Result<Request, Refusal> {
    Ok(Request::Local(Local::ResetStats))
}

/// Parses `CONFIG SET`: all settings or, if one is rejected, none.
pub fn set(args: Args) -> Result<Request, Refusal> {
    if !args.len().is_multiple_of(2) {
        return Err(Refusal::Arity(args.spec.name));
    }
    let words = args.rest();
    // Before Redis 7 the names had `ziplist`.
    let name_of =
        |word: &Bytes| String::from_utf8_lossy(word).to_ascii_lowercase().replace("ziplist", "listpack");
    let names: Vec<_> = words.iter().step_by(2).map(name_of).collect();
    let mut seen = HashSet::new();
    if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
        return Err(refused(name, "duplicate parameter"));
    }
    let values = words.iter().skip(1).step_by(2);
    let settings =
        names.iter().zip(values).map(|(name, value)| parse(name, value)).collect::<Result<_, _>>()?;
    Ok(Request::Local(Local::ConfigSet(settings)))
}

fn parse(name: &str, value: &[u8]) -> Result<Setting, Refusal> {
    match name {
        EVENTS => {
            let filter = std::str::from_utf8(value).ok().and_then(|letters| letters.parse().ok());
            let wrong = || format!("Invalid event class character. Use '{}'.", EventFilter::CHOICE);
            filter.map(Setting::Events).ok_or_else(|| refused(name, &wrong()))
        }
        TIMEOUT => {
            let secs = parse_integer(value).and_then(|secs| u64::try_from(secs).ok());
            let secs = secs.filter(|secs| *secs <= i32::MAX as u64);
            let secs =
                secs.ok_or_else(|| refused(name, "argument must be between 0 and 2147483647 inclusive"))?;
            Ok(Setting::IdleTimeout((secs > 0).then(|| Duration::from_secs(secs))))
        }
        name if WITHOUT_EFFECT.iter().any(|(known, _)| *known == name) => Ok(Setting::Nothing),
        name if FIXED.contains(&name) => {
            Err(refused(name, "can't set immutable config: set it in the configuration of heliosd"))
        }
        name => Err(Refusal::other(format!(
            "ERR Unknown option or number of arguments for CONFIG SET - '{}': settings of a node are in the \
             configuration of heliosd",
            shown(name.as_bytes(), 128)
        ))),
    }
}

fn refused(name: &str, why: &str) -> Refusal {
    Refusal::other(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

impl Setting {
    pub fn apply(self, context: &Context<'_>) {
        match self {
            Self::Events(filter) => context.shared.notifications.set(filter, context.store),
            Self::IdleTimeout(limit) => context.shared.limits.idle_timeout.set(limit),
            Self::Nothing => {}
        }
    }
}

/// Formats the output limits: class, hard limit, soft limit, seconds. No client is a replica.
fn output_limits(limits: &MemoryLimits) -> String {
    let MemoryLimits { output_bytes, soft_output_bytes, soft_time, pubsub_bytes, .. } = limits;
    format!(
        "normal {output_bytes} {soft_output_bytes} {} slave 0 0 0 pubsub {pubsub_bytes} 0 0",
        soft_time.as_secs()
    )
}

/// Returns the settings that match one of the patterns, under Redis's names.
pub fn matching(patterns: &[Pattern], shared: &Shared) -> Frame {
    let limits = &shared.limits;
    let settings = [
        // redis-benchmark prints these: no RDB save points, every write is in a log.
        ("appendonly", "yes".to_owned()),
        ("appendfsync", "always".to_owned()),
        ("client-output-buffer-limit", output_limits(&limits.memory)),
        ("databases", "1".to_owned()),
        ("maxclients", limits.max_clients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-clients", limits.memory.all_bytes.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        (EVENTS, shared.notifications.filter().to_string()),
        ("port", shared.address.port().to_string()),
        ("proto-max-bulk-len", limits.max_value_bytes.to_string()),
        ("protected-mode", if shared.access.is_protected() { "yes" } else { "no" }.to_owned()),
        ("tcp-keepalive", limits.keepalive.as_secs().to_string()),
        (TIMEOUT, limits.idle_timeout.get().unwrap_or_default().as_secs().to_string()),
    ];
    // Names are short, so no pattern exceeds its steps.
    let mut steps = Steps::default();
    let mut wanted = |name: &str| {
        patterns.iter().any(|pattern| pattern.matches(name.as_bytes(), &mut steps).unwrap_or_default())
    };
    let without_effect = WITHOUT_EFFECT.map(|(name, value)| (name, value.to_owned()));
    let found = settings.into_iter().chain(without_effect).filter(|(name, _)| wanted(name));
    Frame::Map(found.map(|(name, value)| (Frame::bulk(name), Frame::bulk(value))).collect())
}
