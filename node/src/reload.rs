//! Reload of the configuration while the node runs: on a call, on SIGHUP, and when its file changes.

use std::sync::{Arc, Mutex, PoisonError};

use helios_service::file_watch::WatchedFiles;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Change, Config, ConfigError, Difference, Settings, Source, differences, reloaded};
use crate::logging;
use crate::node::Node;

pub struct Reloader {
    node: Node,
    /// Sources of the configuration; `None` in an embedding application, which creates the settings itself.
    source: Option<Source>,
    /// Serializes reloads.
    turn: Mutex<()>,
}

impl Reloader {
    pub fn new(node: Node, source: Option<Source>) -> Self {
        Self { node, source, turn: Mutex::default() }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the configuration that the node runs with, secrets included.
    pub fn running(&self) -> Config {
        self.node.settings().written.clone()
    }

    /// Returns the differences between the current sources and the running configuration.
    ///
    /// # Errors
    /// The sources cannot be read, or no node could start with them.
    pub fn pending(&self) -> Result<Vec<Difference>, ConfigError> {
        Ok(differences(&self.running(), &self.next()?))
    }

    /// Applies the reloadable keys; returns all differences.
    ///
    /// # Errors
    /// Those of `pending`, and if a key differs that cannot change. Nothing is applied then.
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

    /// Loads the configuration and checks it as a whole, so that the next start does not fail either.
    fn next(&self) -> Result<Config, ConfigError> {
        let source = self.source.as_ref().ok_or_else(|| {
            ConfigError(
                "this node was started without configuration sources: there is nothing to reload".into(),
            )
        })?;
        let next = source.load()?;
        Settings::try_from(next.clone())?;
        Ok(next)
    }

    fn reload_and_log(&self) {
        if let Err(error) = self.reload() {
            tracing::error!(%error, "configuration not reloaded; the node keeps the current one");
        }
    }

    /// Reloads on SIGHUP and when the file changes, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let Some(source) = &self.source else { return };
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let unnoticed = |error: &std::io::Error| tracing::warn!(%error, "changes of the configuration file are not noticed");
        let mut watched =
            source.file().and_then(|file| WatchedFiles::open(vec![file]).inspect_err(unnoticed).ok());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = hangup.recv() => {}
                () = changed(&mut watched) => {}
            }
            self.reload_and_log();
        }
    }
}

async fn changed(watched: &mut Option<WatchedFiles>) {
    let Some(file) = watched else { return std::future::pending().await };
    if let Err(error) = file.changed().await {
        tracing::warn!(%error, "changes of the configuration file are no longer noticed");
        *watched = None;
        std::future::pending().await
    }
}
