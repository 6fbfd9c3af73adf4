//! The comparison of two bases (ADR 0038): a restore begins at the base before the one that it needs and replays the log through the
//! latter, where it has to have the state that another member had.

use helios_archive::base::{BaseReader, Manifest};
use helios_archive::plan::{Plan, Target};
use helios_archive::segments::Stop;
use helios_archive::{Archive, ArchiveError, BaseId, Drill};
use helios_proto::v1::Restored;

use super::plan::{Prepared, check};
use crate::documents::size;
use crate::inventory::Inventory;

/// Limit of the log between the two bases if only some restores compare, bytes in the store.
pub const MAX_BETWEEN: u64 = 1 << 30;

/// Whether the next restore compares, after the last one that was right. The first one does not: it shows that the newest base can be
/// restored.
pub fn is_turn(last: Option<&Drill>) -> bool {
    last.is_some_and(|last| last.compared_index.is_none())
}

/// Prepares the restore of `direct`'s target from the base before its base; or why that is not possible.
pub async fn prepare_compared(
    archive: &Archive,
    inventory: &Inventory,
    direct: &Plan,
    limit: u64,
) -> Result<Result<Prepared, String>, ArchiveError> {
    let checked = async {
        let plan = match earlier(archive, inventory, direct, limit).await? {
            Ok(plan) => plan,
            Err(reason) => return Ok::<_, ArchiveError>(Err(reason)),
        };
        // The newest base is read to its last byte, too: it is the one that restores need.
        let mut newest = BaseReader::open(archive, direct.base).await?;
        while newest.next().await?.is_some() {}
        let compare = newest.manifest().clone();
        let prepared = check(archive.clone(), plan).await?;
        Ok(match prepared.last_index < compare.index {
            true => Err(no_earlier(direct.base)),
            false => Ok(Prepared { compare: Some(compare), ..prepared }),
        })
    };
    match checked.await {
        // The direct plan may need none of the damaged objects.
        Err(error) if error.is_damage() => Ok(Err(error.to_string())),
        checked => checked,
    }
}

/// Plans the restore of `direct`'s target from the base before its base, with at most `limit` bytes of log between the two.
async fn earlier(
    archive: &Archive,
    inventory: &Inventory,
    direct: &Plan,
    limit: u64,
) -> Result<Result<Plan, String>, ArchiveError> {
    let base = direct.base;
    if inventory.bases.get(&base).is_none_or(|base| base.state_digest.is_none()) {
        return Ok(Err(format!("no digest was recorded with base {}-{}", base.index, base.term)));
    }
    let mut catalog = inventory.catalog.clone();
    catalog.bases.retain(|other, _| *other < base && !inventory.damaged.contains_key(other));
    let target = match direct.stop {
        Stop::Index(index) => Target::Index(index),
        Stop::Time(time) => Target::Time(time),
    };
    let Ok(plan) = archive.plan(&catalog, &mut inventory.clocks.clone(), target).await? else {
        return Ok(Err(no_earlier(base)));
    };
    let between = plan.segments.iter().filter(|segment| segment.first <= base.index);
    let between: u64 = between.filter_map(|segment| catalog.segments.get(segment)).sum();
    Ok(if between <= limit {
        Ok(plan)
    } else {
        Err(format!("the log between the last two bases has {}, more than {}", size(between), size(limit)))
    })
}

fn no_earlier(base: BaseId) -> String {
    format!("there is no base before {}-{} with all of the log up to it", base.index, base.term)
}

/// The result for users and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// `None`: the states were not compared.
    pub matches: Option<bool>,
    pub text: String,
}

/// Returns the result of the comparison that was requested, if any.
pub fn comparison(prepared: &Prepared, restored: &Restored) -> Option<Comparison> {
    match (&prepared.compare, &prepared.not_compared) {
        (Some(other), _) => Some(compare(&prepared.manifest, other, restored)),
        (None, Some(reason)) => {
            Some(Comparison { matches: None, text: format!("two bases were not compared: {reason}") })
        }
        (None, None) => None,
    }
}

/// Compares the state that the log after `from` yields with that of `other`.
fn compare(from: &Manifest, other: &Manifest, restored: &Restored) -> Comparison {
    let Restored { compared_keys: keys, compared_digest: digest, .. } = restored;
    let recorded = other.state_digest.as_deref().unwrap_or_default();
    if digest.is_empty() || recorded.is_empty() {
        let text = "two bases were not compared: the node is of a build that does not".to_owned();
        return Comparison { matches: None, text };
    }
    let matches = digest == recorded && other.keys.is_none_or(|recorded| recorded == *keys);
    let shown = |base: &Manifest| format!("base {}-{} of member {}", base.index, base.term, base.member);
    let text = match matches {
        true => format!(
            "the log after {} yields the state of {} at index {}",
            shown(from),
            shown(other),
            other.index
        ),
        false => format!(
            "the log after {} does not yield the state of {} at index {}: {keys} keys with digest {digest}, and not {} with \
             {recorded}",
            shown(from),
            shown(other),
            other.index,
            other.keys.unwrap_or_default()
        ),
    };
    Comparison { matches: Some(matches), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(index: u64, member: &str, keys: Option<u64>, digest: Option<&str>) -> Manifest {
        serde_json::from_value(serde_json::json!({
            "format": 1, "clusterId": "a", "incarnation": 1, "index": index, "term": 2, "nowMs": 1, "snapshotVersion": 1,
            "member": member, "startedMs": 1, "finishedMs": 2, "bytes": 0, "storedBytes": 0, "sha256": "", "keys": keys,
            "stateDigest": digest, "parts": [],
        }))
        .unwrap()
    }

    fn compared(keys: u64, digest: &str, other: &Manifest) -> Comparison {
        let restored =
            Restored { compared_keys: keys, compared_digest: digest.to_owned(), ..Restored::default() };
        compare(&base(10, "m1", None, None), other, &restored)
    }

    #[test]
    fn states_with_the_same_digest_and_number_of_keys_are_equal_and_others_are_named_with_their_members() {
        let other = base(30, "m2", Some(5), Some("ab"));
        let equal = compared(5, "ab", &other);
        let text =
            "the log after base 10-2 of member m1 yields the state of base 30-2 of member m2 at index 30";
        assert_eq!(equal, Comparison { matches: Some(true), text: text.to_owned() });
        for (keys, digest) in [(5, "ac"), (6, "ab")] {
            let found = compared(keys, digest, &other);
            assert_eq!(found.matches, Some(false));
            for part in ["member m1", "member m2", "at index 30", digest, "5 with ab"] {
                assert!(found.text.contains(part), "{part}: {}", found.text);
            }
        }
    }

    #[test]
    fn nothing_is_compared_without_both_digests() {
        assert_eq!(compared(0, "", &base(30, "m2", Some(5), Some("ab"))).matches, None);
        assert_eq!(compared(5, "ab", &base(30, "m2", Some(5), None)).matches, None);
        assert_eq!(compared(5, "ab", &base(30, "m2", None, Some("ab"))).matches, Some(true));
    }

    #[test]
    fn every_second_restore_compares() {
        let drill = |compared_index| Drill {
            at_ms: 1,
            index: 10,
            term: 2,
            is_restore: true,
            succeeded: true,
            took_ms: 1,
            detail: String::new(),
            compared_index,
        };
        assert!(!is_turn(None) && is_turn(Some(&drill(None))) && !is_turn(Some(&drill(Some(30)))));
    }
}
