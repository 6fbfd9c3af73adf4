//! Reads outside of a member, on a store that has only some keys (`helios_state::Replica`): which requests such a store
//! can answer, and their replies. All others are for a member.

use bytes::Bytes;
use helios_proto::v1::Call;
use helios_state::{Limits as ReadLimits, Store};

use super::commands::write::frame;
use super::commands::{Read, Request, understand};
use super::frame::Frame;
use super::server::Limits;
use super::table::{Flags, resolve};

/// Returns the query of a request (its words, the name first) that reads keys by their names only, all of which
/// `has_key`; `None`: its reply needs other state, or is an error.
pub fn query(words: &[Bytes], has_key: impl Fn(&[u8]) -> bool) -> Option<Call> {
    let spec = resolve(words).ok()?;
    // BY and GET of SORT_RO derive the names of further keys.
    let is_read = spec.has(Flags::READONLY) && !spec.has(Flags::BLOCKING) && !spec.name.starts_with("sort");
    if spec.state.is_none() || !is_read {
        return None;
    }
    let keys = spec.key_positions(words)?;
    if keys.is_empty() || !keys.into_iter().all(|at| words.get(at).is_some_and(|key| has_key(key))) {
        return None;
    }
    // Queries have no relative expiry, which alone would need the time.
    match understand(spec, words.to_vec(), 0, &Limits::default()) {
        Ok(Request::Read(Read::Query(call))) => Some(call),
        _ => None,
    }
}

/// Returns the reply to a query; `None` if it costs more than a short read, or is an error. `now_ms` decides about
/// expiry, milliseconds since the Unix epoch.
pub fn answer(store: &Store, call: &Call, now_ms: u64) -> Option<Frame> {
    let found = store.query(call, now_ms, ReadLimits::DEFAULT_READ.short());
    found.ok().map(|(answer, _)| frame(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::COMMANDS;

    fn words(line: &str) -> Vec<Bytes> {
        line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    #[test]
    fn only_reads_of_keys_that_the_replica_has_are_answered_by_it() {
        let is_local = |line: &str| query(&words(line), |key| key.starts_with(b"a:")).is_some();
        for line in
            ["GET a:1", "get a:1", "MGET a:1 a:2", "EXISTS a:1", "TTL a:1", "HGETALL a:1", "ZRANGE a:1 0 -1"]
        {
            assert!(is_local(line), "{line}");
        }
        for line in [
            "GET b:1",
            "MGET a:1 b:1",
            "SET a:1 v",
            "GETEX a:1",
            "SORT_RO a:1",
            "SORT_RO a:1 BY b:*",
            "EVAL_RO x 1 a:1",
            "SCAN 0",
            "KEYS a:*",
            "DBSIZE",
            "RANDOMKEY",
            "HSCAN a:1 0",
            "BLPOP a:1 0",
            "GET",
            "GET a:1 a:2",
            "PING",
            "SINTERCARD 2 a:1 b:1",
            "SINTERCARD 9 a:1",
            "NOCOMMAND a:1",
        ] {
            assert!(!is_local(line), "{line}");
        }
    }

    #[test]
    fn no_command_that_writes_or_blocks_is_a_query() {
        for spec in COMMANDS.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands)) {
            for count in 1..6 {
                let name = spec.name.split('|').map(str::to_owned);
                let words: Vec<_> = name.chain((1..count).map(|_| "1".to_owned())).map(Bytes::from).collect();
                if query(&words, |_| true).is_some() {
                    assert!(spec.has(Flags::READONLY) && !spec.has(Flags::WRITE), "{}", spec.name);
                }
            }
        }
    }

    #[test]
    fn an_error_and_a_long_read_are_left_to_a_member() {
        let store = Store::in_memory();
        let call = |line: &str| query(&words(line), |_| true).unwrap();
        assert_eq!(answer(&store, &call("GET k"), 0), Some(Frame::Null));
        let many = format!("MGET {}", vec!["k"; 2_000].join(" "));
        assert_eq!(answer(&store, &call(&many), 0), None);
        let push = helios_proto::v1::Command {
            op: Some(helios_proto::v1::command::Op::Call(Call {
                name: "rpush".to_owned(),
                args: vec!["k".into(), "v".into()],
                ..Call::default()
            })),
            ..helios_proto::v1::Command::default()
        };
        store.apply(1, 1, &push);
        assert_eq!(answer(&store, &call("GET k"), 0), None, "WRONGTYPE");
        assert_eq!(answer(&store, &call("LLEN k"), 0), Some(Frame::Integer(1)));
    }
}
