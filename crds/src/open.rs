//! The enumerations of the status that grow with versions: member roles and kinds of operations.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::condition::text_is_the_name_of_the_variant;

/// An open enumeration: a value of `T`, or the text that another version wrote. The schema of the CRD says `string`
/// without an `enum` for the same reason: with one, an API server that has the definition of an earlier version would
/// refuse the whole status of a newer operator, and a closed type here would make such a status unreadable.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(untagged)]
pub enum Open<T> {
    Known(T),
    Other(String),
}

impl<T> From<T> for Open<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: Default> Default for Open<T> {
    fn default() -> Self {
        Self::Known(T::default())
    }
}

impl<T: PartialEq> PartialEq<T> for Open<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(value) if value == other)
    }
}

impl<T: Serialize> fmt::Display for Open<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// The role of a member, as far as the operator knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MemberRole {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// A pod that is not a member yet.
    Joining,
    Removed,
    /// A member that does not answer, or that the leader has no contact with.
    #[default]
    Unknown,
}

/// The kind of an operation; also the reason of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperationKind {
    Bootstrap,
    AddMember,
    RemoveMember,
    ReplaceMember,
    RollingUpdate,
    ResizeVolume,
    MoveLeader,
    Recovery,
    ApplySettings,
}

impl OperationKind {
    pub const ALL: [Self; 9] = [
        Self::Bootstrap,
        Self::AddMember,
        Self::RemoveMember,
        Self::ReplaceMember,
        Self::RollingUpdate,
        Self::ResizeVolume,
        Self::MoveLeader,
        Self::Recovery,
        Self::ApplySettings,
    ];
}

text_is_the_name_of_the_variant!(MemberRole, OperationKind);

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::MemberStatus;

    #[test]
    fn role_of_another_version_is_kept_when_a_status_is_read_and_written() {
        let written =
            json!({"name": "demo-0", "memberId": 1, "incarnation": 1, "role": "Witness", "ready": true});
        let member: MemberStatus = from_value(written.clone()).expect("it is readable");
        assert_eq!(member.role, Open::Other("Witness".to_owned()));
        assert_ne!(member.role, MemberRole::Unknown);
        assert_eq!((member.role.to_string(), to_value(&member).unwrap()), ("Witness".to_owned(), written));
    }

    #[test]
    fn known_values_are_their_names_on_the_wire() {
        let role: Open<MemberRole> = from_value(json!("Learner")).unwrap();
        assert_eq!(role, MemberRole::Learner);
        for kind in OperationKind::ALL {
            let open = Open::from(kind);
            assert_eq!(to_value(&open).unwrap(), json!(format!("{kind:?}")));
            assert_eq!((open.to_string(), from_value(json!(kind)).ok()), (kind.to_string(), Some(open)));
        }
    }
}
