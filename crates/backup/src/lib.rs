//! The programs over the archive (`helios-archive`): the archiver, which runs beside the members of a cluster, and backups and
//! restores by command. `heliosd archive`, `heliosd backup` and `heliosctl backup` are these.
//!
//! Pure: [`choose`] (which member is read), [`archiver::decide`] (what the archiver does next), [`select`] (which history is
//! meant). Effects: [`members`] (calls of the members), [`take`] (a base from a member into the store), [`archiver`],
//! [`commands`], [`restore`].

pub mod archiver;
pub mod args;
pub mod choose;
pub mod commands;
pub mod documents;
mod failure;
mod inventory;
pub mod members;
mod pace;
pub mod program;
pub mod restore;
mod schedule;
mod select;
mod take;
#[cfg(test)]
mod testing;
mod time;

pub use failure::Failure;
