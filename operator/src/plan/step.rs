//! The parts of a plan that have names on the wire: steps, latched decisions, and what blocks an operation.

use std::time::Duration;

use helios_crds::{ChosenStatus, ReplacementStatus};

use super::SecretStep;

/// One effect. Repeating a step that took effect changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Secret(SecretStep),
    Initialize {
        ordinal: u32,
        cluster_id: String,
        disk_id: String,
    },
    /// Creates the Job that restores a backup into the blank node at `ordinal`, which makes it the first member.
    Restore {
        ordinal: u32,
        cluster_id: String,
        disk_id: String,
    },
    AddLearner {
        leader: u32,
        ordinal: u32,
        disk_id: String,
        membership: u64,
    },
    Promote {
        leader: u32,
        id: u64,
        max_lag: u64,
        membership: u64,
    },
    Remove {
        leader: u32,
        id: u64,
        membership: u64,
    },
    Transfer {
        leader: u32,
        target_id: u64,
        timeout: Duration,
    },
    /// Eviction by the API, so that it counts against the disruption budget like a drain.
    Evict {
        ordinal: u32,
        uid: String,
    },
    /// Deletion of a pod that serves no client, which a budget must not hold.
    DeletePod {
        ordinal: u32,
        uid: String,
    },
    /// Deletion without waiting for the host, which is known to have stopped the pod.
    ForceDeletePod {
        ordinal: u32,
        uid: String,
    },
    /// Deletion of a volume, then of the pod that holds it, so that a blank one replaces it. The contents are kept for the
    /// user when `keep` has a reason.
    Recycle {
        ordinal: u32,
        volume_uid: String,
        pod_uid: Option<String>,
        keep: Option<String>,
    },
    DeleteVolume {
        ordinal: u32,
        uid: String,
    },
    GrowVolume {
        ordinal: u32,
        uid: String,
        size: String,
    },
    /// Makes the member at `ordinal` the only one, in exactly the state that was observed.
    ForceNew {
        ordinal: u32,
        cluster_id: String,
        disk_id: String,
        last_term: u64,
        last_index: u64,
    },
}

impl Step {
    /// Machine-readable name, for events and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Secret(step) => step.name(),
            Self::Initialize { .. } => "Initialize",
            Self::Restore { .. } => "Restore",
            Self::AddLearner { .. } => "AddLearner",
            Self::Promote { .. } => "Promote",
            Self::Remove { .. } => "Remove",
            Self::Transfer { .. } => "TransferLeadership",
            Self::Evict { .. } => "Evict",
            Self::DeletePod { .. } => "DeletePod",
            Self::ForceDeletePod { .. } => "ForceDeletePod",
            Self::ForceNew { .. } => "ForceNew",
            Self::Recycle { .. } => "RecycleVolume",
            Self::DeleteVolume { .. } => "DeleteVolume",
            Self::GrowVolume { .. } => "GrowVolume",
        }
    }
}

/// A decision that must be in the status before anything follows from it.
#[derive(Debug, Clone, PartialEq)]
pub enum Latch {
    ClusterId(String),
    BootstrapDisk(String),
    Bootstrapped,
    /// The cluster exists already, on the volumes of an earlier HeliosCluster of this name.
    Adopted(String),
    /// A member that cannot recover, and its volume.
    Replacing(ReplacementStatus),
    Replaced,
    /// The survivor, and the volumes that are set aside before it becomes the only member.
    Recovering(ChosenStatus),
    Recovered(String),
    RecoveryAbandoned,
    RecoveryForgotten,
}

/// Why an operation cannot continue until a user acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocker {
    /// The disk that the cluster was bootstrapped on was lost before a second member had joined.
    BootstrapDiskLost,
    /// The volumes belong to more than one cluster.
    TwoClusters,
    /// A volume belongs to another cluster.
    ForeignVolume,
    /// A volume that may hold the data is beyond the replicas.
    EarlierVolume,
    /// The store of `spec.bootstrap.recovery`, or a Secret of it, does not exist.
    RecoveryStoreMissing,
    /// The backup does not have the target, or cannot be trusted. Nothing was restored.
    RecoveryImpossible,
    /// The Job of the restore has failed.
    RecoveryFailed,
    /// A majority of the disks is lost, and no survivor is confirmed.
    QuorumLost,
    /// `spec.recovery.confirm` is not the cluster's id.
    RecoveryNotConfirmed,
    /// `spec.recovery.survivor` is none of the survivors.
    SurvivorUnknown,
    /// The operator may not keep the contents of a volume that is to be replaced.
    VolumeNotKept,
}

impl Blocker {
    pub fn name(self) -> &'static str {
        match self {
            Self::BootstrapDiskLost => "BootstrapDiskLost",
            Self::TwoClusters => "TwoClusters",
            Self::ForeignVolume => "ForeignVolume",
            Self::EarlierVolume => "EarlierVolume",
            Self::RecoveryStoreMissing => "RecoveryStoreMissing",
            Self::RecoveryImpossible => "RecoveryImpossible",
            Self::RecoveryFailed => "RecoveryFailed",
            Self::QuorumLost => "QuorumLost",
            Self::RecoveryNotConfirmed => "RecoveryNotConfirmed",
            Self::SurvivorUnknown => "SurvivorUnknown",
            Self::VolumeNotKept => "VolumeNotKept",
        }
    }
}
