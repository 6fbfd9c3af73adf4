//! Runs heliosctl as a user does, against a real `heliosd dev`.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod backup;
mod backup_azure;
mod backup_compare;
mod backup_s3;
mod dev;
mod doctor;
mod endpoints;
mod import;
mod kustomize;
mod locks;
mod process;
mod site;
mod skip;
mod usage;
