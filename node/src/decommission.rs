//! Decommissioning of a removed member: it keeps serving and voting until the remaining members do not need it (ADR
//! 0011).
//!
//! A membership change takes effect when it is applied. A leader that has applied a removal may be lost before the
//! others learn of the commit; they then need the removed member's vote to commit it again. So a removed member stops
//! only once a majority of the remaining voters has the change: any later majority of them includes one that knows it.
//! (The simulator found members that were stuck forever, seed 5057326.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use helios_proto::v1::{Membership, StatusResponse};

use crate::node::{ActiveMember, Node};
use crate::peer::Dialer;
use crate::raft::membership;

/// Pause between two rounds of status requests, while the removal is not known to a majority.
const PAUSE: Duration = Duration::from_millis(500);
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until this member was removed and is not needed any more, and decommissions it.
pub async fn run(node: Node) {
    let Some(member) = node.member() else { return };
    let mut status = member.raft.watch_status();
    let mut known = Known::of(member);
    loop {
        tokio::select! {
            seen = status.wait_for(|status| membership::was_removed(&status.membership, member.id)) => {
                if seen.is_err() {
                    return;
                }
            }
            () = node.inner().removal_reported.notified() => {}
        }
        known.learn(Known::of(member));
        let answers = request_statuses(&node.inner().dialer, &known.membership, member.id).await;
        known.learn_from(&answers, &member.cluster_id);
        if known.may_stop(member.id, &answers) {
            node.decommission("the membership no longer lists it");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Status of each member that answered, by the id under which it was called.
type Answers = BTreeMap<u64, StatusResponse>;

/// Version of a membership: incarnation of the cluster, then the membership's index. The greater one is newer.
type Version = (u64, u64);

/// The newest membership that is known, and its incarnation of the cluster.
struct Known {
    incarnation: u64,
    membership: Arc<Membership>,
}

impl Known {
    fn of(member: &ActiveMember) -> Self {
        Self { incarnation: member.incarnation, membership: Arc::clone(&member.raft.status().membership) }
    }

    fn version(&self) -> Version {
        (self.incarnation, self.membership.index)
    }

    fn learn(&mut self, other: Self) {
        if other.version() > self.version() {
            *self = other;
        }
    }

    fn learn_from(&mut self, answers: &Answers, cluster_id: &str) {
        for answer in answers.values().filter(|answer| answer.cluster_id == cluster_id) {
            let membership = Arc::new(answer.membership.clone().unwrap_or_default());
            self.learn(Self { incarnation: answer.incarnation, membership });
        }
    }

    /// Whether member `id` was removed, and a majority of the remaining voters reports that it knows.
    fn may_stop(&self, id: u64, answers: &Answers) -> bool {
        let knows = |voter| {
            let answer = answers.get(&voter).filter(|answer| answer.member_id == voter);
            answer.is_some_and(|answer| version_of(answer) >= self.version())
        };
        membership::was_removed(&self.membership, id) && membership::have_majority(&self.membership, knows)
    }
}

fn version_of(answer: &StatusResponse) -> Version {
    (answer.incarnation, answer.membership.as_ref().map_or(0, |membership| membership.index))
}

/// Requests the status of the other members; those that do not answer are omitted.
async fn request_statuses(dialer: &Dialer, membership: &Membership, own: u64) -> Answers {
    let others = membership.members.iter().filter(|member| member.id != own);
    let answers = join_all(others.map(|member| async move {
        let answer = tokio::time::timeout(STATUS_TIMEOUT, dialer.status_at(&member.peer_addr)).await;
        answer.ok()?.ok().map(|answer| (member.id, answer))
    }));
    answers.await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Member;

    use super::*;

    const CLUSTER: &str = "c";

    fn of(index: u64, voters: &[u64]) -> Membership {
        let record = |id: &u64| Member { id: *id, ..Member::default() };
        Membership { index, next_id: 9, ..membership::initial(CLUSTER, voters.iter().map(record).collect()) }
    }

    fn known(membership: Membership) -> Known {
        Known { incarnation: 0, membership: Arc::new(membership) }
    }

    fn answer(id: u64, membership: &Membership) -> (u64, StatusResponse) {
        let membership = Some(membership.clone());
        let cluster_id = CLUSTER.to_owned();
        (id, StatusResponse { member_id: id, cluster_id, membership, ..StatusResponse::default() })
    }

    #[test]
    fn a_removed_member_stops_once_a_majority_of_the_remaining_voters_knows() {
        let (before, after) = (of(10, &[1, 2, 3, 4]), of(20, &[1, 2, 3]));
        let lone = Answers::from([answer(1, &after), answer(2, &before), answer(3, &before)]);
        assert!(!known(after.clone()).may_stop(4, &lone), "2 and 3 still count member 4");
        let both = Answers::from([answer(1, &after), answer(2, &after), answer(3, &before)]);
        assert!(known(after.clone()).may_stop(4, &both));
        assert!(!known(after).may_stop(3, &both), "member 3 was not removed");
    }

    #[test]
    fn a_member_that_was_down_learns_its_removal_from_the_others() {
        let (before, after) = (of(10, &[1, 2, 3]), of(30, &[1, 5, 6]));
        let mut known = known(before);
        let first = Answers::from([answer(1, &after)]);
        known.learn_from(&first, CLUSTER);
        assert!(!known.may_stop(3, &first), "one of three");
        let all = Answers::from([answer(1, &after), answer(5, &after)]);
        known.learn_from(&all, CLUSTER);
        assert!(known.may_stop(3, &all));
    }

    #[test]
    fn a_forced_new_cluster_outranks_a_higher_index_of_the_old_one() {
        let (before, forced) = (of(50, &[1, 2, 3]), of(40, &[2]));
        let mut known = known(before);
        let mut answers = Answers::from([answer(2, &forced)]);
        known.learn_from(&answers, CLUSTER);
        assert!(!known.may_stop(1, &answers), "an older membership does not count");
        answers.get_mut(&2).unwrap().incarnation = 1;
        known.learn_from(&answers, "another");
        assert!(!known.may_stop(1, &answers));
        known.learn_from(&answers, CLUSTER);
        assert!(known.may_stop(1, &answers));
    }

    #[test]
    fn an_answer_of_another_member_at_the_same_address_does_not_count() {
        let after = of(20, &[1, 2]);
        let mut answers = Answers::from([answer(1, &after), answer(2, &after)]);
        assert!(known(after.clone()).may_stop(3, &answers));
        answers.get_mut(&2).unwrap().member_id = 8;
        assert!(!known(after).may_stop(3, &answers));
    }
}
