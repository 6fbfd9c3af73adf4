//! Crashes during an append, during the change to a new segment and during a purge.

use super::*;

/// A small seeded generator (LCG) with the same results on every platform.
pub struct Coins(pub u64);

impl Coins {
    pub fn flip(&mut self) -> bool {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 63 == 1
    }
}

/// Returns `old` with a random choice of the 8-byte cells of `new`: what a disk may hold after an
/// interrupted write, at a finer grain than any disk's sectors.
pub fn mixed(old: &[u8], new: &[u8], coins: &mut Coins) -> Vec<u8> {
    let cells = old.chunks(8).zip(new.chunks(8));
    cells.flat_map(|(old, new)| if coins.flip() { new } else { old }).copied().collect()
}

/// An append that replaces a suffix of the log, with the active segment before and after it.
struct Overlap {
    dir: TempDir,
    segment: PathBuf,
    images: [Vec<u8>; 2],
    states: [Content; 2],
}

impl Overlap {
    fn new(prepare: impl Fn(&mut Wal)) -> Self {
        let dir = scratch();
        let (mut wal, _) = open(dir.path());
        prepare(&mut wal);
        let next = wal.last_index() + 1;
        let commit = Some(hard_state(1, 1, next + 1));
        wal.append(&[Batch { hard_state: commit, ..append(entries(next..next + 6, 1)) }]).unwrap();
        let segment = Image::of(dir.path()).segments().pop().unwrap();
        drop(wal);
        let before = (fs::read(&segment).unwrap(), read(dir.path()).unwrap());
        // The file is restored after the open, because opening erases the remnants that this tests.
        let (mut wal, _) = open(dir.path());
        fs::write(&segment, &before.0).unwrap();
        let vote = Some(hard_state(2, 3, next + 2));
        wal.append(&[Batch { hard_state: vote, ..append(entries(next + 3..next + 5, 2)) }]).unwrap();
        drop(wal);
        let after = (fs::read(&segment).unwrap(), read(dir.path()).unwrap());
        assert_eq!(after.1.entries.len() + 1, before.1.entries.len());
        Self { dir, segment, images: [before.0, after.0], states: [before.1, after.1] }
    }

    /// Asserts that the log holds the old suffix or the new one and accepts an append.
    fn check(&self, image: Vec<u8>, what: &str) {
        fs::write(&self.segment, image).unwrap();
        let (mut wal, found) = open(self.dir.path());
        assert!(self.states.contains(&found), "{what}: {found:?}");
        let next = wal.last_index() + 1;
        wal.append(&[append(entries([next], 7))]).unwrap();
        assert_eq!(reopen(wal).1.entries, [found.entries, entries([next], 7)].concat(), "{what}");
    }

    fn check_all(&self) {
        let [old, new] = &self.images;
        let changed = old.iter().zip(new).position(|(old, new)| old != new).unwrap();
        let unchanged = old.iter().zip(new).rposition(|(old, new)| old != new).unwrap() + 1;
        for at in changed..=unchanged {
            self.check([&new[..at], &old[at..]].concat(), &format!("the end from {at} on was lost"));
            self.check([&old[..at], &new[at..]].concat(), &format!("the part before {at} was lost"));
        }
        let mut coins = Coins(17);
        for round in 0..500 {
            self.check(mixed(old, new, &mut coins), &format!("round {round}"));
        }
    }
}

#[test]
fn an_interrupted_truncation_leaves_the_old_suffix_or_the_new_one() {
    Overlap::new(|_| {}).check_all();
}

#[test]
fn interrupted_truncation_in_a_recycled_segment_leaves_the_old_suffix_or_the_new_one() {
    Overlap::new(|wal| {
        for round in 0..4 {
            let next = wal.last_index() + 1;
            (next..next + 7).for_each(|index| wal.append(&[append(large([index], 1))]).unwrap());
            let index = wal.last_index() - u64::from(round == 3);
            wal.purge(Base { index, term: 1 }).unwrap();
        }
    })
    .check_all();
}

/// The first frame of a split append is durable before the next segment gets its name.
#[test]
fn a_crash_before_the_new_segment_is_named_keeps_a_prefix() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[append(large(1..=3, 1))]).unwrap();
    wal.append(&[append(large(4..=12, 1))]).unwrap();
    drop(wal);
    let mut image = Image::of(dir.path());
    let newest = image.segments().pop().unwrap();
    let bytes = image.0.remove(&newest).unwrap();
    image.0.insert(dir.path().join("00000000000000000007.spare"), bytes);
    image.restore(dir.path());
    let (mut wal, recovered) = open(dir.path());
    let kept = wal.last_index();
    assert!((3..12).contains(&kept));
    assert_eq!(recovered.entries, large(1..=kept, 1));
    // The spare contains frames of the generation that the next segment gets. They must not be read back.
    wal.append(&[append(entries(kept + 1..=kept + 2, 2))]).unwrap();
    wal.append(&[append(large(kept + 3..=20, 2))]).unwrap();
    let expected = [large(1..=kept, 1), entries(kept + 1..=kept + 2, 2), large(kept + 3..=20, 2)];
    assert_eq!(reopen(wal).1.entries, expected.concat());
}

#[test]
fn a_crash_anywhere_in_a_purge_keeps_the_log() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    wal.append(&[Batch { hard_state: Some(hard_state(4, 2, 0)), ..Batch::default() }]).unwrap();
    (1..=25).for_each(|index| wal.append(&[append(large([index], 4))]).unwrap());
    let before = Image::of(dir.path());
    let base = Base { index: 20, term: 4 };
    wal.purge(base).unwrap();
    drop(wal);
    let after = Image::of(dir.path());
    let hard_state = Some(hard_state(4, 2, 20));
    let expected = Content { base, hard_state, entries: large(21..=25, 4) };

    let (old, kept) = (before.segments(), after.segments());
    let removed = old.len() - kept.len();
    assert!(removed >= 2);
    for gone in 0..=removed {
        let mut image = after.clone();
        for path in &old[gone..removed] {
            image.0.insert(path.clone(), before.0[path].clone());
        }
        image.restore(dir.path());
        assert_eq!(open(dir.path()).1, expected);
        assert_eq!(Image::of(dir.path()).segments(), kept, "the purge is finished at the next start");
    }

    // The opposite order, which cannot happen: a segment is missing although no base covers it.
    let mut image = before.clone();
    image.0.remove(&old[0]);
    image.restore(dir.path());
    assert!(matches!(read(dir.path()), Err(WalError::Corrupt { .. })));
}

/// The reset goes to a lower index than the old segments hold, so that only the reset marks them as unused.
#[test]
fn a_crash_in_a_reset_finishes_it_at_the_next_start() {
    let dir = scratch();
    let (mut wal, _) = open(dir.path());
    (1..=25).for_each(|index| wal.append(&[append(large([index], 4))]).unwrap());
    let before = Image::of(dir.path());
    let base = Base { index: 5, term: 4 };
    wal.append(&[Batch { reset: Some(base), ..append(entries(6..=7, 5)) }]).unwrap();
    drop(wal);
    let mut image = Image::of(dir.path());
    let kept = image.segments();
    for path in before.segments() {
        image.0.entry(path.clone()).or_insert_with(|| before.0[&path].clone());
    }
    image.restore(dir.path());
    assert_eq!(open(dir.path()).1, Content { base, hard_state: None, entries: entries(6..=7, 5) });
    assert_eq!(Image::of(dir.path()).segments(), kept);
}
