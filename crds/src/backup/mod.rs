//! Backups: the resources HeliosBackupStore, HeliosBackup and HeliosScheduledBackup, and the fields of a HeliosCluster
//! that refer to them.

mod cluster;
mod drill;
mod once;
mod scheduled;
mod store;

pub use cluster::*;
pub use drill::*;
pub use once::*;
pub use scheduled::*;
pub use store::*;

/// Label on the HeliosBackups of a HeliosScheduledBackup; its value is the name of that one.
pub const SCHEDULED_BACKUP_LABEL: &str = "heliosdb.io/scheduled-backup";
/// Label on the HeliosCluster of a drill, with the name of the HeliosScheduledBackup, and on the pods of its members.
pub const DRILL_LABEL: &str = "heliosdb.io/drill";
