//! The operator of HeliosDB: it observes a cluster, plans one step, applies objects, executes the step and reports.
//!
//! `validate`, `ownership`, `security`, `plan`, `build`, `report` and `events` are pure: they take values and return
//! values. Effects are in `observe`, `apply`, `execute`, `reconcile` and `controller` alone.

pub mod apply;
pub mod backoff;
pub mod backups;
pub mod build;
pub mod clients;
pub mod config;
pub mod controller;
pub mod error;
pub mod events;
pub mod execute;
pub mod http;
pub mod idle_cache;
pub mod injection;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod ownership;
pub mod pace;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod security;
pub mod validate;
pub mod watches;
