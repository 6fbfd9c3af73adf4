//! The seam for this crate's seeded bugs. The code of the log calls these functions unconditionally; each does what its
//! first line says unless the [`SeededBug`] that it names is on, which it never is without the feature `simulation`.

use std::io;

use crate::seeded_bug::SeededBug;

/// Runs the sync of written frames. Seeded bug: [`SeededBug::LogNotSynced`].
pub fn sync_log(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if SeededBug::LogNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Runs the sync of the directory after a rename. Seeded bug: [`SeededBug::SegmentNameNotSynced`].
pub fn sync_name<E>(sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    if SeededBug::SegmentNameNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Runs the rewrite that erases an interrupted append. Seeded bug: [`SeededBug::TailNotErased`].
pub fn erase_tail<E>(erase: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    if SeededBug::TailNotErased.is_on() { Ok(()) } else { erase() }
}

/// Index through which segments may be recycled. Seeded bug: [`SeededBug::RecycledEarly`].
pub fn recycled_through(base: u64) -> u64 {
    if SeededBug::RecycledEarly.is_on() { base + 3 } else { base }
}

/// Whether an entry replaces an earlier one of the same index, and all after that. Seeded bug:
/// [`SeededBug::OldSuffixKept`].
pub fn replaces(is_overlap: bool) -> bool {
    is_overlap && !SeededBug::OldSuffixKept.is_on()
}

/// First index that has the term of the entry at `index`, which replaces those up to `last`: its own. Seeded bug:
/// [`SeededBug::OldTermsKept`].
pub fn first_of_term(index: u64, last: u64) -> u64 {
    if SeededBug::OldTermsKept.is_on() { index.max(last + 1) } else { index }
}

/// Seed of a frame's checksum. Seeded bug: [`SeededBug::StaleFramesAccepted`].
pub fn frame_seed(seed: u32) -> u32 {
    if SeededBug::StaleFramesAccepted.is_on() { 0 } else { seed }
}

/// Whether a bad frame is corruption and not a torn tail. Seeded bug: [`SeededBug::DamageCutOff`].
pub fn is_damage(was_durable: bool) -> bool {
    was_durable && !SeededBug::DamageCutOff.is_on()
}
