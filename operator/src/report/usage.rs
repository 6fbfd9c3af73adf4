//! State, log, memory and volume of each member, and the advice for those near a limit. Pure.

use helios_crds::{MemberStatus, MemberUsage, Reason};
use helios_proto::v1::{StateReport, StatusResponse};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::signed;
use crate::validate;

/// Share of a limit, in percent, from which on a member is near it, and below which it no longer is: usage moves, and
/// advice that comes and goes is of no use.
struct Threshold {
    near: i64,
    clear: i64,
}

const VOLUME: Threshold = Threshold { near: 80, clear: 75 };
const MEMORY: Threshold = Threshold { near: 90, clear: 80 };
/// Bytes of a difference that is no news, whatever its share.
const SMALL_BYTES: i64 = 32 << 20;
/// Time of a difference between two scrubs that is no news.
const SCRUB_NEWS: SignedDuration = SignedDuration::from_hours(6);

impl Threshold {
    fn is_near(&self, used: i64, limit: i64, was_near: bool) -> bool {
        let percent = if was_near { self.clear } else { self.near };
        limit > 0 && used > limit / 100 * percent
    }
}

/// Usage that `node` reports; that of `before` while the member does not answer.
pub fn usage(
    node: Option<&StatusResponse>,
    before: Option<&MemberUsage>,
    now: Timestamp,
) -> Option<MemberUsage> {
    let Some(StateReport { size_bytes, log_bytes, durable_index, scrub, memory, volume, .. }) =
        node.and_then(|node| node.state.clone())
    else {
        return before.cloned();
    };
    let (scrub, memory) = (scrub.unwrap_or_default(), memory.unwrap_or_default());
    let volume = volume.unwrap_or_default();
    let age = scrub.last_complete_seconds_ago.map(|seconds| SignedDuration::from_secs(signed(seconds)));
    let (memory_bytes, memory_limit_bytes) = (signed(memory.used_bytes), signed(memory.limit_bytes));
    let (volume_used_bytes, volume_bytes) =
        (signed(volume.size_bytes.saturating_sub(volume.free_bytes)), signed(volume.size_bytes));
    let was_near = |near: fn(&MemberUsage) -> bool| before.is_some_and(near);
    Some(MemberUsage {
        state_bytes: signed(size_bytes),
        log_bytes: signed(log_bytes),
        durable_index: signed(durable_index),
        scrubbed_at: age.and_then(|age| now.checked_sub(age).ok()).map(Time),
        damaged_file: scrub.damaged_files.first().cloned(),
        memory_near_limit: MEMORY.is_near(
            memory_bytes,
            memory_limit_bytes,
            was_near(|usage| usage.memory_near_limit),
        ),
        volume_near_limit: VOLUME.is_near(
            volume_used_bytes,
            volume_bytes,
            was_near(|usage| usage.volume_near_limit),
        ),
        memory_bytes,
        memory_limit_bytes,
        volume_used_bytes,
        volume_bytes,
    })
}

/// Whether `new` is worth a write of the status after `old`.
pub fn is_news(old: &MemberUsage, new: &MemberUsage) -> bool {
    let moved = |old: i64, new: i64| (new - old).abs() > SMALL_BYTES.max(old.max(new) / 8);
    let scrubbed = match (&old.scrubbed_at, &new.scrubbed_at) {
        (Some(old), Some(new)) => new.0.duration_since(old.0).abs() > SCRUB_NEWS,
        (old, new) => old.is_some() != new.is_some(),
    };
    scrubbed
        || moved(old.state_bytes, new.state_bytes)
        || moved(old.log_bytes, new.log_bytes)
        || moved(old.memory_bytes, new.memory_bytes)
        || moved(old.volume_used_bytes, new.volume_used_bytes)
        || old.damaged_file != new.damaged_file
        || (old.memory_limit_bytes, old.volume_bytes) != (new.memory_limit_bytes, new.volume_bytes)
        || (old.memory_near_limit, old.volume_near_limit) != (new.memory_near_limit, new.volume_near_limit)
}

/// Message about the first member with a damaged file that no other member can repair, if any.
pub fn damage(members: &[MemberStatus]) -> Option<String> {
    let mut damaged = members
        .iter()
        .filter_map(|member| Some((&member.name, member.usage.as_ref()?.damaged_file.as_ref()?)));
    let (name, file) = damaged.next()?;
    Some(format!("{name} has the damaged file {file} in its state: see the runbook HeliosStateDamaged"))
}

/// Reason and advice for the members that are near a limit, with volumes of `size` by the spec. The text has no figure
/// that moves.
pub fn advice(size: &str, members: &[MemberStatus]) -> Option<(Reason, String)> {
    let volumes = near(members, |usage| usage.volume_near_limit);
    let memory = near(members, |usage| usage.memory_near_limit);
    let reason = if volumes.is_empty() { Reason::MemoryNearLimit } else { Reason::VolumeNearLimit };
    let texts = [volume_advice(size, &volumes), memory_advice(&memory)];
    let texts: Vec<String> = texts.into_iter().flatten().collect();
    (!texts.is_empty()).then(|| (reason, texts.join("; ")))
}

type Near<'a> = Vec<(&'a str, &'a MemberUsage)>;

fn near(members: &[MemberStatus], is_near: fn(&MemberUsage) -> bool) -> Near<'_> {
    let used = members.iter().filter_map(|member| Some((member.name.as_str(), member.usage.as_ref()?)));
    used.filter(|(_, usage)| is_near(usage)).collect()
}

fn volume_advice(size: &str, near: &Near<'_>) -> Option<String> {
    let size_bytes = signed(validate::quantity("spec.storage.size", size).ok()?);
    let largest = near.iter().map(|(_, usage)| usage.volume_bytes).max()?;
    let what = format!("more than {} % of the volume of {} is used", VOLUME.near, names(near));
    // Volumes of a provisioner that gives each one a directory of the host.
    if largest / 2 > size_bytes {
        return Some(format!(
            "{what}, and it is a disk of {} that others use as well: free space on its host",
            rounded(largest)
        ));
    }
    Some(format!(
        "{what}: write spec.storage.size: {} or more (now {size}); no member restarts",
        larger(size_bytes)
    ))
}

fn memory_advice(near: &Near<'_>) -> Option<String> {
    let limit = near.iter().map(|(_, usage)| usage.memory_limit_bytes).max()?;
    Some(format!(
        "more than {} % of the memory limit of {} is used: write spec.resources.limits.memory: {} or more (now {}); \
         members restart one at a time",
        MEMORY.near,
        names(near),
        larger(limit),
        rounded(limit)
    ))
}

fn names(near: &Near<'_>) -> String {
    near.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Returns one and a half times `bytes`, as a quantity of Kubernetes.
fn larger(bytes: i64) -> String {
    rounded(bytes / 2 * 3)
}

/// Returns `bytes` as a quantity of Kubernetes, rounded up.
fn rounded(bytes: i64) -> String {
    const MEBI: i64 = 1 << 20;
    const GIBI: i64 = 1 << 30;
    let count = |unit: i64| bytes / unit + i64::from(bytes % unit > 0);
    if bytes >= 8 * GIBI || bytes % GIBI == 0 {
        format!("{}Gi", count(GIBI))
    } else {
        format!("{}Mi", count(MEBI))
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::state_report::{Memory, Scrub, Volume};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn node(volume_percent: u64, memory_percent: u64) -> StatusResponse {
        let volume = Volume { size_bytes: 10 * GIB, free_bytes: 10 * GIB / 100 * (100 - volume_percent) };
        let memory = Memory { limit_bytes: GIB, used_bytes: GIB / 100 * memory_percent };
        let scrub = Scrub { last_complete_seconds_ago: Some(60), ..Scrub::default() };
        let (volume, memory, scrub) = (Some(volume), Some(memory), Some(scrub));
        let state = StateReport { size_bytes: 2 * GIB, volume, memory, scrub, ..StateReport::default() };
        StatusResponse { state: Some(state), ..StatusResponse::default() }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn used(volume_percent: u64, memory_percent: u64, before: Option<&MemberUsage>) -> MemberUsage {
        usage(Some(&node(volume_percent, memory_percent)), before, now()).unwrap()
    }

    fn members(usages: &[MemberUsage]) -> Vec<MemberStatus> {
        let member = |(ordinal, usage): (usize, &MemberUsage)| MemberStatus {
            name: format!("demo-{ordinal}"),
            usage: Some(usage.clone()),
            ..MemberStatus::default()
        };
        usages.iter().enumerate().map(member).collect()
    }

    #[test]
    fn member_stays_near_a_limit_until_its_usage_is_well_below_it() {
        let mut before = None;
        let steps = [(79, 89), (82, 92), (77, 85), (74, 79), (79, 89)];
        let expected = [(false, false), (true, true), (true, true), (false, false), (false, false)];
        for ((volume, memory), near) in steps.into_iter().zip(expected) {
            let now = used(volume, memory, before.as_ref());
            assert_eq!((now.volume_near_limit, now.memory_near_limit), near, "{volume} % and {memory} %");
            before = Some(now);
        }
    }

    #[test]
    fn usage_is_the_last_known_one_when_the_member_does_not_answer() {
        let before = used(82, 10, None);
        assert_eq!(usage(None, Some(&before), now()), Some(before.clone()));
        let of_earlier_build = StatusResponse::default();
        assert_eq!(usage(Some(&of_earlier_build), Some(&before), now()), Some(before));
        assert_eq!(usage(None, None, now()), None);
    }

    #[test]
    fn limitless_member_is_near_no_memory_limit() {
        let mut status = node(10, 99);
        status.state.as_mut().unwrap().memory = Some(Memory { limit_bytes: 0, used_bytes: 50 * GIB });
        assert!(!usage(Some(&status), None, now()).unwrap().memory_near_limit);
    }

    #[test]
    fn advice_names_the_members_and_what_to_write() {
        assert_eq!(advice("10Gi", &members(&[used(79, 89, None)])), None);
        let (reason, text) =
            advice("10Gi", &members(&[used(82, 10, None), used(10, 10, None), used(95, 92, None)])).unwrap();
        assert_eq!(reason, Reason::VolumeNearLimit);
        assert_eq!(
            text,
            "more than 80 % of the volume of demo-0, demo-2 is used: write spec.storage.size: 15Gi or more (now 10Gi); no \
             member restarts; more than 90 % of the memory limit of demo-2 is used: write \
             spec.resources.limits.memory: 1536Mi or more (now 1Gi); members restart one at a time"
        );
        let (reason, _) = advice("10Gi", &members(&[used(10, 92, None)])).unwrap();
        assert_eq!(reason, Reason::MemoryNearLimit);
    }

    #[test]
    fn larger_volume_is_no_advice_when_the_disk_is_shared() {
        let host = MemberUsage { volume_bytes: 250 << 30, ..used(82, 10, None) };
        let (_, text) = advice("10Gi", &members(&[host])).unwrap();
        assert!(text.ends_with("a disk of 250Gi that others use as well: free space on its host"), "{text}");
    }

    #[test]
    fn small_moves_are_no_news_and_large_moves_and_limits_are() {
        let old = used(50, 50, None);
        let moved = |change: fn(&mut MemberUsage)| {
            let mut new = old.clone();
            change(&mut new);
            is_news(&old, &new)
        };
        assert!(!moved(|usage| usage.state_bytes += 200 << 20));
        assert!(moved(|usage| usage.state_bytes += 400 << 20));
        assert!(!moved(|usage| (usage.log_bytes, usage.durable_index) = (30 << 20, 1_000_000)));
        assert!(moved(|usage| usage.volume_near_limit = true));
        assert!(moved(|usage| usage.scrubbed_at = None));
        assert!(moved(|usage| usage.damaged_file = Some("1.run".to_owned())));
    }
}
