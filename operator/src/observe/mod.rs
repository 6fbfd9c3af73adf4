//! One observation of a cluster: its objects in Kubernetes, its Secrets, and the status of each member.

mod affinity;
pub mod archiver;
pub mod backup;
mod hosts;
pub mod job;
mod kube;
pub mod members;
mod owned;
pub mod secrets;
mod volumes;

use std::collections::BTreeMap;

use helios_crds::HeliosClusterStatus;
use helios_proto::v1::StatusResponse;
use jiff::Timestamp;

use crate::security::Security;

pub use self::affinity::Homes;
pub use self::backup::{BackupObjects, BackupSeen, DrillSeen, RestoreSeen, StoreProblem};
pub use self::hosts::{Host, Hosts, HostsByName, Seen, host_of};
pub use self::kube::{Observed, observe, pods};
pub use self::owned::{Owned, Slot, slot};
pub use self::volumes::bound_to;

/// The input of a plan. Absence means "not seen", never "gone".
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub now: Timestamp,
    pub created: Timestamp,
    pub generation: i64,
    /// Read from the API server in this reconcile, not from a cache: it holds latched decisions.
    pub status: HeliosClusterStatus,
    pub security: Security,
    pub workload: Option<Workload>,
    pub pods: BTreeMap<u32, Pod>,
    pub volumes: BTreeMap<u32, Volume>,
    /// Kubernetes' nodes by name; `None` where they may not be read.
    pub hosts: Option<HostsByName>,
    /// Nodes that answered, by ordinal.
    pub nodes: BTreeMap<u32, StatusResponse>,
    pub backup: BackupSeen,
}

/// The StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub replicas: u32,
    /// Revision of the present template; `None` until its controller has seen it.
    pub update_revision: Option<String>,
    /// Digest of the configuration that its pods are made for.
    pub config: Option<String>,
    /// Size in the claim template.
    pub volume_size: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    pub uid: String,
    pub revision: String,
    pub ip: Option<String>,
    pub ready: bool,
    /// The container's process runs, as far as its kubelet has reported.
    pub running: bool,
    pub terminating: bool,
    /// Kubernetes' node that it is bound to.
    pub host: Option<String>,
    pub failing: Option<Failure>,
    /// Reason why the process does not run, e.g. `ImagePullBackOff`.
    pub problem: Option<String>,
    pub role_label: Option<String>,
    pub reads_label: Option<String>,
    /// Not taken out of the client Services.
    pub in_service: bool,
}

/// Reason why the process keeps exiting since it was last ready; neither its configuration nor lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The process said so.
    Disk,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub uid: String,
    pub created: Timestamp,
    pub requested_bytes: u64,
    pub terminating: bool,
    pub backing: Backing,
}

impl Volume {
    pub fn is_stranded(&self) -> bool {
        matches!(self.backing, Backing::Bound { stranded: true })
    }
}

/// State of the PersistentVolume behind a claim. It is read only while the pod is not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    #[default]
    Unread,
    Forbidden,
    /// The claim has none yet, or it is gone.
    Unbound,
    /// `stranded`: it can be used only on hosts that have been gone for a minute.
    Bound {
        stranded: bool,
    },
    /// No host that exists can use it, but one may be back within a minute.
    Uncertain,
}
