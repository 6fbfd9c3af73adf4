//! An import from a running source: all keys first, then its commands, until the cut-over.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::args::ImportArgs;
use super::content::{BATCH_BYTES, BATCH_COMMANDS, Choice, Survey, Unit, Words, size};
use super::cutover::{Control, compare, ms_since};
use super::expiry::{self, Walk};
use super::progress::{CutOver, Progress, Report, note};
use super::source::{Position, Source};
use super::spool::{self, Reader};
use super::stream::{Filter, Step, decode};
use super::target::Target;
use super::{check, load, now_ms};
use crate::error::Error;

/// The target has caught up when it is not further behind than either.
const NEAR_BYTES: u64 = 64 << 10;
const NEAR: Duration = Duration::from_millis(50);
const SETTLE_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Part of the pause that is left to end it.
const RESERVE: u32 = 10;

/// # Errors
/// When the import ends without a complete target, other than by a signal.
pub async fn run(args: &ImportArgs, mut target: Target) -> Result<Report, Error> {
    let started = Instant::now();
    let source = Source::new(args.from.as_deref().unwrap_or_default(), args)?;
    target.check_empty().await?;
    let dir = match &args.spool_dir {
        Some(dir) => TempDir::with_prefix_in("heliosctl-import-", dir),
        None => TempDir::with_prefix("heliosctl-import-"),
    };
    let dir =
        dir.map_err(|error| Error::Impossible(format!("cannot create a directory for the spool: {error}")))?;
    let choice = Choice::new(args, now_ms());
    let control = Control::open(&source, choice.database()).await?;
    let mut progress = Progress::new();
    let mut stop = Box::pin(stopped());
    let copied = tokio::select! {
        copied = copy(args, &source, choice, &dir, &mut target, &mut progress) => copied,
        () = &mut stop => Err(Error::Impossible("interrupted".to_owned())),
    };
    let copied = match copied {
        Ok(copied) => copied,
        Err(error) => return Err(target.interrupted(error)),
    };
    let mut report = Report::new(&copied.survey, progress.keys, started.elapsed());
    note(&format!("all {} keys are copied; following the source", progress.keys));
    let filter = Filter::new(choice.database(), args.skip_unsupported, args.into_existing);
    let mut following = Following {
        args,
        target,
        control,
        progress,
        reader: copied.reader,
        start: copied.start,
        applied: copied.applied,
        filter,
        buffer: Vec::new(),
        used: 0,
        decoded: 0,
        has_caught_up: false,
        settling: Settling::Waiting { is_needed: copied.survey.expiring > 0 },
    };
    match following.run(stop).await {
        Ok(cut_over) => {
            report.cut_over = cut_over;
            report.commands = following.progress.commands;
            report.retries = following.target.retries;
            if following.filter.skipped > 0 {
                report.skipped.insert("command on streams or functions".to_owned(), following.filter.skipped);
            }
            Ok(report)
        }
        Err(error) => Err(following.target.interrupted(error)),
    }
}

struct Copied {
    survey: Survey,
    reader: Reader,
    start: Position,
    applied: Arc<AtomicU64>,
}

/// Receives all keys and applies them; the commands after them are received meanwhile.
async fn copy(
    args: &ImportArgs,
    source: &Source,
    choice: Choice,
    dir: &TempDir,
    target: &mut Target,
    progress: &mut Progress,
) -> Result<Copied, Error> {
    let path = dir.path().join("dump.rdb");
    let mut link = source.connect().await?;
    let start = link.full_sync().await?;
    link.receive(&path, progress).await?;
    let applied = Arc::new(AtomicU64::new(0));
    let (writer, reader) = spool::spool(dir.path());
    tokio::spawn(link.follow(start.clone(), writer, applied.clone()));
    let open = {
        let path = path.clone();
        move || File::open(&path).map_err(|source| Error::Unreadable { path: path.clone(), source })
    };
    let survey = check(choice, open.clone()).await?;
    if args.into_existing {
        note("the target may have keys; those of the same names are overwritten");
    }
    target.begin(&survey.largest).await?;
    load(choice, &survey, open, target, progress).await?;
    // The space is for the commands now; if it stays, it is removed with the directory.
    drop(std::fs::remove_file(&path));
    Ok(Copied { survey, reader, start, applied })
}

struct Following<'a> {
    args: &'a ImportArgs,
    target: Target,
    control: Control,
    progress: Progress,
    reader: Reader,
    /// Position before the first command.
    start: Position,
    /// Bytes of the stream that are applied.
    applied: Arc<AtomicU64>,
    filter: Filter,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are decoded.
    used: usize,
    /// Bytes of the stream that are decoded.
    decoded: u64,
    has_caught_up: bool,
    settling: Settling,
}

/// How far shifted expiries are taken back.
enum Settling {
    /// Until the target has caught up.
    Waiting { is_needed: bool },
    /// All keys of the target are walked.
    Walking(Walk),
    /// The keys that are still shifted are recorded; those since then are looked at again.
    Settled(Instant),
}

/// Commands that are applied together, and the position after them.
#[derive(Default)]
struct Ready {
    units: Vec<Unit>,
    commands: usize,
    bytes: usize,
    end: Option<u64>,
}

impl Following<'_> {
    /// Follows the source until the cut-over, or until a signal: then without a cut-over.
    async fn run(&mut self, mut stop: Pin<Box<impl Future<Output = ()>>>) -> Result<Option<CutOver>, Error> {
        let mut looked = Instant::now();
        loop {
            self.apply_ready().await?;
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if self.look().await? {
                    return self.cut_over().await.map(Some);
                }
            }
            self.settle().await?;
            let pause =
                if matches!(self.settling, Settling::Walking(_)) { Duration::ZERO } else { LOOK_EVERY };
            tokio::select! {
                ready = self.reader.wait() => ready?,
                () = tokio::time::sleep(pause) => {}
                () = &mut stop => {
                    self.apply_ready().await?;
                    let offset = self.applied_offset();
                    self.settle_all().await?;
                    self.target.finish().await?;
                    note(&format!("stopped after offset {offset} of the source, whose later writes are not copied"));
                    return Ok(None);
                }
            }
        }
    }

    fn applied_offset(&self) -> u64 {
        self.start.offset + self.applied.load(Ordering::Relaxed)
    }

    /// Applies one batch of what was received.
    async fn apply_ready(&mut self) -> Result<(), Error> {
        let mut ready = Ready::default();
        while ready.bytes < BATCH_BYTES && ready.commands < BATCH_COMMANDS {
            match decode(&self.buffer[self.used..]).map_err(Error::Impossible)? {
                Some((words, length)) => {
                    self.used += length;
                    self.take(words, length, &mut ready)?;
                }
                None if self.reader.has_more() => {
                    self.buffer.drain(..self.used);
                    self.used = 0;
                    self.reader.read(&mut self.buffer)?;
                }
                None => break,
            }
        }
        self.target.apply(&ready.units).await?;
        self.progress.commands += ready.commands as u64;
        if let Some(end) = ready.end {
            self.applied.store(end, Ordering::Relaxed);
        }
        Ok(())
    }

    fn take(&mut self, words: Words, length: usize, ready: &mut Ready) -> Result<(), Error> {
        let unix_ms = self.reader.arrival(self.decoded).map_or_else(now_ms, |arrival| arrival.unix_ms);
        self.decoded += length as u64;
        if let Step::Apply(commands) = self.filter.take(words, unix_ms).map_err(Error::Impossible)? {
            ready.bytes += commands.iter().map(size).sum::<usize>();
            ready.commands += commands.len();
            ready.units.push(commands);
        }
        if !self.filter.is_in_transaction() {
            ready.end = Some(self.decoded);
        }
        Ok(())
    }

    /// Takes back shifted expiries, a page of keys at a time.
    async fn settle(&mut self) -> Result<(), Error> {
        let least_ms = now_ms() + expiry::FOLLOWING_MS;
        match &mut self.settling {
            Settling::Waiting { is_needed } => {
                if self.has_caught_up {
                    let is_needed = *is_needed || self.filter.has_shifted();
                    self.filter.record_shifted();
                    self.settling = if is_needed {
                        Settling::Walking(Walk::default())
                    } else {
                        Settling::Settled(Instant::now())
                    };
                }
            }
            Settling::Walking(walk) => {
                let (kept, is_last) = walk.step(&mut self.target, least_ms).await?;
                self.filter.return_shifted(kept);
                if is_last {
                    self.settling = Settling::Settled(Instant::now());
                }
            }
            Settling::Settled(at) => {
                if at.elapsed() >= SETTLE_EVERY {
                    self.settling = Settling::Settled(Instant::now());
                    let names = self.filter.take_shifted();
                    let kept = expiry::settle(&mut self.target, names, least_ms).await?;
                    self.filter.return_shifted(kept);
                }
            }
        }
        Ok(())
    }

    /// Takes back all shifted expiries.
    async fn settle_all(&mut self) -> Result<(), Error> {
        while !matches!(self.settling, Settling::Settled(_)) {
            self.has_caught_up = true;
            self.settle().await?;
        }
        let names = self.filter.take_shifted();
        expiry::settle(&mut self.target, names, 0).await.map(drop)
    }

    /// Reports the lag; returns whether the cut-over is due.
    async fn look(&mut self) -> Result<bool, Error> {
        let is_due = self.progress.is_due();
        let wants_cut_over = self.args.cut_over || !self.has_caught_up;
        if !is_due && !wants_cut_over {
            return Ok(false);
        }
        let lag_bytes = self.control.offset().await?.saturating_sub(self.applied_offset());
        let applied = self.applied.load(Ordering::Relaxed);
        let lag = match self.reader.received() > applied {
            true => self.reader.arrival(applied).map_or(Duration::ZERO, |arrival| arrival.at.elapsed()),
            false => Duration::ZERO,
        };
        if is_due {
            self.progress.following(lag_bytes, lag);
        }
        let is_near = lag_bytes <= NEAR_BYTES || lag <= NEAR;
        if is_near && !self.has_caught_up {
            self.has_caught_up = true;
            note(&format!("the target has caught up: lag {lag_bytes} bytes, {:.1} s", lag.as_secs_f64()));
            if !self.args.cut_over {
                note(
                    "to cut over: stop the writers of the source, wait for lag 0, press Ctrl-C, and point the clients at the \
                     target; or start the import again with --replace --cut-over",
                );
            }
        }
        Ok(is_near && self.args.cut_over && matches!(self.settling, Settling::Settled(_)))
    }

    async fn cut_over(&mut self) -> Result<CutOver, Error> {
        let limit = self.args.max_pause;
        note(&format!("cut-over: pausing writes at the source for at most {} s", limit.as_secs_f64()));
        let begun = Instant::now();
        self.control.pause(limit).await?;
        let patience = limit - limit / RESERVE;
        let error = match tokio::time::timeout(patience, self.finish_paused(begun)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error,
            Err(_) => Error::Impossible(format!("not complete within {} s", patience.as_secs_f64())),
        };
        let ended = match self.control.unpause().await {
            Ok(()) => "its writes continue".to_owned(),
            Err(error) => format!("its writes continue after at most {} s ({error})", limit.as_secs_f64()),
        };
        Err(Error::Impossible(format!(
            "the cut-over failed: {error}; the source is still in charge, {ended}"
        )))
    }

    async fn finish_paused(&mut self, begun: Instant) -> Result<CutOver, Error> {
        let last = self.control.offset().await?;
        while self.applied_offset() < last {
            self.apply_ready().await?;
            if self.applied_offset() < last && !self.reader.has_more() {
                self.reader.wait().await?;
            }
        }
        self.settle_all().await?;
        let drain_ms = ms_since(begun);
        let compared =
            compare(&mut self.control, &mut self.target, self.args.sample, self.args.into_existing).await?;
        let compare_ms = ms_since(begun) - drain_ms;
        self.target.finish().await?;
        let paused_ms = ms_since(begun);
        let fenced = self.args.fence && self.fence().await;
        let next = if fenced {
            "the target is complete: point the clients at it; the source refuses writes (min-replicas-to-write)".to_owned()
        } else {
            let left = self.args.max_pause.saturating_sub(begun.elapsed());
            format!(
                "the target is complete: point the clients at it within {:.0} s, while the writes at the source are paused; \
                 later writes there are not copied",
                left.as_secs_f64()
            )
        };
        Ok(CutOver {
            paused_ms,
            drain_ms,
            compare_ms,
            source_keys: compared.source_keys,
            target_keys: compared.target_keys,
            compared_keys: compared.values,
            fenced,
            next,
        })
    }

    /// Makes the source refuse writes, then ends the pause; returns whether it does.
    async fn fence(&mut self) -> bool {
        let fenced = match self.control.fence().await {
            Ok(()) => self.control.unpause().await,
            Err(error) => Err(error),
        };
        if let Err(error) = &fenced {
            note(&format!("warning: --fence: {error}; the writes stay paused instead"));
        }
        fenced.is_ok()
    }
}

/// Returns at Ctrl-C or SIGTERM.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    drop(tokio::signal::ctrl_c().await);
}
