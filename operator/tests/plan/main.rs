//! The pure core against a world of its own: scenarios, random histories, every state of a model, and an
//! operator that dies after each of its effects. The invariants of `plan` are asserted in `world`.
#![allow(clippy::unwrap_used)]

mod as_it_began;
mod crash_points;
mod histories;
mod member_events;
mod model;
mod repairs;
mod scenarios;
mod settings;
mod world;
