//! Watching of files that change while the node runs, by an editor or a new version of a ConfigMap or Secret.

use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// Watched files. The watches are on their directories, as editors and the kubelet replace files by a rename.
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    /// Events of inotify, read like a pipe; their content does not matter.
    events: pipe::Receiver,
    /// Content of each file at the last check.
    texts: Vec<Option<Vec<u8>>>,
}

impl WatchedFiles {
    /// Starts watching. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel cannot watch one of the directories.
    pub fn open(paths: Vec<PathBuf>) -> std::io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        for path in &paths {
            inotify::add_watch(&events, directory_of(path), WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO)?;
        }
        let texts = paths.iter().map(|path| std::fs::read(path).ok()).collect();
        let events = pipe::Receiver::from_owned_fd_unchecked(events)?;
        Ok(Self { paths, events, texts })
    }

    /// Resolves when the content of a file has changed. Cancel safe.
    pub async fn changed(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 4_096];
        loop {
            let _which = self.events.read(&mut buffer).await?;
            // Other files of the directory cause events, too, and a file may be rewritten with the same content.
            let mut changed = false;
            for (path, text) in self.paths.iter().zip(&mut self.texts) {
                let now = std::fs::read(path).ok();
                if now.is_some() && now != *text {
                    *text = now;
                    changed = true;
                }
            }
            if changed {
                return Ok(());
            }
        }
    }
}

/// Calls `reload` once, as the files may have changed since they were first read, and then whenever the content of one
/// of `paths` changes, until `stop`. `what`: the files' description for the log.
pub async fn follow(what: &str, paths: Vec<PathBuf>, stop: CancellationToken, mut reload: impl FnMut()) {
    let unnoticed = |error| tracing::warn!(%error, "changes of the {what} are not noticed");
    let mut watched = match WatchedFiles::open(paths) {
        Ok(watched) => watched,
        Err(error) => return unnoticed(error),
    };
    loop {
        reload();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = watched.changed() => if let Err(error) = changed {
                return unnoticed(error);
            }
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_and_renames_of_watched_files_are_noticed_and_other_files_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heliosd.yaml");
        std::fs::write(&path, "one").unwrap();
        let mut file = WatchedFiles::open(vec![path.clone()]).unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&path, "two").unwrap();
        file.changed().await.unwrap();
        assert_eq!(file.texts, [Some(b"two".to_vec())]);

        // The kubelet replaces a link to a directory by another.
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
        let mut files = WatchedFiles::open(vec![path, linked]).unwrap();
        link_to("v2");
        files.changed().await.unwrap();
        assert_eq!(files.texts, [Some(b"two".to_vec()), Some(b"v2".to_vec())]);
    }
}
