//! Logs of pods, including pods that are gone: Kubernetes deletes a pod's log with the pod.

use std::collections::{BTreeMap, VecDeque};
use std::io::BufRead;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kubectl::{Kubectl, Running};
use crate::pods::{PodWatch, has_started, name, uid};

/// Number of the latest lines kept of each pod.
const MAX_LINES: usize = 150;

/// Follows the logs of all pods of a namespace until dropped.
pub struct Logs {
    _watch: PodWatch,
    book: Arc<Book>,
}

struct Book {
    kubectl: Kubectl,
    /// Logs by pod name and UID.
    pages: Mutex<BTreeMap<(String, String), Page>>,
}

struct Page {
    lines: Arc<Mutex<VecDeque<String>>>,
    _follower: Running,
}

impl Logs {
    /// # Errors
    /// As [`PodWatch::start`].
    pub fn follow(kubectl: &Kubectl) -> anyhow::Result<Self> {
        let book = Arc::new(Book { kubectl: kubectl.clone(), pages: Mutex::default() });
        let reader = Arc::clone(&book);
        let watch = PodWatch::start_with(kubectl, "", move |pod| {
            if has_started(pod) {
                reader.open(name(pod), uid(pod));
            }
        })?;
        Ok(Self { _watch: watch, book })
    }
}

impl std::fmt::Display for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for ((name, uid), page) in self.book.lock().iter() {
            writeln!(f, "--- log of {name} ({uid})")?;
            for line in page.lines.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

impl Book {
    fn open(&self, name: String, uid: String) {
        let mut pages = self.lock();
        if pages.contains_key(&(name.clone(), uid.clone())) {
            return;
        }
        // A log that cannot be followed is missing from a diagnosis, which is no reason to fail the story.
        let Ok((follower, output)) = self.kubectl.spawn(&["logs", "--follow", &name]) else { return };
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let page = Page { lines: Arc::clone(&lines), _follower: follower };
        std::thread::spawn(move || keep(output, &lines));
        pages.insert((name, uid), page);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(output: impl BufRead, lines: &Mutex<VecDeque<String>>) {
    for line in output.lines().map_while(Result::ok) {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}
