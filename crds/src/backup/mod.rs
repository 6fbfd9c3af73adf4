//! Backups: the resources HeliosBackupStore, HeliosBackup and HeliosScheduledBackup, and the fields of a HeliosCluster
//! that refer to them.

mod cluster;
mod once;
mod scheduled;
mod store;

pub use cluster::*;
pub use once::*;
pub use scheduled::*;
pub use store::*;

/// Label on the HeliosBackups of a HeliosScheduledBackup; its value is the name of that one.
pub const SCHEDULED_BACKUP_LABEL: &str = "heliosdb.io/scheduled-backup";
