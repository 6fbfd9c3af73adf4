//! Checks of handshakes and calls between members. Pure: both ends of a stream are checked against the replicated
//! membership before the first Raft message is accepted.

use std::cmp::Ordering;

use helios_proto::v1::{ErrorCode, Handshake, Membership};

use crate::membership;
use helios_proto::Error;

/// The receiving node, as far as a handshake is concerned.
#[derive(Debug, Clone)]
pub struct Local {
    pub name: String,
    pub disk_id: String,
    pub boot_epoch: u64,
    pub initial_members_digest: String,
    pub standing: Standing,
}

#[derive(Debug, Clone)]
pub enum Standing {
    /// The node belongs to no cluster.
    Blank,
    Member {
        cluster_id: String,
        member_id: u64,
        incarnation: u64,
    },
}

/// Decision about the sender of a handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// This blank node was added to the cluster of the sender and becomes its member.
    Adopt {
        cluster_id: String,
        member_id: u64,
        incarnation: u64,
    },
}

/// Checks a handshake. `membership` is the receiver's applied one.
pub fn check(local: &Local, membership: &Membership, handshake: &Handshake) -> Result<Verdict, Error> {
    match &local.standing {
        Standing::Blank => check_blank(local, handshake),
        Standing::Member { cluster_id, member_id, incarnation } => {
            check_member(local, cluster_id, *member_id, handshake)?;
            check_incarnation(*incarnation, handshake)?;
            check_sender(membership, handshake)
        }
    }
}

/// Accepts only the disk that was registered for the member id: a disk that was wiped since then has
/// another disk id, and has lost the votes that it may have granted.
fn check_blank(local: &Local, handshake: &Handshake) -> Result<Verdict, Error> {
    if handshake.to_disk_id != local.disk_id || handshake.to_id == 0 || handshake.cluster_id.is_empty() {
        return Err(Error::new(
            ErrorCode::WrongMember,
            format!(
                "{} has a blank disk ({}) and is not member {}: remove that member and add this node again",
                local.name, local.disk_id, handshake.to_id
            ),
        ));
    }
    Ok(Verdict::Adopt {
        cluster_id: handshake.cluster_id.clone(),
        member_id: handshake.to_id,
        incarnation: handshake.incarnation,
    })
}

fn check_member(local: &Local, cluster_id: &str, member_id: u64, handshake: &Handshake) -> Result<(), Error> {
    let refuse = |code, message| Err(Error::new(code, message));
    let from = name_of(handshake);
    if handshake.cluster_id != cluster_id {
        let digests_differ = !handshake.initial_members_digest.is_empty()
            && !local.initial_members_digest.is_empty()
            && handshake.initial_members_digest != local.initial_members_digest;
        let hint = if digests_differ {
            ": the initial member lists of the two differ; give every node the same list"
        } else {
            ""
        };
        return refuse(
            ErrorCode::WrongCluster,
            format!(
                "{from} belongs to cluster {}, {} to {cluster_id}{hint}",
                handshake.cluster_id, local.name
            ),
        );
    }
    if handshake.to_id != member_id {
        return refuse(
            ErrorCode::WrongMember,
            format!("{from} looks for member {} but {} is member {member_id}", handshake.to_id, local.name),
        );
    }
    if !handshake.to_disk_id.is_empty() && handshake.to_disk_id != local.disk_id {
        return refuse(
            ErrorCode::WrongMember,
            format!(
                "member {member_id} is registered with disk {}, {} has disk {}",
                handshake.to_disk_id, local.name, local.disk_id
            ),
        );
    }
    // The sender assumes that this member has all entries that it acknowledged, and would commit entries that it lacks.
    if local.boot_epoch < handshake.to_boot_epoch {
        let reason = older_copy(&local.name, local.boot_epoch, handshake.to_boot_epoch);
        return refuse(ErrorCode::WrongMember, reason);
    }
    Ok(())
}

fn older_copy(node: &str, boot_epoch: u64, registered: u64) -> String {
    format!(
        "{node} has boot epoch {boot_epoch} but was registered with {registered}: its disk is an older copy; \
         remove the member and let it rejoin"
    )
}

fn name_of(handshake: &Handshake) -> String {
    format!("{} (member {})", handshake.from_name, handshake.from_id)
}

/// Checks the incarnation. It grows when one member is made the only one of its cluster, which removes all others even
/// if they do not know it.
fn check_incarnation(own: u64, handshake: &Handshake) -> Result<(), Error> {
    let from = name_of(handshake);
    let theirs = handshake.incarnation;
    match theirs.cmp(&own) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(Error::new(
            ErrorCode::MemberRemoved,
            format!(
                "{from} was removed when the cluster was recreated from one survivor; give it an empty data \
                 directory to join again"
            ),
        )),
        Ordering::Greater => Err(Error::new(
            ErrorCode::WrongMember,
            format!(
                "{from} belongs to the cluster that was recreated from one survivor, this member to the one before: \
                 give this one an empty data directory to join again"
            ),
        )),
    }
}

/// Log format of the first build that sends a handshake with each call.
const NAMES_SENDER: u32 = 5;

/// Checks a unary call. A call without a handshake comes from an earlier build; it is accepted while a member may be of
/// such a build.
pub fn check_call(local: &Local, membership: &Membership, from: Option<&Handshake>) -> Result<(), Error> {
    let Some(handshake) = from else {
        if membership.members.iter().any(|member| member.format < NAMES_SENDER) {
            return Ok(());
        }
        return Err(Error::invalid("this call does not say which member it is from"));
    };
    match &local.standing {
        Standing::Blank => {
            Err(Error::new(ErrorCode::NotStarted, format!("{} belongs to no cluster yet", local.name)))
        }
        Standing::Member { .. } => check(local, membership, handshake).map(drop),
    }
}

fn check_sender(membership: &Membership, handshake: &Handshake) -> Result<Verdict, Error> {
    let from = name_of(handshake);
    let refuse = |code, message| Err(Error::new(code, message));
    if membership::was_removed(membership, handshake.from_id) {
        return refuse(
            ErrorCode::MemberRemoved,
            format!("{from} was removed from the cluster; give it an empty data directory to join again"),
        );
    }
    // An unknown id belongs to a member that was added later. A lagging member accepts it: it may be the leader, from
    // which alone it learns of the change (Raft thesis, 4.1: a server accepts requests from servers that are not in its
    // configuration).
    let Some(record) = membership::member(membership, handshake.from_id) else {
        if handshake.from_id == 0 {
            return refuse(ErrorCode::PeerUnreachable, format!("{from} is a member of no cluster yet"));
        }
        return Ok(Verdict::Accept);
    };
    if !record.disk_id.is_empty() && record.disk_id != handshake.from_disk_id {
        return refuse(
            ErrorCode::WrongMember,
            format!(
                "{from} has disk {} but is registered with disk {}: a wiped disk must join as a new member",
                handshake.from_disk_id, record.disk_id
            ),
        );
    }
    if handshake.from_boot_epoch < record.boot_epoch {
        let reason = older_copy(&from, handshake.from_boot_epoch, record.boot_epoch);
        return refuse(ErrorCode::WrongMember, reason);
    }
    Ok(Verdict::Accept)
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Member;

    use super::*;

    fn local(standing: Standing) -> Local {
        let digest = String::new();
        Local {
            name: "b".into(),
            disk_id: "db".into(),
            boot_epoch: 4,
            initial_members_digest: digest,
            standing,
        }
    }

    fn as_member() -> Local {
        local(Standing::Member { cluster_id: "c".into(), member_id: 2, incarnation: 1 })
    }

    fn members() -> Membership {
        let record = |id: u64, name: &str| Member {
            id,
            name: name.into(),
            disk_id: format!("d{name}"),
            boot_epoch: 4,
            ..Member::default()
        };
        // Ids 1 and 2 are members, 3 was removed, 4 is still to come.
        Membership { next_id: 4, ..membership::initial("c", vec![record(1, "a"), record(2, "b")]) }
    }

    fn handshake() -> Handshake {
        Handshake {
            cluster_id: "c".into(),
            from_id: 1,
            from_name: "a".into(),
            from_disk_id: "da".into(),
            from_boot_epoch: 4,
            to_id: 2,
            to_disk_id: "db".into(),
            to_boot_epoch: 4,
            incarnation: 1,
            ..Handshake::default()
        }
    }

    fn refused(local: &Local, handshake: Handshake) -> ErrorCode {
        check(local, &members(), &handshake).unwrap_err().code
    }

    #[test]
    fn members_of_one_cluster_accept_each_other() {
        assert_eq!(check(&as_member(), &members(), &handshake()).unwrap(), Verdict::Accept);
    }

    #[test]
    fn a_blank_node_adopts_only_the_membership_that_its_disk_was_registered_for() {
        let blank = local(Standing::Blank);
        let adopted = check(&blank, &Membership::default(), &handshake()).unwrap();
        assert_eq!(adopted, Verdict::Adopt { cluster_id: "c".into(), member_id: 2, incarnation: 1 });
        let wiped = Handshake { to_disk_id: "the old disk".into(), ..handshake() };
        assert_eq!(refused(&blank, wiped), ErrorCode::WrongMember);
        let unregistered = Handshake { to_disk_id: String::new(), ..handshake() };
        assert_eq!(refused(&blank, unregistered), ErrorCode::WrongMember);
    }

    #[test]
    fn foreign_wiped_restored_and_removed_members_are_rejected() {
        let member = as_member();
        let cases = [
            (Handshake { cluster_id: "other".into(), ..handshake() }, ErrorCode::WrongCluster),
            (Handshake { to_id: 1, ..handshake() }, ErrorCode::WrongMember),
            (Handshake { to_disk_id: "dx".into(), ..handshake() }, ErrorCode::WrongMember),
            (Handshake { from_disk_id: "wiped".into(), ..handshake() }, ErrorCode::WrongMember),
            (Handshake { from_boot_epoch: 3, ..handshake() }, ErrorCode::WrongMember),
            (Handshake { to_boot_epoch: 5, ..handshake() }, ErrorCode::WrongMember),
            (Handshake { from_id: 3, ..handshake() }, ErrorCode::MemberRemoved),
            (Handshake { incarnation: 0, ..handshake() }, ErrorCode::MemberRemoved),
            (Handshake { incarnation: 2, ..handshake() }, ErrorCode::WrongMember),
            (Handshake { from_id: 0, ..handshake() }, ErrorCode::PeerUnreachable),
        ];
        for (handshake, code) in cases {
            assert_eq!(refused(&member, handshake.clone()), code, "{handshake:?}");
        }
    }

    #[test]
    fn a_lagging_member_accepts_a_member_that_it_does_not_know_yet() {
        let added = Handshake { from_id: 4, from_disk_id: "dd".into(), ..handshake() };
        assert_eq!(check(&as_member(), &members(), &added).unwrap(), Verdict::Accept);
    }

    #[test]
    fn a_call_is_checked_like_a_stream_and_needs_a_handshake_once_all_members_send_one() {
        let (member, members) = (as_member(), members());
        let code = |from: Option<Handshake>, members: &Membership| {
            check_call(&member, members, from.as_ref()).err().map(|error| error.code)
        };
        assert_eq!(code(Some(handshake()), &members), None);
        let cases = [
            (Handshake { cluster_id: "other".into(), ..handshake() }, ErrorCode::WrongCluster),
            (Handshake { to_id: 1, ..handshake() }, ErrorCode::WrongMember),
            (Handshake { from_disk_id: "wiped".into(), ..handshake() }, ErrorCode::WrongMember),
            (Handshake { from_id: 3, ..handshake() }, ErrorCode::MemberRemoved),
            (Handshake { from_id: 0, ..handshake() }, ErrorCode::PeerUnreachable),
            (Handshake { incarnation: 0, ..handshake() }, ErrorCode::MemberRemoved),
        ];
        for (handshake, expected) in cases {
            assert_eq!(code(Some(handshake.clone()), &members), Some(expected), "{handshake:?}");
        }
        // A member may be of a build that sends no handshake; after the upgrade none is.
        assert_eq!(code(None, &members), None);
        let mut upgraded = members.clone();
        upgraded.members.iter_mut().for_each(|member| member.format = NAMES_SENDER);
        assert_eq!(code(None, &upgraded), Some(ErrorCode::InvalidArgument));
        // A call does not make a blank node a member.
        let blank = check_call(&local(Standing::Blank), &Membership::default(), Some(&handshake()));
        assert_eq!(blank.unwrap_err().code, ErrorCode::NotStarted);
    }

    #[test]
    fn the_error_names_differing_initial_member_lists() {
        let member = Local { initial_members_digest: "x".into(), ..as_member() };
        let other =
            Handshake { cluster_id: "other".into(), initial_members_digest: "y".into(), ..handshake() };
        let error = check(&member, &members(), &other).unwrap_err();
        assert!(error.message.contains("initial member lists"), "{}", error.message);
    }
}
