//! Reads the configuration again while the node runs: on a call, on SIGHUP, when its file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Change, Config, ConfigError, Difference, Settings, Source, differences, reloaded};
use crate::logging;
use crate::node::Node;

pub struct Reloader {
    node: Node,
    /// None in a program that embeds the node and made its settings itself.
    source: Option<Source>,
    /// One reload at a time.
    turn: Mutex<()>,
}

impl Reloader {
    pub fn new(node: Node, source: Option<Source>) -> Self {
        Self { node, source, turn: Mutex::default() }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What the node runs with, secrets included.
    pub fn running(&self) -> Config {
        self.node.settings().written.clone()
    }

    /// What is different in the configuration as it is now.
    ///
    /// # Errors
    /// When it cannot be read, or no node could start with it.
    pub fn pending(&self) -> Result<Vec<Difference>, ConfigError> {
        Ok(differences(&self.running(), &self.next()?))
    }

    /// Takes over what may change while the node runs; answers all that is different.
    ///
    /// # Errors
    /// As of `pending`, and when it changes what cannot be changed. Nothing is taken over then.
    pub fn reload(&self) -> Result<Vec<Difference>, ConfigError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (running, next) = (self.running(), self.next()?);
        let found = differences(&running, &next);
        let settings = Settings::try_from(reloaded(&running, &next)?)?;
        if settings.log_level != running.log.level {
            logging::set_level(&settings.log_level)?;
        }
        self.node.reconfigure(settings);
        for Difference { key, from, to, change } in &found {
            match change {
                Change::Reload => tracing::info!(%key, %from, %to, "configuration changed"),
                _ => tracing::warn!(%key, %from, %to, "configuration changed; needs a restart"),
            }
        }
        Ok(found)
    }

    /// Valid as a whole, so that the next start does not fail either.
    fn next(&self) -> Result<Config, ConfigError> {
        let source = self.source.as_ref().ok_or_else(|| {
            ConfigError(
                "this node was started without a configuration of its own: there is none to read".into(),
            )
        })?;
        let next = source.load()?;
        Settings::try_from(next.clone())?;
        Ok(next)
    }

    fn reload_and_tell(&self) {
        if let Err(error) = self.reload() {
            tracing::error!(%error, "configuration not taken over; the node goes on as it was");
        }
    }

    /// Reloads on SIGHUP and when the file changes, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(source) = &self.source else { return };
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let unnoticed = |error: &std::io::Error| tracing::warn!(%error, "changes of the configuration file are not noticed");
        let mut watched = source.file().and_then(|file| WatchedFile::open(&file).inspect_err(unnoticed).ok());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = hangup.recv() => {}
                () = changed(&mut watched) => {}
            }
            self.reload_and_tell();
        }
    }
}

async fn changed(watched: &mut Option<WatchedFile>) {
    let Some(file) = watched else { return std::future::pending().await };
    if let Err(error) = file.changed().await {
        tracing::warn!(%error, "changes of the configuration file are not noticed any more");
        *watched = None;
        std::future::pending().await
    }
}

/// A file, by what happens in its directory: editors and ConfigMaps replace it by a rename.
struct WatchedFile {
    path: PathBuf,
    /// Of the kernel. Read as a pipe would be; what they say does not matter.
    events: pipe::Receiver,
    text: Option<Vec<u8>>,
}

impl WatchedFile {
    fn open(path: &Path) -> std::io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&events, directory, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO)?;
        let text = std::fs::read(path).ok();
        let events = pipe::Receiver::from_owned_fd_unchecked(events)?;
        Ok(Self { path: path.to_owned(), events, text })
    }

    /// Resolves when the file holds something else. Cancel safe.
    async fn changed(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 4_096];
        loop {
            let _which = self.events.read(&mut buffer).await?;
            // Other files of the directory change, too, and a file may be written again as it was.
            let text = std::fs::read(&self.path).ok();
            if text.is_some() && text != self.text {
                self.text = text;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_changes_by_writing_and_by_renaming_and_its_neighbours_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heliosd.yaml");
        std::fs::write(&path, "one").unwrap();
        let mut file = WatchedFile::open(&path).unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&path, "two").unwrap();
        file.changed().await.unwrap();
        assert_eq!(file.text.as_deref(), Some(b"two".as_slice()));

        // As the kubelet does it: a link to a directory is replaced by another.
        for version in ["v1", "v2"] {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("linked.yaml"), version).unwrap();
        }
        let link_to = |version: &str| {
            let new = dir.path().join("new");
            std::os::unix::fs::symlink(version, &new).unwrap();
            std::fs::rename(new, dir.path().join("..data")).unwrap();
        };
        link_to("v1");
        let linked = dir.path().join("linked.yaml");
        std::os::unix::fs::symlink("..data/linked.yaml", &linked).unwrap();
        let mut file = WatchedFile::open(&linked).unwrap();
        link_to("v2");
        file.changed().await.unwrap();
        assert_eq!(file.text.as_deref(), Some(b"v2".as_slice()));
    }
}
