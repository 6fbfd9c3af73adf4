//! Types and reasons of the conditions, as the operator writes them and its readers compare them. The status holds
//! plain strings: one written by another version may have a reason that this one does not know, and is read all the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use crate::HeliosClusterStatus;

/// The `type` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionType {
    Ready,
    Available,
    Progressing,
    Degraded,
    FaultToleranceReduced,
    NearLimit,
    /// Conditions of a HeliosCluster with spec.backup.
    Archiving,
    BackupHealthy,
    /// Condition of a HeliosScheduledBackup with spec.drill, and of the HeliosCluster that it backs up.
    RestoreVerified,
    /// Condition of a HeliosBackupStore.
    Encrypted,
    /// Condition of a HeliosClient.
    Granted,
}

/// The `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// The `reason` of a condition, and the phase, which is the reason that matters most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    // The cluster as a whole.
    Healthy,
    NotReady,
    InvalidSpec,
    Paused,
    Hibernating,
    Hibernated,
    Blocked,
    // Quorum and leader.
    QuorumHealthy,
    QuorumLost,
    NoQuorum,
    NoLeader,
    Unreachable,
    // Operations, and how they fail.
    Bootstrapping,
    AddingMember,
    RemovingMember,
    ReplacingMember,
    RollingUpdate,
    Resizing,
    MovingLeader,
    Recovering,
    ApplyingSettings,
    Applying,
    Settled,
    WaitingForUser,
    BootstrapFailed,
    LearnerStuck,
    UpgradeStalled,
    Stalled,
    // Members.
    AllMembersHealthy,
    MemberDown,
    EntryUnappliable,
    StateDamaged,
    // Volumes and memory.
    WithinLimits,
    VolumeNearLimit,
    MemoryNearLimit,
    // Fault tolerance.
    AsDesigned,
    EvenReplicas,
    FewerFailuresSurvivable,
    // Certificates, users and foreign objects.
    NotEncrypted,
    NoPassword,
    CertExpiring,
    CertificateInvalid,
    SecretsRefused,
    AuthInvalid,
    NameTaken,
    // Backups, as the archiver reports its state.
    Archiving,
    TakingBase,
    StoreRefused,
    StoreUnavailable,
    StoreFull,
    NoMember,
    Forked,
    WrongKey,
    Damaged,
    // Backups, as the operator finds them.
    BackupsComplete,
    NoBackup,
    BackupTooOld,
    ArchiveLag,
    ArchiveOff,
    ArchiverStarting,
    ArchiverUnreachable,
    StoreMissing,
    SecretMissing,
    BackupsRefused,
    // A restore that cannot be done, or has failed.
    RecoveryImpossible,
    RecoveryFailed,
    // Of a HeliosBackupStore and a HeliosScheduledBackup.
    NotUsed,
    KeyConfigured,
    NoKey,
    Scheduled,
    Suspended,
    InvalidSchedule,
    // Drills.
    DrillPassed,
    DrillFailed,
    NoDrill,
    // Of a HeliosClient.
    Granted,
    ClusterNotFound,
    ClusterNotReady,
    NamespaceNotAllowed,
    RoleNotAllowed,
    PrefixNotAllowed,
    AuthDisabled,
    UsersFull,
    UserActive,
    MembersNotUpdated,
    MembersTooOld,
}

macro_rules! text_is_the_name_of_the_variant {
    ($($name:ident),*) => {$(
        impl ::std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::serde::Serialize::serialize(self, formatter)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = ::serde::de::value::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                ::serde::Deserialize::deserialize(::serde::de::IntoDeserializer::into_deserializer(text))
            }
        }

        impl PartialEq<$name> for str {
            fn eq(&self, other: &$name) -> bool {
                self.parse() == Ok(*other)
            }
        }

        impl PartialEq<$name> for String {
            fn eq(&self, other: &$name) -> bool {
                self.as_str() == other
            }
        }
    )*};
}

pub(crate) use text_is_the_name_of_the_variant;

text_is_the_name_of_the_variant!(ConditionType, ConditionStatus, Reason);

impl HeliosClusterStatus {
    pub fn condition(&self, type_: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// The condition exists, and its status is `True`.
    pub fn is(&self, type_: ConditionType) -> bool {
        self.condition(type_).is_some_and(|condition| condition.status == ConditionStatus::True)
    }

    /// Absent when there is no such condition, or its reason is one of another version.
    pub fn reason(&self, type_: ConditionType) -> Option<Reason> {
        self.condition(type_)?.reason.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn name_on_the_wire_is_the_name_of_the_variant() {
        assert_eq!(ConditionType::FaultToleranceReduced.to_string(), "FaultToleranceReduced");
        assert_eq!(Reason::CertExpiring.to_string(), "CertExpiring");
        assert_eq!("CertExpiring".parse(), Ok(Reason::CertExpiring));
        assert!("certexpiring".parse::<Reason>().is_err());
    }

    #[test]
    fn status_of_another_version_is_readable_when_it_has_unknown_conditions() {
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({"type": type_, "status": status, "reason": reason, "message": "",
                   "lastTransitionTime": "2026-11-21T10:00:00Z"})
        };
        let conditions = [condition("Ready", "True", "Sparkling"), condition("Gilded", "Maybe", "Settled")];
        let text = json!({"phase": "Sparkling", "conditions": conditions}).to_string();
        let status: HeliosClusterStatus = serde_json::from_str(&text).expect("it is readable");
        assert!(status.is(ConditionType::Ready));
        assert_eq!(status.reason(ConditionType::Ready), None);
        assert_eq!(status.condition(ConditionType::Available), None);
        assert_eq!(status.conditions.len(), 2, "what is unknown is kept");
    }
}
