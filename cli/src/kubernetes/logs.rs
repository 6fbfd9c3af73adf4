//! The logs of all members, merged into one text.

use std::pin::Pin;

use futures::io::AsyncBufReadExt;
use futures::stream::{self, Stream, StreamExt};
use kube::ResourceExt;
use kube::api::LogParams;

use super::find::{CONTAINER, Finder};
use crate::args::{LogsArgs, Which};
use crate::error::Error;

type Lines = Pin<Box<dyn Stream<Item = String> + Send>>;

/// Passes each line to `print`, prefixed with its member's name when there are several members.
///
/// # Errors
/// When there is no such member or cluster, and when none of the logs can be read.
pub async fn logs(
    finder: &Finder,
    args: &LogsArgs,
    mut print: impl FnMut(String) -> Result<(), Error>,
) -> Result<(), Error> {
    let names = members(finder, args.name.as_deref()).await?;
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut sources = Vec::new();
    let mut failures = Vec::new();
    for name in &names {
        let prefix = if names.len() > 1 { format!("{name:<width$} | ") } else { String::new() };
        match open(finder, args, name, prefix).await {
            Ok(lines) => sources.push(lines),
            Err(error) => failures.push(error),
        }
    }
    if sources.is_empty()
        && let Some(first) = failures.pop()
    {
        return Err(first);
    }
    failures.iter().for_each(|error| eprintln!("heliosctl: {error}"));
    // Takes one line of each member in turn; the lines of a member stay in order.
    let mut all = stream::select_all(sources);
    while let Some(line) = all.next().await {
        print(line)?;
    }
    Ok(())
}

async fn members(finder: &Finder, name: Option<&str>) -> Result<Vec<String>, Error> {
    let cluster = match name {
        Some(name) => match finder.named(name).await? {
            Some(cluster) => cluster,
            None => return finder.of_member(name).await.map(|_| vec![name.to_owned()]),
        },
        None => finder.one(&Which { cluster: None }).await?,
    };
    let mut names: Vec<_> =
        finder.pods_of(&cluster.name_any()).await?.iter().map(ResourceExt::name_any).collect();
    names.sort();
    match names.is_empty() {
        true => {
            Err(Error::Impossible(format!("{} has no pods; heliosctl status says why", cluster.name_any())))
        }
        false => Ok(names),
    }
}

async fn open(finder: &Finder, args: &LogsArgs, name: &str, prefix: String) -> Result<Lines, Error> {
    let params = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: args.follow,
        previous: args.previous,
        tail_lines: Some(args.tail.into()),
        ..LogParams::default()
    };
    let log = finder.pods().log_stream(name, &params).await.map_err(Error::kube("read the log of", name))?;
    let (follow, name) = (args.follow, name.to_owned());
    let lines = log.lines().map(move |line| match line {
        Ok(line) => format!("{prefix}{line}"),
        Err(error) => format!("{prefix}[heliosctl: the log broke off: {error}]"),
    });
    // With --follow, the end of a log means that the container has ended, which is reported.
    let ended = stream::iter(
        follow.then(|| format!("[heliosctl: the log of {name} has ended; its container was stopped]")),
    );
    Ok(Box::pin(lines.chain(ended)))
}
