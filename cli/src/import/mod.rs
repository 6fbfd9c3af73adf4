//! `heliosctl import`: the data of Redis or Valkey into an empty cluster, from a file or from a running server.
//!
//! Commands are applied in order, in transactions each of which also moves a marker (`target`). A transaction of unknown
//! outcome is read back by the marker, so nothing is lost, reordered or applied twice.

mod args;
mod content;
mod cutover;
mod expiry;
mod live;
mod progress;
mod source;
mod spool;
mod stream;
mod target;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use helios_rdb::Summary;
use tokio::sync::mpsc;

pub use self::args::ImportArgs;
use self::content::{Batch, Choice, Converter, Survey};
use self::progress::{Progress, Report};
use self::target::Target;
use crate::args::Cli;
use crate::error::Error;
use crate::output::show;

/// Batches that are read ahead of the one that is applied.
const READ_AHEAD: usize = 2;

/// Runs the command.
///
/// # Errors
/// When the import ends without all data in the target.
pub async fn run(cli: &Cli, args: &ImportArgs) -> Result<u8, Error> {
    let target = Target::new(cli, args)?;
    let report = match &args.rdb {
        Some(path) => {
            let path = path.clone();
            let open =
                move || File::open(&path).map_err(|source| Error::Unreadable { path: path.clone(), source });
            from_file(args, target, open).await?
        }
        None => live::run(args, target).await?,
    };
    show(cli.output, &report, || report.text())?;
    Ok(0)
}

async fn from_file(
    args: &ImportArgs,
    mut target: Target,
    open: impl Fn() -> Result<File, Error> + Send + Clone + 'static,
) -> Result<Report, Error> {
    let started = Instant::now();
    target.check_empty().await?;
    let choice = Choice::new(args, now_ms());
    let survey = check(choice, open.clone()).await?;
    target.begin(&survey.largest).await?;
    let mut progress = Progress::new();
    let loaded = load(choice, &survey, open, &mut target, &mut progress).await;
    loaded.map_err(|error| target.interrupted(error))?;
    target.finish().await?;
    let mut report = Report::new(&survey, progress.keys, started.elapsed());
    report.retries = target.retries;
    Ok(report)
}

/// Reads the file, verifies its checksum and that all of it can be imported.
async fn check(
    choice: Choice,
    open: impl FnOnce() -> Result<File, Error> + Send + 'static,
) -> Result<Survey, Error> {
    let read = move || {
        let mut survey = Survey::new(choice);
        let summary =
            helios_rdb::read(open()?, &mut survey).map_err(|error| Error::Impossible(error.to_string()))?;
        if !summary.checksum {
            eprintln!("heliosctl: warning: the RDB file has no checksum (rdbchecksum no)");
        }
        survey.verdict().map_err(Error::Impossible)?;
        Ok(survey)
    };
    on_thread(read).await
}

/// Applies the keys of the file.
async fn load(
    choice: Choice,
    survey: &Survey,
    open: impl FnOnce() -> Result<File, Error> + Send + 'static,
    target: &mut Target,
    progress: &mut Progress,
) -> Result<(), Error> {
    let (sender, mut batches) = mpsc::channel::<Batch>(READ_AHEAD);
    let read_bytes = Arc::new(AtomicU64::new(0));
    let counted = read_bytes.clone();
    let reader = on_thread(move || {
        let source = Counted { source: open()?, bytes: counted };
        let mut converter = Converter::new(choice, sender);
        let read = helios_rdb::read(source, &mut converter);
        read.map_err(|error| Error::Impossible(error.to_string()))
    });
    let apply = async {
        while let Some(batch) = batches.recv().await {
            target.apply(&batch.units).await?;
            progress.keys += batch.keys;
            progress.loading(read_bytes.load(Ordering::Relaxed), survey.keys());
        }
        // Dropped here, so that a reader with more batches ends when one cannot be applied.
        drop(batches);
        Ok(())
    };
    // The error of the target comes first: that of the reader then only says that it was stopped.
    let (applied, read): (Result<(), Error>, Result<Summary, Error>) = tokio::join!(apply, reader);
    applied?;
    read?;
    Ok(())
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Impossible(format!("the reader of the file ended (bug): {error}"))),
    }
}

struct Counted<R> {
    source: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
