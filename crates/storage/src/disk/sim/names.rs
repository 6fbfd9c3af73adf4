//! The names on a simulated disk: the directories that the running process sees, those on the
//! platter, and the journal of unsynced changes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use super::content::Content;
use crate::disk::{DirEntry, Kind};

pub type Id = u64;
pub const ROOT: Id = 0;

#[derive(Debug, Clone)]
enum Node {
    File(Content),
    Dir(Dir),
}

#[derive(Debug, Clone, Default)]
struct Dir {
    seen: BTreeMap<OsString, Id>,
    durable: BTreeMap<OsString, Id>,
}

/// The new target of a name; `None` removes the name.
#[derive(Debug, Clone)]
struct Change {
    dir: Id,
    name: OsString,
    target: Option<Id>,
}

#[derive(Debug, Clone)]
pub struct Tree {
    nodes: BTreeMap<Id, Node>,
    /// Unsynced operations, in order. The changes of one operation reach the disk together or not at all.
    journal: Vec<Vec<Change>>,
    next: Id,
}

impl Tree {
    pub fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]);
        Self { nodes, journal: Vec::new(), next: ROOT + 1 }
    }

    pub fn find(&self, path: &Path) -> io::Result<Id> {
        let mut id = ROOT;
        for name in names(path) {
            id = *self.dir(id)?.seen.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(id)
    }

    pub fn kind(&self, id: Id) -> Option<Kind> {
        self.nodes.get(&id).map(|node| match node {
            Node::File(_) => Kind::File,
            Node::Dir(_) => Kind::Dir,
        })
    }

    pub fn file(&self, id: Id) -> io::Result<&Content> {
        match self.nodes.get(&id) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub fn file_mut(&mut self, id: Id) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub fn create(&mut self, path: &Path) -> io::Result<Id> {
        if let Ok(id) = self.find(path) {
            self.file_mut(id)?.empty();
            return Ok(id);
        }
        self.add(path, Node::File(Content::default()))
    }

    pub fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::new();
        for name in names(path) {
            at.push(name);
            match self.find(&at) {
                Ok(id) => drop(self.dir(id)?),
                Err(_) => drop(self.add(&at, Node::Dir(Dir::default()))?),
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<Id> {
        let (dir, name) = self.parent_and_name(path)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.change(vec![Change { dir, name, target: Some(id) }])?;
        Ok(id)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.find(from)?;
        if let Ok(replaced) = self.find(to)
            && (self.kind(replaced) == Some(Kind::Dir) || self.kind(id) == Some(Kind::Dir))
        {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let (old_dir, old_name) = self.parent_and_name(from)?;
        let (dir, name) = self.parent_and_name(to)?;
        self.change(vec![
            Change { dir: old_dir, name: old_name, target: None },
            Change { dir, name, target: Some(id) },
        ])
    }

    pub fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.find(from)?;
        self.file(id)?;
        if self.find(to).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let (dir, name) = self.parent_and_name(to)?;
        self.change(vec![Change { dir, name, target: Some(id) }])
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(self.find(path)?)?;
        self.unlink(path)
    }

    /// Removes one name after the other, as `rm -r` does: a power cut may come in between.
    pub fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let inner = path.join(entry.name);
            match entry.kind {
                Kind::Dir => self.remove_dir_all(&inner)?,
                Kind::File => self.unlink(&inner)?,
            }
        }
        self.unlink(path)
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent_and_name(path)?;
        self.change(vec![Change { dir, name, target: None }])
    }

    pub fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir(self.find(path)?)?;
        let entry = |(name, id): (&OsString, &Id)| {
            let kind = self.kind(*id).ok_or(ErrorKind::NotFound)?;
            Ok(DirEntry { name: name.clone(), kind })
        };
        dir.seen.iter().map(entry).collect()
    }

    /// Makes every change in `path` durable. A rename between two directories also makes the earlier
    /// changes in the other directory durable.
    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let id = self.find(path)?;
        self.dir(id)?;
        let mut dirs = BTreeSet::from([id]);
        let mut chosen = Vec::new();
        for (position, operation) in self.journal.iter().enumerate().rev() {
            if operation.iter().any(|change| dirs.contains(&change.dir)) {
                dirs.extend(operation.iter().map(|change| change.dir));
                chosen.push(position);
            }
        }
        for position in chosen.iter().rev() {
            let operation = std::mem::take(&mut self.journal[*position]);
            self.write_durably(operation);
        }
        self.journal.retain(|operation| !operation.is_empty());
        Ok(())
    }

    /// Returns the number of operations that a power cut may undo.
    pub fn unsynced(&self) -> usize {
        self.journal.len()
    }

    /// Simulates a power cut at which the first `kept` operations of the journal had reached the disk.
    /// The caller changes the file contents, through [`Tree::files_mut`].
    pub fn crash(&mut self, kept: usize) {
        for operation in std::mem::take(&mut self.journal).into_iter().take(kept) {
            self.write_durably(operation);
        }
        for node in self.nodes.values_mut() {
            if let Node::Dir(dir) = node {
                dir.seen.clone_from(&dir.durable);
            }
        }
    }

    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut Content> {
        self.nodes.values_mut().filter_map(|node| match node {
            Node::File(content) => Some(content),
            Node::Dir(_) => None,
        })
    }

    /// Returns every file that has a name, in the order of the paths.
    pub fn walk(&self) -> Vec<(PathBuf, Id)> {
        let mut found = Vec::new();
        let mut dirs = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, id)) = dirs.pop() {
            let Ok(dir) = self.dir(id) else { continue };
            for (name, id) in &dir.seen {
                match self.kind(*id) {
                    Some(Kind::Dir) => dirs.push((path.join(name), *id)),
                    _ => found.push((path.join(name), *id)),
                }
            }
        }
        found.sort();
        found
    }

    /// Removes the nodes that have no name, neither visible nor durable nor in the journal, and are not in
    /// `open`.
    pub fn collect(&mut self, open: impl Iterator<Item = Id>) {
        let named = self.nodes.values().filter_map(|node| match node {
            Node::Dir(dir) => Some(dir.seen.values().chain(dir.durable.values())),
            Node::File(_) => None,
        });
        let journaled = self.journal.iter().flatten().filter_map(|change| change.target);
        let live: BTreeSet<Id> =
            named.flatten().copied().chain(journaled).chain(open).chain([ROOT]).collect();
        self.nodes.retain(|id, _| live.contains(id));
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn dir(&self, id: Id) -> io::Result<&Dir> {
        match self.nodes.get(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// Returns the directory of `path`, and its name there.
    fn parent_and_name(&self, path: &Path) -> io::Result<(Id, OsString)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let dir = self.find(path.parent().unwrap_or(Path::new("")))?;
        self.dir(dir)?;
        Ok((dir, name.to_owned()))
    }

    fn change(&mut self, operation: Vec<Change>) -> io::Result<()> {
        for Change { dir, name, target } in &operation {
            let Some(Node::Dir(dir)) = self.nodes.get_mut(dir) else {
                return Err(ErrorKind::NotADirectory.into());
            };
            set(&mut dir.seen, name.clone(), *target);
        }
        self.journal.push(operation);
        Ok(())
    }

    fn write_durably(&mut self, operation: Vec<Change>) {
        for Change { dir, name, target } in operation {
            if let Some(Node::Dir(dir)) = self.nodes.get_mut(&dir) {
                set(&mut dir.durable, name, target);
            }
        }
    }
}

fn set(names: &mut BTreeMap<OsString, Id>, name: OsString, target: Option<Id>) {
    match target {
        Some(id) => names.insert(name, id),
        None => names.remove(&name),
    };
}

/// Returns the components of `path`; a relative path starts at the root.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}
