//! Requests of a user who may access keys with certain prefixes only: all else is refused.
//!
//! A command with keys is checked by the positions of its keys in the table. One without keys is refused unless it is
//! listed here as one that reveals nothing of other keys, or is restricted to the user's prefixes.

use helios_proto::Error;
use helios_service::auth::Identity;
use helios_service::glob::Pattern;
use helios_service::pubsub::Topic;

use super::commands::{Read, Request};
use super::error::Refusal;
use super::table::Spec;

/// Commands without keys that neither read nor change anything of other users.
const WITHOUT_KEYS: [&str; 41] = [
    "acl|cat",
    "acl|whoami",
    "auth",
    "client|getname",
    "client|getredir",
    "client|id",
    "client|info",
    "client|no-touch",
    "client|reply",
    "client|setinfo",
    "client|setname",
    "client|tracking",
    "command",
    "command|count",
    "command|docs",
    "command|getkeys",
    "command|getkeysandflags",
    "command|info",
    "command|list",
    "discard",
    "echo",
    "exec",
    "hello",
    "helios.ack",
    "helios.read",
    "helios.token",
    "multi",
    "ping",
    "punsubscribe",
    "quit",
    "readonly",
    "readwrite",
    "reset",
    "role",
    "script|exists",
    "script|load",
    "select",
    "time",
    "unsubscribe",
    "unwatch",
    "wait",
];
/// Commands without keys that [`restrict`] checks.
const RESTRICTED: [&str; 5] = ["keys", "psubscribe", "publish", "scan", "subscribe"];

/// Checks that a request reaches no key outside the user's prefixes; `restrict` checks the rest.
pub fn check(spec: &Spec, words: &[impl AsRef<[u8]>], identity: &Identity) -> Result<(), Refusal> {
    if !identity.prefixes().is_limited() {
        return Ok(());
    }
    if spec.keys.is_none() {
        let is_harmless = WITHOUT_KEYS.contains(&spec.name) || spec.name.ends_with("|help");
        let may_run = is_harmless || RESTRICTED.contains(&spec.name);
        return if may_run { Ok(()) } else { Err(refusal(identity, &spec.name.replace('|', " "))) };
    }
    // BY and GET derive the names of further keys.
    let is_option = |word: &[u8]| word.eq_ignore_ascii_case(b"by") || word.eq_ignore_ascii_case(b"get");
    if spec.name.starts_with("sort") && words.iter().skip(2).any(|word| is_option(word.as_ref())) {
        return Err(refusal(identity, &format!("{} with BY or GET", spec.name)));
    }
    let Some(positions) = spec.key_positions(words) else {
        return Err(refusal(identity, &format!("{} with an invalid number of keys", spec.name)));
    };
    // A position behind the last word is none: the command's parser refuses the request.
    let keys = positions.into_iter().filter_map(|at| words.get(at));
    keys.into_iter().try_for_each(|key| identity.check_key(key.as_ref())).map_err(forbidden)
}

/// Restricts a request that walks over keys to the user's prefixes, and checks the channels of one.
pub fn restrict(request: Request, identity: &Identity) -> Result<Request, Refusal> {
    let prefixes = identity.prefixes();
    if !prefixes.is_limited() {
        return Ok(request);
    }
    let covers =
        |pattern: Option<&Pattern>| pattern.is_some_and(|pattern| prefixes.allow(&pattern.literal_prefix()));
    match request {
        Request::Read(Read::Scan(scan)) if covers(scan.pattern()) => {
            Ok(Request::Read(Read::Scan(scan.within_pattern())))
        }
        Request::Read(Read::Scan(_)) => Err(refusal(identity, "scan without MATCH of such a prefix")),
        Request::Read(Read::Keys { pattern }) if !covers(Some(&pattern)) => {
            Err(refusal(identity, "keys of this pattern"))
        }
        Request::Subscribe { topic, names } => {
            let is_allowed = |name: &[u8]| match topic {
                Topic::Channel => prefixes.allow_channel(name),
                Topic::Pattern => {
                    Pattern::new(name).is_ok_and(|pattern| prefixes.allow_channel(&pattern.literal_prefix()))
                }
            };
            match names.iter().find(|name| !is_allowed(name)) {
                Some(_) => Err(refusal(identity, "a channel without such a prefix")),
                None => Ok(Request::Subscribe { topic, names }),
            }
        }
        Request::Publish { channel, .. } if !prefixes.allow_channel(&channel) => {
            Err(refusal(identity, "a channel without such a prefix"))
        }
        request => Ok(request),
    }
}

fn refusal(identity: &Identity, what: &str) -> Refusal {
    forbidden(identity.prefixes().refusal_of(identity.name(), what))
}

fn forbidden(error: Error) -> Refusal {
    Refusal::OutsidePrefixes(error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::COMMANDS;

    #[test]
    fn listed_commands_exist_and_have_no_keys() {
        let all: Vec<_> =
            COMMANDS.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands)).collect();
        for name in WITHOUT_KEYS.iter().chain(&RESTRICTED) {
            let spec =
                all.iter().find(|spec| spec.name == *name).unwrap_or_else(|| panic!("no command {name}"));
            assert!(spec.keys.is_none(), "{name}");
        }
    }
}
