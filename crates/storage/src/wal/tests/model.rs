//! Random operations on the log and on a vector as the model, with restarts and crashes in between.

use proptest::prelude::*;

use super::crash::{Coins, mixed};
use super::*;

#[derive(Debug, Clone)]
enum Action {
    /// Appends `count` entries that overlap the uncommitted end by at most `back` entries.
    Append {
        back: u64,
        count: u64,
        bytes: usize,
        commit: Option<u64>,
        crash: Option<u64>,
    },
    Vote(u64),
    Reset(u64),
    Purge(u64),
    PrepareSpare,
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let append = (0..6u64, 0..8u64, 0..700usize, any::<Option<u64>>(), any::<Option<u64>>())
        .prop_map(|(back, count, bytes, commit, crash)| Action::Append { back, count, bytes, commit, crash });
    prop_oneof![
        12 => append,
        2 => (1..4u64).prop_map(Action::Vote),
        1 => (0..50u64).prop_map(Action::Reset),
        3 => any::<u64>().prop_map(Action::Purge),
        1 => Just(Action::PrepareSpare),
        3 => Just(Action::Reopen),
    ]
}

struct World {
    dir: TempDir,
    wal: Option<Wal>,
    /// Content that the next open must recover.
    model: Content,
    term: u64,
}

impl World {
    fn new() -> Self {
        let dir = scratch();
        let wal = Some(open(dir.path()).0);
        Self { dir, wal, model: Content::default(), term: 1 }
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().unwrap()
    }

    fn last(&self) -> u64 {
        self.model.base.index + self.model.entries.len() as u64
    }

    fn commit(&self) -> u64 {
        self.model.hard_state.map_or(self.model.base.index, |state| state.commit)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Append { back, count, bytes, commit, crash } => {
                let batch = self.batch(back, count, bytes, commit);
                let old = self.model.clone();
                let before = Image::of(self.dir.path());
                self.update_model(&batch);
                self.wal().append(&[batch]).unwrap();
                if let Some(seed) = crash {
                    self.crash(&before, old, seed);
                }
            }
            Action::Vote(vote) => {
                self.term += 1;
                let hard_state = Some(hard_state(self.term, vote, self.commit()));
                self.model.hard_state = hard_state;
                self.wal().append(&[Batch { hard_state, ..Batch::default() }]).unwrap();
            }
            Action::Reset(ahead) => {
                let base = Base { index: self.last() + ahead, term: self.term };
                self.restart_at(base);
                self.wal().append(&[Batch { reset: Some(base), ..Batch::default() }]).unwrap();
            }
            Action::Purge(pick) => {
                let span = self.commit() - self.model.base.index + 1;
                let base = Base { index: self.model.base.index + pick % span, term: self.term };
                if base.index > self.model.base.index {
                    self.model.entries.retain(|entry| entry.index > base.index);
                    self.model.base = base;
                }
                self.wal().purge(base).unwrap();
            }
            Action::PrepareSpare => assert!(!self.wal().prepare_spare().unwrap()),
            Action::Reopen => self.reopen(),
        }
        let (first, last) = (self.model.base.index + 1, self.last());
        assert_eq!((self.wal().first_index(), self.wal().last_index()), (first, last));
        let read = self.wal().reader().read_all(first - 1, last).unwrap();
        assert_eq!(read, self.model.entries);
    }

    fn batch(&mut self, back: u64, count: u64, bytes: usize, commit: Option<u64>) -> Batch {
        self.term += back.min(1);
        let first = (self.last() + 1).saturating_sub(back).max(self.commit() + 1);
        let payload = |index: u64| vec![(index + self.term) as u8; bytes].into();
        let entries: Vec<_> = (first..first + count)
            .map(|index| LogEntry { index, term: self.term, payload: payload(index) })
            .collect();
        let last = entries.last().map_or(self.last(), |entry| entry.index);
        let span = last - self.commit() + 1;
        let hard_state = commit.map(|pick| hard_state(self.term, 1, self.commit() + pick % span));
        Batch { reset: None, entries, hard_state }
    }

    fn update_model(&mut self, batch: &Batch) {
        if let Some(first) = batch.entries.first() {
            self.model.entries.truncate((first.index - self.model.base.index - 1) as usize);
            self.model.entries.extend_from_slice(&batch.entries);
        }
        self.model.hard_state = batch.hard_state.or(self.model.hard_state);
    }

    fn restart_at(&mut self, base: Base) {
        let hard_state = self.model.hard_state.map(|state| HardState { commit: base.index, ..state });
        self.model = Content { base, hard_state, entries: Vec::new() };
    }

    /// Simulates a crash in which parts of the last append reached the disk. An append over several segments
    /// is only reopened.
    fn crash(&mut self, before: &Image, old: Content, seed: u64) {
        self.wal = None;
        let after = Image::of(self.dir.path());
        let active = after.segments().pop().unwrap();
        if before.segments() == after.segments() {
            let mut image = after;
            let torn = mixed(&before.0[&active], &image.0[&active], &mut Coins(seed));
            image.0.insert(active, torn);
            image.restore(self.dir.path());
            let (wal, found) = open(self.dir.path());
            assert!(found == old || found == self.model, "{found:?}");
            (self.wal, self.model) = (Some(wal), found);
        } else {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        self.wal = None;
        let (wal, found) = open(self.dir.path());
        assert_eq!(found, self.model);
        self.wal = Some(wal);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn log_equals_a_vector_across_restarts_and_crashes(actions in prop::collection::vec(action(), 1..60)) {
        let mut world = World::new();
        actions.into_iter().for_each(|action| world.act(action));
        world.reopen();
    }
}
