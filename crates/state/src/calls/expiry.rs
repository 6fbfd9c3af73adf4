//! Commands that read the expiry of a key.

use helios_proto::v1::reply::Kind as Answer;

use super::super::command::Outcome;
use super::super::txn::Txn;
use super::words::Words;
use super::{Verb, reads};

pub const VERBS: &[Verb] = &[
    reads("expiretime", |txn, words| answer(txn, words, |at_ms, _| at_ms.saturating_add(500) / 1000)),
    reads("pexpiretime", |txn, words| answer(txn, words, |at_ms, _| at_ms)),
    reads("pttl", |txn, words| answer(txn, words, |at_ms, now_ms| at_ms - now_ms)),
    reads("ttl", |txn, words| {
        answer(txn, words, |at_ms, now_ms| (at_ms - now_ms).saturating_add(500) / 1000)
    }),
];

/// Answers -2 if the key does not exist, -1 if it does not expire, else `shown(at_ms, now_ms)`; `at_ms` is
/// after `now_ms`.
fn answer(txn: &mut Txn<'_>, mut words: Words<'_>, shown: fn(u64, u64) -> u64) -> Outcome {
    let now_ms = txn.clock_ms();
    Ok(Answer::Integer(match txn.load(words.word()?)?.map(|value| value.expire_at_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(at_ms)) => i64::try_from(shown(at_ms, now_ms)).unwrap_or(i64::MAX),
    }))
}
