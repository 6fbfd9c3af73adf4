//! The decommission of a removed member: it continues to serve and to vote until the remaining members can do without it.
//!
//! Raft counts a change of members from the moment it is applied. A leader that applied a removal may be lost
//! before the others have received the commit, and they then need the removed member's vote to commit it again. So
//! a removed member stops only once a majority of the remaining members has the change: every quorum of them then
//! contains one that has it. (The simulator found members that were stuck for ever, seed 5057326.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use helios_proto::v1::{Membership, StatusResponse};

use crate::node::{ActiveMember, Node};
use crate::peer::Dialer;
use crate::raft::membership;

/// Pause between two rounds of requests, while the removal is not known to a majority.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(1);

/// Stops this node as a member once it was removed and may leave.
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
            () = node.inner().removal_notified.notified() => {}
        }
        known.learn(Known::of(member));
        let answers = ask(&node.inner().dialer, &known.membership, member.id).await;
        known.learn_from(&answers, &member.cluster_id);
        if known.may_leave(member.id, &answers) {
            node.retire("the membership no longer lists it");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Statuses of the other members by id.
type Answers = BTreeMap<u64, StatusResponse>;

/// Incarnation of the cluster, then the membership's index: the later is the newer.
type Version = (u64, u64);

/// The newest known membership and the incarnation of its cluster.
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

    /// Member `id` was removed, and a majority of the remaining members has the removal.
    fn may_leave(&self, id: u64, answers: &Answers) -> bool {
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

/// The statuses of the other members, without those that do not answer.
async fn ask(dialer: &Dialer, membership: &Membership, own: u64) -> Answers {
    let others = membership.members.iter().filter(|member| member.id != own);
    let answers = join_all(others.map(|member| async move {
        let answer = tokio::time::timeout(PATIENCE, dialer.status_at(&member.peer_addr)).await;
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
    fn removed_member_leaves_once_a_majority_of_the_others_has_the_removal() {
        let (before, after) = (of(10, &[1, 2, 3, 4]), of(20, &[1, 2, 3]));
        let lone = Answers::from([answer(1, &after), answer(2, &before), answer(3, &before)]);
        assert!(!known(after.clone()).may_leave(4, &lone), "2 and 3 still count it");
        let both = Answers::from([answer(1, &after), answer(2, &after), answer(3, &before)]);
        assert!(known(after.clone()).may_leave(4, &both));
        assert!(!known(after).may_leave(3, &both), "it stays");
    }

    #[test]
    fn member_that_was_down_learns_of_its_removal_from_the_others() {
        let (before, after) = (of(10, &[1, 2, 3]), of(30, &[1, 5, 6]));
        let mut known = known(before);
        let first = Answers::from([answer(1, &after)]);
        known.learn_from(&first, CLUSTER);
        assert!(!known.may_leave(3, &first), "one of three");
        let all = Answers::from([answer(1, &after), answer(5, &after)]);
        known.learn_from(&all, CLUSTER);
        assert!(known.may_leave(3, &all));
    }

    #[test]
    fn later_incarnation_outranks_a_longer_log_of_an_earlier_one() {
        let (before, restored) = (of(50, &[1, 2, 3]), of(40, &[2]));
        let mut known = known(before);
        let mut answers = Answers::from([answer(2, &restored)]);
        known.learn_from(&answers, CLUSTER);
        assert!(!known.may_leave(1, &answers), "an older membership is none");
        answers.get_mut(&2).unwrap().incarnation = 1;
        known.learn_from(&answers, "another");
        assert!(!known.may_leave(1, &answers));
        known.learn_from(&answers, CLUSTER);
        assert!(known.may_leave(1, &answers));
    }

    #[test]
    fn answer_of_another_member_at_the_same_address_does_not_count() {
        let after = of(20, &[1, 2]);
        let mut answers = Answers::from([answer(1, &after), answer(2, &after)]);
        assert!(known(after.clone()).may_leave(3, &answers));
        answers.get_mut(&2).unwrap().member_id = 8;
        assert!(!known(after).may_leave(3, &answers));
    }
}
