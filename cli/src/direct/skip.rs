//! Skips an entry that the members hold because applying it ended their processes.

use std::time::Duration;

use helios_proto::v1::{EntryUnappliable, SkipEntryRequest, StatusResponse};

use super::manage::no_leader;
use super::survey::{Answer, leader, newest_membership};
use crate::error::Error;
use crate::persist::persist;
use crate::switchover::Members;

/// Makes entry `index` with checksum `crc` a no-op on all members.
///
/// # Errors
/// When no majority of the voters holds exactly this entry, when a member has applied it, and when the leader refuses.
pub async fn skip_entry(
    members: &impl Members,
    index: u64,
    crc: u32,
    limit: Duration,
) -> Result<String, Error> {
    persist(limit, async || {
        let answers = members.survey().await;
        check(&answers, index, crc).map_err(Error::Impossible)?;
        let status = leader(&answers).ok_or_else(|| no_leader(&answers))?;
        let answer = answers.iter().find(|answer| answer.status().is_some_and(|one| one.name == status.name));
        let place = members.place(answer.ok_or_else(|| no_leader(&answers))?);
        let request = SkipEntryRequest { index, crc, ..SkipEntryRequest::default() };
        let done = place.cluster(limit).await?.skip_entry(request).await;
        let done = done.map_err(Error::refused(&status.name, format!("skip entry {index}")))?.into_inner();
        Ok(format!(
            "entry {index} changes nothing on any member, as entry {} of term {} says",
            done.index, done.term
        ))
    })
    .await
}

/// Returns the reason against skipping the entry, if there is one. Pure.
fn check(answers: &[Answer], index: u64, crc: u32) -> Result<(), String> {
    let all: Vec<&StatusResponse> = answers.iter().filter_map(Answer::status).collect();
    let membership = newest_membership(answers).ok_or("no member that answers knows its cluster")?;
    if let Some(other) = all.iter().find(|status| status.applied_index >= index) {
        return Err(format!(
            "{} has applied entry {index}, so it can be applied: the members that hold it have to be removed and to join \
             again with an empty data directory",
            other.name
        ));
    }
    let holds = |id: &&u64| {
        let status = all.iter().find(|status| status.member_id == **id);
        status
            .and_then(|status| status.entry_unappliable.as_ref())
            .is_some_and(|held| is_it(held, index, crc))
    };
    for voters in [&membership.voters, &membership.voters_outgoing] {
        let holding = voters.iter().filter(holds).count();
        if !voters.is_empty() && 2 * holding <= voters.len() {
            return Err(format!(
                "entry {index} with crc {crc:08x} is held by {holding} of {} voters, and a majority has to: {}",
                voters.len(),
                seen(&all)
            ));
        }
    }
    Ok(())
}

fn is_it(held: &EntryUnappliable, index: u64, crc: u32) -> bool {
    (held.index, held.crc) == (index, crc)
}

/// Lists the entry that each member holds.
fn seen(all: &[&StatusResponse]) -> String {
    let one = |status: &&StatusResponse| match &status.entry_unappliable {
        Some(held) => format!("{} holds entry {} with crc {:08x}", status.name, held.index, held.crc),
        None => format!("{} holds none", status.name),
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Membership;

    use super::*;

    fn member(id: u64, applied: u64, held: Option<(u64, u32)>) -> Answer {
        let membership = Membership {
            voters: vec![1, 2, 3],
            members: [1, 2, 3].map(|id| helios_proto::v1::Member { id, ..Default::default() }).into(),
            ..Membership::default()
        };
        let status = StatusResponse {
            name: format!("node-{id}"),
            member_id: id,
            applied_index: applied,
            membership: Some(membership),
            entry_unappliable: held.map(|(index, crc)| EntryUnappliable {
                index,
                crc,
                ..EntryUnappliable::default()
            }),
            ..StatusResponse::default()
        };
        Answer { address: format!("h{id}:7000"), status: Ok(status) }
    }

    #[test]
    fn entry_is_skipped_only_if_a_majority_holds_it_and_no_member_has_applied_it() {
        let held = Some((7, 0xab));
        let gone = Answer { address: "h3:7000".into(), status: Err("no answer".into()) };
        assert_eq!(check(&[member(1, 6, held), member(2, 6, held), gone.clone()], 7, 0xab), Ok(()));
        let one = check(&[member(1, 6, held), member(2, 6, Some((7, 0xac))), gone], 7, 0xab).unwrap_err();
        assert!(
            one.contains("held by 1 of 3 voters") && one.contains("node-2 holds entry 7 with crc 000000ac"),
            "{one}"
        );
        check(&[member(1, 6, held), member(2, 6, held)], 8, 0xab).unwrap_err();
        let applied = check(&[member(1, 6, held), member(2, 6, held), member(3, 7, None)], 7, 0xab);
        assert!(applied.unwrap_err().contains("node-3 has applied entry 7"));
    }
}
