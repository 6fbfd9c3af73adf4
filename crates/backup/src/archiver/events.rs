//! Events of the owner: ends of tasks, headers of bases, and chunks of the log.

use std::time::Instant;

use helios_archive::ArchiveError;
use helios_archive::base::Manifest;
use helios_proto::v1::{ArchivedEntry, BaseHeader, ErrorCode, LogChunk};

use super::retry::unless_stopped;
use super::run::Gap;
use super::tail::Written;
use super::view::{State, Work};
use super::work::Done;
use super::{AVOID_MS, Archiver, Event, SURVEY_MS, commit_index, reasons};
use crate::choose::{history_of, is_better_elsewhere};
use crate::members::{Answer, MemberError};
use crate::take::TakeError;
use crate::time::wall_ms;

impl Archiver {
    pub(super) async fn handle(&mut self, event: Event) {
        match event {
            Event::Timer => {}
            Event::Stop => self.is_stopping = true,
            Event::Header(header) => self.base_began(header),
            Event::Chunk(Ok(Some(chunk))) => self.received(chunk).await,
            Event::Chunk(Ok(None)) => self.leave_member("it ended the stream of the log"),
            Event::Chunk(Err(error)) => self.log_failed(&error),
            Event::Done(Ok(done)) => self.done(done).await,
            Event::Done(Err(error)) => {
                // A bug; the task is not known, so all kinds may run again.
                tracing::error!("a task of the archiver ended: {error}");
                self.busy = super::Busy::default();
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Surveyed(answers) => {
                self.busy.survey = false;
                self.surveyed(answers).await;
            }
            Done::Begun(begun) => {
                self.busy.begin = false;
                match (begun, &mut self.run) {
                    (Ok(begun), Some(run)) => {
                        run.begun(begun);
                        self.store_succeeded(Work::Begin);
                        self.shared.view().troubles.remove(&Work::Collection);
                    }
                    (Err(error), _) => self.store_failed(Work::Begin, &error),
                    (Ok(_), None) => {}
                }
            }
            Done::Opened(address, opened) => {
                let now = self.now();
                let Some(run) = &mut self.run else { return };
                run.is_opening = false;
                match opened {
                    Ok(stream) => {
                        tracing::info!(member = address, "reading the log");
                        run.heard_at = now;
                        run.stream = Some(stream);
                    }
                    Err(error) => self.log_failed(&error),
                }
            }
            Done::Based(address, taken) => {
                self.busy.base = false;
                self.based(&address, taken);
            }
            Done::Collected(collected) => {
                self.busy.store = false;
                match collected {
                    Ok((inventory, collected)) => {
                        let removed = collected.removed.len();
                        self.shared.metrics.removed_objects.inc_by(removed as u64);
                        tracing::info!(removed, pending = collected.pending, "garbage collection");
                        for (object, reason) in &collected.refused {
                            tracing::info!("{object} is not removed: {reason}");
                        }
                        self.shared.view().last_gc_ms = Some(wall_ms());
                        self.run.iter_mut().for_each(|run| run.replace_inventory(inventory.clone()));
                        self.shared.view().troubles.remove(&Work::Collection);
                    }
                    Err(error) => drop(self.record(Work::Collection, &error)),
                }
            }
            Done::Checked(checked) => {
                self.busy.store = false;
                self.checked(checked);
            }
        }
    }

    /// Begins again in the store if it lost what was written: then a base is missing, and one is taken.
    fn checked(&mut self, checked: Result<(), ArchiveError>) {
        match checked {
            Ok(()) => drop(self.shared.view().troubles.remove(&Work::Collection)),
            Err(error) => {
                let is_lost = matches!(error, ArchiveError::Missing { .. } | ArchiveError::Damaged { .. });
                self.record(Work::Collection, &error);
                if let Some(run) = self.run.as_mut().filter(|_| is_lost) {
                    run.has_begun = false;
                }
            }
        }
    }

    async fn surveyed(&mut self, answers: Vec<Answer>) {
        let now = self.now();
        self.surveyed_at = Some(now);
        self.survey_at = now + SURVEY_MS;
        self.answers = answers;
        let Some(history) = history_of(&self.answers) else {
            self.no_member(&reasons(&self.answers));
            self.survey_at = self.member_retry.at;
            return;
        };
        if self.run.as_ref().is_none_or(|run| *run.archive.history() != history) {
            self.switch_history(history).await;
        }
        let experience = self.experience();
        let Some(run) = &mut self.run else { return };
        if let Some(index) = commit_index(&self.answers, run) {
            self.shared.view().applied_index = index;
            self.shared.lag().applied(index, Instant::now());
        }
        let (Some(stream), Some(tail)) = (&run.stream, &run.tail) else { return };
        let (current, next) = (stream.address(), tail.next_index());
        if is_better_elsewhere(&self.answers, run.archive.history(), current, next, &experience) {
            tracing::info!(
                member = current,
                "the log is read from another member: this one is the leader or lags"
            );
            run.close_log();
        }
    }

    fn base_began(&mut self, header: BaseHeader) {
        let gap = self.run.as_mut().and_then(|run| run.base_began(header));
        self.gap_began(gap);
    }

    fn gap_began(&mut self, gap: Option<Gap>) {
        if let Some(Gap { from, to }) = gap {
            self.shared.metrics.gaps.inc();
            tracing::warn!(from, to, "the archived log has a gap; moments within it cannot be restored");
        }
    }

    fn based(&mut self, address: &str, taken: Result<Manifest, TakeError>) {
        let now = self.now();
        match taken {
            Ok(manifest) => {
                tracing::info!(index = manifest.index, bytes = manifest.bytes, "the base is complete");
                self.shared.metrics.bases.inc();
                self.shared.metrics.bytes.inc_by(manifest.stored_bytes);
                self.base_retry.succeeded();
                self.shared.view().troubles.remove(&Work::Base);
                self.run.iter_mut().for_each(|run| run.base_taken(&manifest));
            }
            Err(TakeError::Archive(error)) => {
                let state = self.record(Work::Base, &error);
                self.base_retry.failed(now, self.slow_retry(state));
            }
            Err(TakeError::Member(error)) => {
                tracing::warn!("no base: {error}");
                self.shared.metrics.failed("Member");
                self.avoid_until.insert(address.to_owned(), now + AVOID_MS);
                self.base_retry.failed(now, None);
                let trouble = (State::NoMember, error.to_string());
                if self.base_retry.failures > 1 {
                    self.shared.view().troubles.insert(Work::Base, trouble);
                }
            }
        }
    }

    async fn received(&mut self, chunk: LogChunk) {
        let now = self.now();
        self.member_retry.succeeded();
        let LogChunk { entries, applied_index, .. } = chunk;
        self.pace.used(entries.iter().map(entry_bytes).sum(), now);
        {
            let mut view = self.shared.view();
            view.troubles.remove(&Work::Members);
            view.applied_index = view.applied_index.max(applied_index);
        }
        self.shared.lag().applied(applied_index, Instant::now());
        let Some(run) = &mut self.run else { return };
        run.heard_at = now;
        let Some(tail) = &mut run.tail else { return };
        if let Err(reason) = tail.receive(entries) {
            self.leave_member(&reason);
            return;
        }
        let mut written = Vec::new();
        let fed = unless_stopped(tail.feed(now, &mut written), &self.stop, None).await;
        run.heard_at = self.start.elapsed().as_millis().try_into().unwrap_or(now);
        self.written(&written);
        match fed {
            Some(Err(error)) => self.store_failed(Work::Flush, &error),
            Some(Ok(())) if !written.is_empty() => self.store_succeeded(Work::Flush),
            Some(Ok(())) => {}
            None => self.is_stopping = true,
        }
    }

    pub(super) fn written(&mut self, written: &[Written]) {
        let Some(run) = &mut self.run else { return };
        let gap = run.written(written);
        self.shared.metrics.segments.inc_by(written.len() as u64);
        self.shared.metrics.bytes.inc_by(written.iter().map(|one| one.stored_bytes).sum());
        self.gap_began(gap);
    }

    fn log_failed(&mut self, error: &MemberError) {
        let Some(run) = &mut self.run else { return };
        run.close_log();
        let next = run.tail.as_ref().map(super::tail::Tail::next_index).unwrap_or_default();
        if error.code() == ErrorCode::LogPurged {
            tracing::warn!("{error}");
            self.purged.insert(error.address.clone(), next);
            return;
        }
        let now = self.now();
        self.avoid_until.insert(error.address.clone(), now + AVOID_MS);
        self.surveyed_at = None;
        self.no_member(&error.to_string());
    }

    /// Leaves the member that the log is read from.
    pub(super) fn leave_member(&mut self, reason: &str) {
        let Some(run) = &mut self.run else { return };
        let address = run.stream.as_ref().map(|stream| stream.address().to_owned()).unwrap_or_default();
        run.close_log();
        let now = self.now();
        self.avoid_until.insert(address.clone(), now + AVOID_MS);
        self.surveyed_at = None;
        self.no_member(&format!("{address}: {reason}"));
    }
}

fn entry_bytes(entry: &ArchivedEntry) -> u64 {
    entry.payload.len() as u64 + 32
}
