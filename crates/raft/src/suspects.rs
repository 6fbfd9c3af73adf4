//! Entries that ended the process while they were applied. The apply thread notes an entry in a file before it applies
//! it, so that the next start knows the entry and does not apply it a third time.
//!
//! The first note of an entry is written without a sync: an abort, an out-of-memory kill and a `kill -9` leave the page
//! cache intact. A power cut may lose the note, and then the entry is tried once more. The second note is synced.
//! The file names the boot of the machine in which it was written: a power cut is no end of the process at the entry.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut};

use crate::faults;
use helios_storage::disk::{Disk, DiskFile};

/// Number of process ends during an entry after which the entry is held.
pub const MAX_ATTEMPTS: u32 = 2;
/// Size of an encoded command from which on every entry is noted.
const NOTED_BYTES: usize = 64 << 10;
/// Number of steps of a transaction above which every entry is noted.
const NOTED_STEPS: usize = 256;
/// Limit of entries in the file. There is more than one only if several are skipped, or the process ends at different
/// ones.
const MAX_KNOWN: usize = 8;

const FILE: &str = "applying";
const MAGIC: &[u8; 8] = b"HELAPPLY";
/// Version 1 did not name the boot.
const VERSION: u32 = 2;
/// State of a record: the process was applying the entry.
const BEGUN: u8 = 1;
/// State of a record: an earlier process was applying the entry, or the entry is held.
const NOTED: u8 = 0;
const HEADER_LEN: usize = 24;
const RECORD_LEN: usize = 13;
/// Length of the file. It is always written as a whole and fits into one sector.
const FILE_LEN: usize = HEADER_LEN + MAX_KNOWN * RECORD_LEN + 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suspect {
    index: u64,
    attempts: u32,
}

/// Record of the entries that are dangerous to apply. Without a file it covers only the current process.
#[derive(Default)]
pub struct Suspects {
    file: Option<Box<dyn DiskFile>>,
    /// Id of the machine's boot ([`Disk::boot_id`]).
    boot: u64,
    /// Ascending by index.
    known: Vec<Suspect>,
    /// Index of the noted entry that is being applied.
    current: Option<u64>,
    /// Last entry that was in the log when the process started; each one up to it is noted.
    replay_through: u64,
    has_failed: bool,
}

impl Suspects {
    /// Reads the file in `dir`, or creates it. `replay_through` is the last index of the log.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, replay_through: u64) -> io::Result<Self> {
        let path = dir.join(FILE);
        let boot = disk.boot_id();
        let (file, known) = if disk.exists(&path) {
            let known = decode(&disk.read(&path)?, boot).unwrap_or_else(|| {
                tracing::warn!(path = %path.display(), "the record of entries being applied is corrupt; starting with an empty one");
                Vec::new()
            });
            (disk.open_to_write(&path)?, known)
        } else {
            let file = disk.create(&path)?;
            file.write_all_at(&encode(&[], None, boot), 0)?;
            file.sync_all()?;
            disk.sync_dir(dir)?;
            (file, Vec::new())
        };
        let mut suspects =
            Self { file: Some(file), boot, known, current: None, replay_through, has_failed: false };
        if suspects.known.iter().any(|suspect| suspect.attempts >= MAX_ATTEMPTS) {
            // Held from now on, also after a power cut.
            suspects.write(true);
        }
        Ok(suspects)
    }

    /// Whether an entry of `bytes` is noted regardless of its content. After a noted entry all others of its batch are
    /// noted, too; otherwise a process end at one of them would be attributed to the noted one.
    pub fn notes(&self, index: u64, bytes: usize) -> bool {
        index <= self.replay_through
            || bytes >= NOTED_BYTES
            || self.current.is_some()
            || self.attempts(index) > 0
    }

    /// Whether a transaction of `steps` steps is noted regardless of its size.
    pub fn notes_steps(steps: usize) -> bool {
        steps > NOTED_STEPS
    }

    /// Whether the entry is held, because the process ended [`MAX_ATTEMPTS`] times while it applied it.
    pub fn holds(&self, index: u64) -> bool {
        faults::is_held(self.attempts(index) >= MAX_ATTEMPTS)
    }

    fn attempts(&self, index: u64) -> u32 {
        self.known.iter().find(|suspect| suspect.index == index).map_or(0, |suspect| suspect.attempts)
    }

    /// Notes the entry that is about to be applied.
    pub fn begin(&mut self, index: u64) {
        let dropped = self.drop_current();
        let attempts = self.attempts(index).saturating_add(1);
        self.put(Suspect { index, attempts });
        self.current = Some(index);
        // The note of an entry that ended the process before is durable, and so is its removal: after a power cut the
        // note of an applied entry must not be there again.
        self.write(attempts > 1 || is_durable(dropped));
    }

    /// Removes the notes of entries up to `index`, which were applied or skipped.
    pub fn applied(&mut self, index: u64) {
        let dropped = self.drop_current();
        let count = self.known.len();
        // A held entry stays noted for later starts: it comes again if the state on disk is from before it.
        self.known.retain(|suspect| suspect.index > index || suspect.attempts >= MAX_ATTEMPTS);
        if dropped.is_some() || self.known.len() != count {
            self.write(is_durable(dropped));
        }
    }

    /// Notes an entry that is about to be skipped as held, durably: after a restart it may come before the entry that
    /// skips it is known to be committed, and must not be applied then.
    pub fn skip(&mut self, index: u64) {
        if !self.holds(index) {
            self.put(Suspect { index, attempts: MAX_ATTEMPTS });
        }
        self.write(true);
    }

    /// Removes the note of the current entry: the process ends for another reason.
    pub fn forgive(&mut self) {
        let dropped = self.drop_current();
        if dropped.is_some() {
            self.write(is_durable(dropped));
        }
    }

    /// Removes and returns the note of the current entry, which did not end the process.
    fn drop_current(&mut self) -> Option<Suspect> {
        let index = self.current.take()?;
        let at = self.known.iter().position(|suspect| suspect.index == index)?;
        Some(self.known.remove(at))
    }

    fn put(&mut self, suspect: Suspect) {
        self.known.retain(|known| known.index != suspect.index);
        if self.known.len() == MAX_KNOWN {
            self.known.remove(0);
        }
        self.known.push(suspect);
        self.known.sort_by_key(|known| known.index);
    }

    /// Writes the file. An error is only logged: log and state are on the same disk and report its failure.
    fn write(&mut self, durably: bool) {
        let Some(file) = &self.file else { return };
        let mut written = file.write_all_at(&encode(&self.known, self.current, self.boot), 0);
        if durably && written.is_ok() {
            written = file.sync_data();
        }
        if let Err(error) = written
            && !std::mem::replace(&mut self.has_failed, true)
        {
            tracing::warn!(%error, "the record of entries being applied cannot be written");
        }
    }
}

/// Whether the note of an entry was synced.
fn is_durable(note: Option<Suspect>) -> bool {
    note.is_some_and(|suspect| suspect.attempts > 1)
}

fn encode(known: &[Suspect], current: Option<u64>, boot: u64) -> Vec<u8> {
    let mut file = Vec::with_capacity(FILE_LEN);
    file.put_slice(MAGIC);
    file.put_u32(VERSION);
    file.put_u32(known.len() as u32);
    file.put_u64(boot);
    for suspect in known {
        file.put_u64(suspect.index);
        file.put_u32(suspect.attempts);
        file.put_u8(if current == Some(suspect.index) { BEGUN } else { NOTED });
    }
    file.resize(FILE_LEN - 4, 0);
    let crc = crc32c::crc32c(&file);
    file.put_u32(crc);
    file
}

/// Decodes the file at a start in the machine's boot `boot`; `None` if it is corrupt or of an unknown version.
fn decode(file: &[u8], boot: u64) -> Option<Vec<Suspect>> {
    let (content, mut crc) = file.split_at_checked(file.len().checked_sub(4)?)?;
    let mut body = content.strip_prefix(MAGIC)?;
    if body.len() < HEADER_LEN - MAGIC.len() || crc.get_u32() != crc32c::crc32c(content) {
        return None;
    }
    let (version, count) = (body.get_u32(), body.get_u32() as usize);
    let written_in = match version {
        1 => boot,
        VERSION => body.get_u64(),
        _ => return None,
    };
    if count > MAX_KNOWN || body.len() != MAX_KNOWN * RECORD_LEN {
        return None;
    }
    let record = |_| {
        let (index, attempts, state) = (body.get_u64(), body.get_u32(), body.get_u8());
        // The machine went down, not the process by this entry.
        let was_power_cut = state == BEGUN && written_in != boot;
        Suspect { index, attempts: attempts - u32::from(was_power_cut && attempts > 0) }
    };
    Some((0..count).map(record).filter(|suspect| suspect.attempts > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use helios_storage::disk::SimDisk;

    fn open(disk: &Arc<dyn Disk>) -> Suspects {
        Suspects::open(disk, Path::new("/state"), 100).unwrap()
    }

    fn disk() -> Arc<dyn Disk> {
        disk_with_power(1).1
    }

    /// Returns a disk whose power can be cut, twice: to cut it, and as [`Suspects`] takes it.
    fn disk_with_power(seed: u64) -> (SimDisk, Arc<dyn Disk>) {
        let disk = SimDisk::new(seed);
        disk.make_dir(Path::new("/state")).unwrap();
        let shared = Arc::new(disk.clone());
        (disk, shared)
    }

    #[test]
    fn an_entry_is_held_when_the_process_ended_at_it_twice() {
        let disk = disk();
        for _ in 0..MAX_ATTEMPTS {
            let mut process = open(&disk);
            assert!(!process.holds(7));
            // Earlier entries are applied again and do not remove its note.
            (5..=7).for_each(|index| process.begin(index));
        }
        for _ in 0..3 {
            let mut process = open(&disk);
            (5..7).for_each(|index| process.begin(index));
            process.applied(6);
            assert!(process.holds(7) && !process.holds(6) && !process.holds(8));
        }
    }

    #[test]
    fn an_entry_is_not_held_when_it_was_applied_or_the_process_ended_for_another_reason() {
        let disk = disk();
        for _ in 0..5 {
            let mut process = open(&disk);
            process.begin(7);
            process.begin(8);
            process.applied(8);
        }
        for _ in 0..5 {
            let mut process = open(&disk);
            process.begin(9);
            process.forgive();
        }
        let process = open(&disk);
        assert!(!process.holds(7) && !process.holds(8) && !process.holds(9));
    }

    #[test]
    fn a_second_note_survives_a_power_cut() {
        for seed in 0..20 {
            let (disk, shared) = disk_with_power(seed);
            open(&shared).begin(7);
            open(&shared).begin(7);
            assert!(open(&shared).holds(7), "seed {seed}");
            disk.crash();
            assert!(open(&shared).holds(7), "seed {seed}");
        }
    }

    #[test]
    fn power_cut_while_an_entry_is_applied_does_not_count() {
        for seed in 0..20 {
            let (disk, shared) = disk_with_power(seed);
            open(&shared).begin(7);
            for _ in 0..5 {
                // The process ended once at the entry; since then, only the power fails.
                let mut process = open(&shared);
                assert!(!process.holds(7), "seed {seed}");
                process.begin(7);
                disk.crash();
            }
            open(&shared).begin(7);
            open(&shared).begin(7);
            assert!(open(&shared).holds(7), "seed {seed}");
        }
    }

    #[test]
    fn file_of_version_1_is_read() {
        let mut file = MAGIC.to_vec();
        file.put_u32(1);
        file.put_u32(1);
        file.put_u64(7);
        file.put_u32(1);
        file.put_u8(BEGUN);
        file.resize(16 + MAX_KNOWN * RECORD_LEN, 0);
        file.put_u32(crc32c::crc32c(&file));
        assert_eq!(decode(&file, 5), Some(vec![Suspect { index: 7, attempts: 1 }]));
    }

    #[test]
    fn note_of_an_applied_entry_does_not_come_back_after_a_power_cut() {
        for seed in 0..20 {
            let (disk, shared) = disk_with_power(seed);
            open(&shared).begin(7);
            let mut process = open(&shared);
            process.begin(7);
            process.begin(8);
            disk.crash();
            assert!(!open(&shared).holds(7), "seed {seed}");
        }
    }

    #[test]
    fn an_attempt_is_forgotten_once_the_entry_is_applied() {
        let disk = disk();
        for _ in 0..3 {
            open(&disk).begin(7);
            let mut process = open(&disk);
            process.begin(7);
            process.applied(7);
        }
        assert!(!open(&disk).holds(7));
    }

    #[test]
    fn skipped_entries_stay_held_up_to_the_limit_of_the_file() {
        let disk = disk();
        let mut process = open(&disk);
        process.skip(50);
        process.applied(60);
        assert!(open(&disk).holds(50));
        (51..=50 + MAX_KNOWN as u64).for_each(|index| process.skip(index));
        let process = open(&disk);
        assert!(!process.holds(50) && process.holds(51) && process.holds(50 + MAX_KNOWN as u64));
    }

    #[test]
    fn replayed_large_and_long_entries_are_noted_and_others_are_not() {
        let suspects = open(&disk());
        assert!(
            suspects.notes(100, 1)
                && !suspects.notes(101, NOTED_BYTES - 1)
                && suspects.notes(101, NOTED_BYTES)
        );
        assert!(!Suspects::notes_steps(NOTED_STEPS) && Suspects::notes_steps(NOTED_STEPS + 1));
    }

    #[test]
    fn a_corrupt_file_holds_no_entry() {
        let whole = encode(&[Suspect { index: 7, attempts: 2 }], Some(7), 5);
        assert_eq!(decode(&whole, 5).unwrap().len(), 1);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, 5), None, "byte {at}");
        }
        assert_eq!(decode(&whole[1..], 5), None);
        assert_eq!(decode(&[], 5), None);
        let disk = disk();
        open(&disk).begin(7);
        disk.open_to_write(Path::new("/state/applying")).unwrap().write_all_at(b"x", 20).unwrap();
        assert!(!open(&disk).holds(7));
    }
}
