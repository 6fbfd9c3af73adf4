//! The pure core against a simulated world: scenarios, random histories, every state of a model, and an
//! operator that crashes after each of its effects. The invariants of `plan` are asserted in `world`.
#![allow(clippy::unwrap_used)]

mod crash_points;
mod histories;
mod member_events;
mod model;
mod repairs;
mod restore;
mod scenarios;
mod secrets;
mod settings;
mod spec_in_force;
mod world;
