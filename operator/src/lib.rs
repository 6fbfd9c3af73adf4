//! The operator of HeliosDB: it observes a cluster, decides one step, applies objects, takes the
//! step and reports.
//!
//! `validate`, `plan`, `build` and `report` are pure: they see values and return values. Effects
//! live in `observe`, `apply`, `execute` and `controller` alone.

pub mod apply;
pub mod build;
pub mod config;
pub mod controller;
pub mod error;
pub mod execute;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod plan;
pub mod report;
pub mod validate;
