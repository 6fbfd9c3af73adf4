//! The operator of HeliosDB: it observes a cluster, decides one step, applies objects, takes the
//! step and reports.
//!
//! `validate`, `ownership`, `plan`, `build` and `report` are pure: they see values and return values. Effects
//! live in `observe`, `apply`, `execute`, `locks::keep`, `pass` and `controller` alone.

pub mod apply;
pub mod backoff;
pub mod build;
pub mod config;
pub mod controller;
pub mod error;
pub mod events;
pub mod execute;
pub mod http;
pub mod lease;
pub mod locks;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod ownership;
pub mod pace;
pub mod pass;
pub mod plan;
pub mod quiet;
pub mod report;
pub mod validate;
pub mod watches;
