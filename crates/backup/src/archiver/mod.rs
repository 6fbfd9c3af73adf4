//! `heliosd archive`: the log of a cluster into the store as it is written, and a base now and then. One owner has the state;
//! [`mod@decide`] chooses what is next, and the owner does it.

pub mod decide;
mod events;
mod holds;
mod http;
mod metrics;
mod retry;
mod run;
mod settings;
mod tail;
mod view;
mod work;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use helios_archive::{Archive, ArchiveError, History, Keyring, Parent, Store};
use helios_proto::v1::{BaseHeader, LogChunk};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::decide::{Busy, Facts, Log, Step, decide};
use self::holds::Order;
use self::retry::{Retry, unless_stopped};
use self::run::Run;
pub use self::settings::{Limits, Settings};
use self::view::{Shared, State, Work};
use self::work::{Done, Names};
use crate::args::{ArchiveArgs, From};
use crate::choose::{Experience, LogChoice, for_base, for_log};
use crate::failure::reason_of;
use crate::members::{Answer, MemberError, Members};
use crate::pace::Pace;
use crate::time::{millis, wall_ms};
use crate::{Failure, choose};

/// A member sends a chunk every second.
const SILENCE_MS: u64 = 15_000;
const PUBLISH_MS: u64 = 100;
/// A member that becomes the leader is read for so long at most.
const SURVEY_MS: u64 = 2_000;
const AVOID_MS: u64 = 60_000;
const CHECK_MS: u64 = 60_000;
const FIRST_COLLECTION_MS: u64 = 60_000;
/// Two passes have to be an hour apart.
const COLLECTION_MS: u64 = 3_610_000;

/// Runs the archiver until `stop`.
///
/// # Errors
/// If it cannot start, or the last entries that it received could not be written.
pub async fn run(args: &ArchiveArgs, stop: CancellationToken) -> Result<(), Failure> {
    let (store, keyring) = args.store.open()?;
    let members = args.members.connect()?;
    let settings = Settings {
        name: args.name.clone(),
        namespace: args.namespace.clone(),
        flush_interval: args.flush_interval,
        retention: args.retention.rules(),
        max_bytes_per_second: args.max_bytes_per_second,
        base_interval: args.base_interval,
        limits: Limits::default(),
    };
    let bound = TcpListener::bind(args.listen).await;
    let listener = bound.map_err(|e| Failure::usage(format!("cannot listen on {}: {e}", args.listen)))?;
    let shared = Arc::new(Shared::new());
    let server = tokio::spawn(http::serve(listener, Arc::clone(&shared)));
    let ended = Archiver::new(settings, members, store, keyring, shared).run(stop).await;
    server.abort();
    ended
}

/// The owner of the state.
pub struct Archiver {
    settings: Settings,
    members: Members,
    store: Store,
    keyring: Keyring,
    shared: Arc<Shared>,
    start: Instant,
    run: Option<Run>,
    /// End of the history before.
    before: Option<Parent>,
    tasks: JoinSet<Done>,
    busy: Busy,
    /// Header of the last snapshot of the base that is being taken.
    header: watch::Receiver<Option<BaseHeader>>,
    stop: CancellationToken,
    holds: watch::Sender<Option<Order>>,
    answers: Vec<Answer>,
    surveyed_at: Option<u64>,
    survey_at: u64,
    collection_at: u64,
    check_at: u64,
    avoid_until: BTreeMap<String, u64>,
    purged: BTreeMap<String, u64>,
    store_retry: Retry,
    member_retry: Retry,
    base_retry: Retry,
    pace: Pace,
    published_at: u64,
    is_stopping: bool,
    last_flush_failed: bool,
}

enum Event {
    Stop,
    Done(Result<Done, JoinError>),
    Header(BaseHeader),
    Chunk(Result<Option<LogChunk>, MemberError>),
    Timer,
}

impl Archiver {
    pub fn new(
        settings: Settings,
        members: Members,
        store: Store,
        keyring: Keyring,
        shared: Arc<Shared>,
    ) -> Self {
        shared.view().is_encrypted = keyring.current().is_some();
        let pace = Pace::new(settings.max_bytes_per_second);
        Self {
            settings,
            members,
            store,
            keyring,
            shared,
            start: Instant::now(),
            run: None,
            before: None,
            tasks: JoinSet::new(),
            busy: Busy::default(),
            header: watch::Sender::new(None).subscribe(),
            stop: CancellationToken::new(),
            holds: watch::Sender::new(None),
            answers: Vec::new(),
            surveyed_at: None,
            survey_at: 0,
            collection_at: 0,
            check_at: 0,
            avoid_until: BTreeMap::new(),
            purged: BTreeMap::new(),
            store_retry: Retry::default(),
            member_retry: Retry::default(),
            base_retry: Retry::default(),
            pace,
            published_at: 0,
            is_stopping: false,
            last_flush_failed: false,
        }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// If the last entries that were received could not be written. They are in the members' logs, and the next archiver
    /// reads them.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        self.stop = stop;
        let holder = format!("archiver {}/{}", self.settings.namespace, self.settings.name);
        let holding = tokio::spawn(holds::hold(self.members.clone(), holder, self.holds.subscribe()));
        loop {
            let step = decide(&self.facts());
            tracing::trace!(?step, "next");
            match step {
                Step::Stop => break,
                Step::Survey => self.survey(),
                Step::Begin => self.begin(),
                Step::Flush => self.flush().await,
                Step::TakeBase => self.take_base(),
                Step::OpenLog => self.open_log(),
                Step::CloseLog => self.leave_member("it sent nothing for 15 seconds"),
                Step::Collect => self.collect(),
                Step::Check => self.check(),
                Step::Wait(until) => {
                    let event = self.wait(until).await;
                    let is_chunk = matches!(event, Event::Chunk(Ok(_)));
                    self.handle(event).await;
                    // A member sends thousands of chunks per second under load, and one in each second without any.
                    if is_chunk && self.now() < self.published_at + PUBLISH_MS {
                        continue;
                    }
                }
            }
            self.publish();
        }
        holding.abort();
        let waits = self.run.as_ref().and_then(|run| run.tail.as_ref()?.waiting_since());
        match waits {
            Some(_) if self.last_flush_failed => {
                let (_, message) = self.shared.view().state();
                Err(Failure::new("NotFlushed", format!("the last entries were not written: {message}")))
            }
            _ => Ok(()),
        }
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    fn facts(&self) -> Facts {
        let run = self.run.as_ref();
        let tail = run.and_then(|run| run.tail.as_ref());
        let log = match run {
            Some(run) if run.is_opening => Log::Opening,
            Some(run) if run.stream.is_some() => {
                let is_pulled = tail.is_some_and(|tail| !tail.is_full());
                Log::Open {
                    dead_at: if is_pulled {
                        run.heard_at.max(self.pace.next_at()) + SILENCE_MS
                    } else {
                        u64::MAX
                    },
                }
            }
            _ => Log::Closed,
        };
        let is_purged = run.is_some_and(|run| run.is_purged);
        Facts {
            now: self.now(),
            is_stopping: self.is_stopping,
            last_flush_failed: self.last_flush_failed,
            is_forked: run.is_some_and(|run| run.is_forked),
            has_history: run.is_some(),
            has_begun: run.is_some_and(|run| run.has_begun),
            has_position: tail.is_some() && !is_purged,
            log,
            waiting_since: tail.and_then(|tail| tail.waiting_since()),
            // Before a gap, the segment ends.
            is_full: is_purged || tail.is_some_and(|tail| tail.is_full()),
            flush_interval: millis(self.settings.flush_interval),
            base_at: self.base_at(),
            collection_at: self.collection_at,
            check_at: self.check_at,
            survey_at: self.survey_at,
            surveyed_at: self.surveyed_at,
            busy: self.busy,
            store_retry_at: self.store_retry.at,
            member_retry_at: self.member_retry.at,
            base_retry_at: self.base_retry.at,
        }
    }

    fn base_at(&self) -> Option<u64> {
        let run = self.run.as_ref()?;
        if run.needs_base {
            return Some(0);
        }
        let interval = millis(self.settings.base_interval);
        let finished = run.inventory.newest_base()?.finished_ms;
        let left = finished.saturating_add(interval).saturating_sub(wall_ms());
        (interval > 0).then(|| self.now().saturating_add(left))
    }

    fn experience(&self) -> Experience {
        let now = self.now();
        let avoid = self.avoid_until.iter().filter(|(_, until)| **until > now);
        Experience { avoid: avoid.map(|(address, _)| address.clone()).collect(), purged: self.purged.clone() }
    }

    async fn wait(&mut self, until: u64) -> Event {
        let now = self.now();
        let pull_at = self.pace.next_at();
        let run = self.run.as_mut().filter(|run| run.tail.as_ref().is_some_and(|tail| !tail.is_full()));
        let stream = run.and_then(|run| run.stream.as_mut()).filter(|_| pull_at <= now);
        let until = if pull_at > now { until.min(pull_at) } else { until };
        let until = self.start + Duration::from_millis(until.min(now + 3_600_000));
        let chunk = async {
            match stream {
                Some(stream) => stream.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled(), if !self.is_stopping => Event::Stop,
            Some(done) = self.tasks.join_next() => Event::Done(done),
            // Without its sender no base is being taken.
            Ok(()) = self.header.changed() => {
                let header = self.header.borrow_and_update().clone();
                header.map_or(Event::Timer, Event::Header)
            }
            chunk = chunk => Event::Chunk(chunk),
            () = sleep_until(until) => Event::Timer,
        }
    }

    fn survey(&mut self) {
        self.busy.survey = true;
        let members = self.members.clone();
        self.tasks.spawn(async move { Done::Surveyed(members.survey().await) });
    }

    fn begin(&mut self) {
        let Some(run) = &mut self.run else { return };
        self.busy.begin = true;
        run.listing_begins();
        let Settings { name, namespace, .. } = &self.settings;
        let names = Names { name: name.clone(), namespace: namespace.clone(), before: self.before.clone() };
        self.tasks.spawn(work::begin(run.archive.clone(), names));
    }

    async fn flush(&mut self) {
        let now = self.now();
        let Some(run) = &mut self.run else { return };
        let Some(tail) = &mut run.tail else { return };
        let mut written = Vec::new();
        let limit = self.is_stopping.then_some(self.settings.limits.last_write);
        let flushed = unless_stopped(tail.flush(now, &mut written), &self.stop, limit).await;
        // The member was not read meanwhile.
        run.heard_at = run.heard_at.max(millis(self.start.elapsed()));
        self.written(&written);
        match flushed {
            Some(Ok(())) => self.store_succeeded(Work::Flush),
            Some(Err(error)) => {
                self.last_flush_failed = self.is_stopping;
                self.store_failed(Work::Flush, &error);
            }
            None if self.is_stopping => {
                self.last_flush_failed = true;
                let trouble = (State::StoreUnavailable, "the store did not answer".to_owned());
                self.shared.view().troubles.insert(Work::Flush, trouble);
            }
            // It is repeated once.
            None => self.is_stopping = true,
        }
    }

    fn take_base(&mut self) {
        let Some(run) = &self.run else { return };
        let avoid = self.experience().avoid;
        let last = run.inventory.newest_base().map(|base| base.member.as_str());
        let chosen = for_base(&self.answers, run.archive.history(), From::Follower, &avoid, last);
        let Some(member) = chosen.and_then(|address| self.members.get(&address)).cloned() else {
            let now = self.now();
            self.base_retry.failed(now, None);
            return;
        };
        tracing::info!(member = member.address(), "taking a base");
        self.busy.base = true;
        let limit = self.settings.max_bytes_per_second;
        let headers = watch::Sender::new(None);
        self.header = headers.subscribe();
        self.tasks.spawn(work::base(run.archive.clone(), member, limit, headers));
    }

    fn open_log(&mut self) {
        let experience = self.experience();
        let Some(run) = &mut self.run else { return };
        let Some(next) = run.tail.as_ref().map(tail::Tail::next_index) else { return };
        match for_log(&self.answers, run.archive.history(), next, &experience) {
            LogChoice::Member(address) => {
                let Some(member) = self.members.get(&address).cloned() else { return };
                run.is_opening = true;
                self.tasks.spawn(work::open(member, run.archive.clone(), next));
            }
            LogChoice::Purged => {
                tracing::warn!(
                    next,
                    "no member has the next entry any more: a base is taken, and the log has a gap"
                );
                run.is_purged = true;
                run.needs_base = true;
                self.base_retry.succeeded();
            }
            LogChoice::Nobody => self.no_member("no member answers"),
        }
    }

    fn collect(&mut self) {
        self.collection_at = self.now() + COLLECTION_MS;
        let Some(run) = &mut self.run else { return };
        self.busy.store = true;
        run.listing_begins();
        let retention = self.settings.retention;
        self.tasks.spawn(work::collect(run.archive.clone(), run.inventory.clone(), retention, wall_ms()));
    }

    fn check(&mut self) {
        self.check_at = self.now() + CHECK_MS;
        let Some(run) = &self.run else { return };
        self.busy.store = true;
        let base = run.inventory.newest_base().map(|base| base.id);
        let segment = run.inventory.catalog.segments.keys().next_back().copied();
        self.tasks.spawn(work::check(run.archive.clone(), base, segment));
    }

    /// Begins with another history of the members.
    async fn switch_history(&mut self, history: History) {
        if let Some(run) = &self.run {
            tracing::warn!("the members have another history: {history} after {}", run.archive.history());
            self.flush().await;
            self.before = self.run.as_ref().and_then(Run::parent);
        }
        self.tasks = JoinSet::new();
        self.busy = Busy::default();
        self.header = watch::Sender::new(None).subscribe();
        self.purged.clear();
        let (now, archive) = (self.now(), Archive::new(self.store.clone(), history, self.keyring.clone()));
        self.run = Some(Run::new(archive));
        self.collection_at = now + FIRST_COLLECTION_MS;
        self.check_at = now + CHECK_MS;
        for retry in [&mut self.store_retry, &mut self.base_retry] {
            retry.succeeded();
        }
        self.shared.view().troubles.clear();
    }

    fn store_succeeded(&mut self, work: Work) {
        self.store_retry.succeeded();
        self.shared.view().troubles.remove(&work);
    }

    fn store_failed(&mut self, work: Work, error: &ArchiveError) {
        let now = self.now();
        let state = self.record(work, error);
        self.store_retry.failed(now, self.slow_retry(state));
    }

    /// Pause after an error with this state, if it is longer than others.
    fn slow_retry(&self, state: State) -> Option<Duration> {
        state.is_retried_slowly().then_some(self.settings.limits.slow_retry)
    }

    fn record(&mut self, work: Work, error: &ArchiveError) -> State {
        tracing::warn!(?work, "{error}");
        self.shared.metrics.failed(reason_of(error));
        let state = State::of(error);
        self.shared.view().troubles.insert(work, (state, error.to_string()));
        if let Some(run) = &mut self.run {
            run.failed(error);
        }
        state
    }

    fn no_member(&mut self, reason: &str) {
        let now = self.now();
        self.shared.metrics.failed("Member");
        self.member_retry.failed(now, None);
        // The first failure is a member that restarts, and the next one takes over.
        if self.member_retry.failures > 1 {
            tracing::warn!("no member can be read: {reason}");
            self.shared.view().troubles.insert(Work::Members, (State::NoMember, reason.to_owned()));
        }
    }

    fn publish(&mut self) {
        self.published_at = self.now();
        self.shared.beat();
        let Some(run) = &self.run else { return };
        self.shared.lag().archived(run.archived());
        let mut view = self.shared.view();
        view.cluster_id = run.archive.history().cluster_id().to_owned();
        view.incarnation = run.archive.history().incarnation();
        view.member = run.stream.as_ref().map(|stream| stream.address().to_owned()).unwrap_or_default();
        view.is_taking_base = self.busy.base || run.needs_base;
        view.archived_index = run.archived();
        view.archived_now_ms = run.archived_clock();
        view.last_base = run.inventory.newest_base().map(|base| base.document());
        view.last_verified_restore = run.inventory.verified_document();
        view.gaps.clone_from(&run.gaps);
        view.recoverable.clone_from(&run.ranges);
        drop(view);
        self.hold();
    }
}

fn reasons(answers: &[Answer]) -> String {
    let failed = answers.iter().filter_map(|answer| answer.status.as_ref().err());
    let reasons = failed.cloned().collect::<Vec<_>>().join("; ");
    if reasons.is_empty() { "no member belongs to a cluster".to_owned() } else { reasons }
}

/// The commit index that the members report, for the lag.
fn commit_index(answers: &[Answer], run: &Run) -> Option<u64> {
    choose::commit_index(answers, run.archive.history())
}
